"""Bandwidth of buffers and of images."""

from __future__ import annotations

import math

import numpy as np
import tvm

from ..errors import DeviceError
from ..runtime import DeviceInfo
from .device import PLANE, ConnectionLost, Kernel, ProbedDevice
from .timing import Figure, figure, time_kernel

MOST_BYTES = 256 << 20  # of all memory that a measurement takes at a time
_FEWEST_BYTES = 1 << 20
_VECTORS = (4, 16)
_WINDOW = 8
_SIDE = 256  # texels of the window image: 1 MiB of float32
_PER_ITEM = 16

_COPY = """
__kernel void fill(__global float* target) {
  target[get_global_id(0)] = (float)(get_global_id(0) & 1023);
}
__kernel void copy(__global const float4* restrict source, __global float4* restrict target) {
  target[get_global_id(0)] = source[get_global_id(0)];
}
__kernel void copy16(__global const float16* restrict source, __global float16* restrict target) {
  target[get_global_id(0)] = source[get_global_id(0)];
}
"""
_IMAGES = """
__constant sampler_t at = CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_CLAMP | CLK_FILTER_NEAREST;
__kernel void fill(__write_only image2d_array_t target) {
  int x = get_global_id(0), y = get_global_id(1);
  write_imagef(target, (int4)(x, y, 0, 0), (float4)(x & 15, y & 15, 1.0f, 2.0f));
}
__kernel void window(__read_only image2d_array_t source, __global float4* target) {
  int x = get_global_id(0), y = get_global_id(1);
  float4 sum = 0.0f;
  for (int v = 0; v < WINDOW; ++v)
    for (int u = 0; u < WINDOW; ++u)
      sum += read_imagef(source, at, (int4)((x + u) & (SIDE - 1), (y + v) & (SIDE - 1), 0, 0));
  target[y * SIDE + x] = sum;
}
__kernel void buffer_window(__global const float4* restrict source, __global float4* target) {
  int x = get_global_id(0), y = get_global_id(1);
  float4 sum = 0.0f;
  for (int v = 0; v < WINDOW; ++v)
    for (int u = 0; u < WINDOW; ++u)
      sum += source[((y + v) & (SIDE - 1)) * SIDE + ((x + u) & (SIDE - 1))];
  target[y * SIDE + x] = sum;
}
__kernel void stream(__read_only image2d_array_t source, __global float4* target) {
  int x = get_global_id(0), y = get_global_id(1);
  float4 sum = 0.0f;
  for (int v = 0; v < PER_ITEM; ++v)
    sum += read_imagef(source, at, (int4)(x, y * PER_ITEM + v, 0, 0));
  target[y * get_global_size(0) + x] = sum;
}
"""


def copy_bandwidth(probed: ProbedDevice, *, limit_s: float = 1.0) -> Figure:
    """Bandwidth in GB/s (bytes read plus written) of the better of two copy kernels.

    Two buffers that are much larger than any cache, 256 MiB together where the device gives them.

    Raises
    ------
    DeviceError
        If there is no memory, or the copy is not the source.
    """
    kernels = {
        "fill": Kernel(("handle",)),
        "copy": Kernel(("handle", "handle")),
        "copy16": Kernel(("handle", "handle")),
    }
    module = probed.load(_COPY, kernels)
    group = probed.group
    names = {"copy": _VECTORS[0], "copy16": _VECTORS[1]}
    for name, width in names.items():
        _check_copy(probed, module, name, width)
    source, target, count = _two_buffers(probed)
    # What was never written may be one page of zeros, over and over.
    for buffer in (source, target):
        probed.launch(module, "fill", buffer, count // group, group)
    found = []
    for name, width in names.items():
        arguments = (source, target, count // width // group, group)
        samples = time_kernel(probed, module, name, arguments, limit_s=limit_s / len(names))
        how = f"copy of {count * 4 >> 20} MiB by vectors of {width} floats"
        found.append(figure("global_gbps", samples, "GB/s", how, lambda s: 8 * count / s / 1e9))
    return max(found, key=lambda one: one.value)


def texture_bandwidth(probed: ProbedDevice, dtype: str, *, limit_s: float = 0.6) -> Figure:
    """Bandwidth in GB/s of image reads that overlap: 8 × 8 texels around each of 256 × 256.

    The rate of the texture unit with the help of its caches: what the built-in profiles call the
    bandwidth of textures.

    Parameters
    ----------
    dtype : str
        ``float32`` (texels of 16 bytes) or ``float16`` (of 8).
    """
    module = _images(probed)
    image = probed.empty((_SIDE, _SIDE, 4), dtype, "global.texture")
    rows = probed.empty((_SIDE, _SIDE, 4))
    extents = _plane(probed, _SIDE, _SIDE)
    probed.launch(module, "fill", image, *extents)
    probed.launch(module, "window", image, rows, *extents)
    _check_window(probed.download(rows), "image")
    samples = time_kernel(probed, module, "window", (image, rows, *extents), limit_s=limit_s)
    texel = 16 if dtype == "float32" else 8
    count = _SIDE * _SIDE * (_WINDOW * _WINDOW * texel + 16)
    how = f"overlapping reads of {texel}-byte texels"
    return figure("texture_gbps", samples, "GB/s", how, lambda s: count / s / 1e9)


def buffer_window_bandwidth(probed: ProbedDevice, *, limit_s: float = 0.6) -> Figure:
    """Bandwidth in GB/s of the same overlapping reads, of a buffer of float4."""
    module = _images(probed)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    values = np.stack([x & 15, y & 15, np.ones_like(x), 2 * np.ones_like(x)], axis=-1)
    source = probed.upload(values.astype("float32"))
    rows = probed.empty((_SIDE, _SIDE, 4))
    extents = _plane(probed, _SIDE, _SIDE)
    probed.launch(module, "buffer_window", source, rows, *extents)
    _check_window(probed.download(rows), "buffer")
    samples = time_kernel(
        probed, module, "buffer_window", (source, rows, *extents), limit_s=limit_s
    )
    count = _SIDE * _SIDE * (_WINDOW * _WINDOW + 1) * 16
    how = "the same reads of a buffer"
    return figure("buffer_window_gbps", samples, "GB/s", how, lambda s: count / s / 1e9)


def texture_stream_bandwidth(
    probed: ProbedDevice, info: DeviceInfo, *, limit_s: float = 0.6
) -> Figure:
    """Bandwidth in GB/s of image reads that meet each texel of a large image once."""
    module = _images(probed)
    width = 1 << int(math.log2(min(2048, info.image2d_max_width)))
    bound = min(MOST_BYTES // 4, info.max_allocation, info.global_memory // 8)
    rows = min(info.image2d_max_height, bound // (16 * width))
    rows = 1 << int(math.log2(max(rows, _PER_ITEM * 8)))
    image = probed.empty((rows, width, 4), "float32", "global.texture")
    target = probed.empty((rows // _PER_ITEM, width, 4))
    probed.launch(module, "fill", image, *_plane(probed, width, rows))
    extents = _plane(probed, width, rows // _PER_ITEM)
    samples = time_kernel(probed, module, "stream", (image, target, *extents), limit_s=limit_s)
    count = rows * width * 16 + rows * width * 16 // _PER_ITEM
    how = f"reads of an image of {width} × {rows} texels, each once"
    return figure("texture_stream_gbps", samples, "GB/s", how, lambda s: count / s / 1e9)


def _images(probed: ProbedDevice) -> tvm.runtime.Module:
    source = _IMAGES
    for name, value in (("WINDOW", _WINDOW), ("SIDE", _SIDE), ("PER_ITEM", _PER_ITEM)):
        source = source.replace(name, str(value))
    kernels = {
        "fill": Kernel(("handle",), PLANE),
        "window": Kernel(("handle", "handle"), PLANE),
        "buffer_window": Kernel(("handle", "handle"), PLANE),
        "stream": Kernel(("handle", "handle"), PLANE),
    }
    return probed.load(source, kernels)


def _plane(probed: ProbedDevice, width: int, height: int) -> tuple[int, int, int, int]:
    """Groups and work-items along x and y of one work-item for each texel."""
    side = 1 << (int(math.log2(probed.group)) // 2)
    return width // side, height // side, side, side


def _two_buffers(
    probed: ProbedDevice,
) -> tuple[tvm.runtime.Tensor, tvm.runtime.Tensor, int]:
    """Two buffers of the same size, as large as there is memory, and their count of float32."""
    info = probed.info
    size = MOST_BYTES // 2
    if info is not None:
        size = min(size, info.max_allocation, info.global_memory // 8)
    size = 1 << int(math.log2(max(size, _FEWEST_BYTES)))
    while True:
        try:
            source, target = (probed.empty((size // 4,)) for _ in range(2))
            return source, target, size // 4
        except ConnectionLost:
            raise
        except DeviceError:
            # Reported limits promise what a busy device does not have.
            if size <= _FEWEST_BYTES:
                raise
            size //= 2


def _check_copy(probed: ProbedDevice, module: tvm.runtime.Module, name: str, width: int) -> None:
    count = 16 * probed.group * width
    values = np.arange(count, dtype="float32")
    source, target = probed.upload(values), probed.empty((count,))
    probed.launch(module, name, source, target, count // width // probed.group, probed.group)
    if not np.array_equal(probed.download(target), values):
        raise DeviceError(
            f"a copy by vectors of {width} floats differs from its source: the driver or its "
            "compiler is wrong. Look for a newer driver."
        )


def _check_window(rows: np.ndarray, what: str) -> None:
    along = np.array([sum((i + u) & 15 for u in range(_WINDOW)) for i in range(_SIDE)])
    expected = np.empty((_SIDE, _SIDE, 4))
    expected[..., 0] = _WINDOW * along[None, :]
    expected[..., 1] = _WINDOW * along[:, None]
    expected[..., 2:] = (_WINDOW**2, 2 * _WINDOW**2)
    if not np.array_equal(rows, expected):
        raise DeviceError(
            f"sums of texels read from an {what} are wrong: the driver's images cannot be used. "
            "Look for a newer driver."
        )
