"""The steps of a check that run kernels, and those that measure."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tvm

from ..devices import profile_for, profile_from_device
from ..errors import DeviceError, SmartMemError
from ..probing import compiled
from ..probing.bandwidth import copy_bandwidth, texture_bandwidth
from ..probing.device import ConnectionLost, Kernel, ProbedDevice
from ..probing.timing import Figure
from .check_device import TEXTURE, server_function
from .check_steps import Fault, Finding, Walk

_HALF = """
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
__kernel void scale(__global const half* a, __global const half* b, __global half* c) {
  int i = get_global_id(0);
  c[i] = a[i] * b[i] + (half)1.0f;
}
"""
_LARGEST_SENT = 16 << 20
_ENOUGH_S = 0.3
_ROUND_TRIPS = 20
_DRIVER = "The driver's compiler or the driver is wrong: look for a newer one."


def half(walk: Walk) -> Finding:
    """A kernel with half computes right, where the device has it."""
    there, info = walk.there, walk.there.info
    if info is not None and not info.fp16:
        return Finding("the device has no float16 (cl_khr_fp16): models run with --dtype float32")
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-2, 2, 1024).astype("float16") for _ in range(2))
    try:
        module = there.load(_HALF, {"scale": Kernel(("handle", "handle", "handle"))})
        result = there.empty((1024,), "float16")
        there.launch(module, "scale", there.upload(a), there.upload(b), result, 16, 64)
        values = there.download(result).astype("float32")
    except ConnectionLost:
        raise
    except DeviceError as error:
        if info is None:
            return Finding(f"the device takes no kernel with half: {error}")
        raise Fault(
            f"the driver reports cl_khr_fp16, but a kernel with half does not work: {error}",
            f"{_DRIVER} Compile with --dtype float32 meanwhile.",
        ) from error
    wrong = np.abs(values - (a.astype("float32") * b.astype("float32") + 1)).max()
    if not wrong <= 1e-2:
        raise Fault(
            f"a kernel with half computes wrong: largest error {wrong:.3g}",
            f"{_DRIVER} Compile with --dtype float32 meanwhile.",
        )
    return Finding(f"a kernel with half computes right (largest error {wrong:.2g})")


def kernel(walk: Walk) -> Finding:
    """A vector addition built here and uploaded computes right there."""
    return _compiled(walk, "add", None)


def texture_kernel(walk: Walk) -> Finding:
    """A kernel that reads an image and writes another one computes right there."""
    if not walk.textures:
        return Finding("not tried: images do not work there")
    return _compiled(walk, "turn", TEXTURE)


def bandwidth(walk: Walk) -> Finding:
    """Copies of buffers, and reads of images."""
    there = walk.there
    figures = [copy_bandwidth(there)]
    there.release()
    if walk.textures:
        figures.append(texture_bandwidth(there, "float32"))
    noisy = [one.how for one in figures if one.noisy]
    remedy = ""
    if noisy:
        remedy = (
            f"Repeats differ much ({'; '.join(noisy)}): the device does something else or is hot. "
            "Let it rest before timing models."
        )
    return Finding("; ".join(_said(one) for one in figures), remedy)


def connection(walk: Walk) -> Finding:
    """Upload, download and round trips of the connection."""
    there = walk.there
    trips = []
    with there.errors():
        for _ in range(_ROUND_TRIPS):
            start = time.perf_counter()
            exists = there.device.exist
            trips.append(time.perf_counter() - start)
    if not exists:
        raise Fault("the device is gone", "Look at what the server printed.")
    up, down = _transfers(walk, there)
    return Finding(
        f"round trip {statistics.median(trips) * 1e3:.3g} ms (median of {len(trips)}); upload "
        f"{up / 1e6:.3g} MB/s, download {down / 1e6:.3g} MB/s"
    )


def _compiled(walk: Walk, name: str, scope: str | None) -> Finding:
    there, info = walk.there, walk.there.info
    if walk.remote is None:
        raise Fault("there is no session", "Look at the steps before.")
    profile = profile_for(None) if info is None else profile_from_device(info)
    host = compiled.host_of(_triple(walk), walk.host)
    arrays = compiled.inputs(name)
    with tempfile.TemporaryDirectory(prefix="smartmem-check-") as folder:
        path = Path(folder) / f"{name}.so"
        try:
            compiled.build_kernel(name, profile.target(host), path, host, walk.linker)
        except SmartMemError as error:
            raise Fault(
                f"no kernel can be built here for the server's machine, {host}: {error}",
                "Name the machine with --host TRIPLE and its compiler with --linker COMMAND.",
            ) from error
        walk.about(f"a kernel built for {host}")
        try:
            with there.errors():
                library = walk.session.load_module(walk.remote.upload(path))
        except ConnectionLost:
            raise
        except DeviceError as error:
            raise Fault(
                f"the server cannot load a library built for {host}: {error}",
                "Name the server's machine with --host, such as aarch64-linux-android, and its "
                "compiler with --linker.",
            ) from error
        wanted = compiled.expected(name, arrays)
        result = there.empty(wanted.shape, "float32", scope)
        sent = [there.upload(array, scope) for array in arrays]
        there.launch(library, compiled.ENTRY, *sent, result)
        values = there.download(result)
    if not np.array_equal(values, wanted):
        raise Fault(
            f"the kernel computes {int((values != wanted).sum())} of {values.size} values wrong",
            _DRIVER,
        )
    return Finding(f"built for {host}, uploaded and launched; {values.size} values are right")


def _triple(walk: Walk) -> str | None:
    """The triple of the server's machine, where its TVM knows it."""
    function = server_function(walk, "target.llvm_get_system_triple")
    if function is None:
        return None
    with walk.there.errors():
        return str(function())


def _transfers(walk: Walk, there: ProbedDevice) -> tuple[float, float]:
    """Bytes a second to the server's memory and back."""
    size = 1 << 16
    with there.errors():
        while True:
            values = np.arange(size // 4, dtype="int32")
            tensor = tvm.runtime.empty(values.shape, "int32", walk.session.cpu(0))
            start = time.perf_counter()
            tensor.copyfrom(values)
            middle = time.perf_counter()
            back = tensor.numpy()
            end = time.perf_counter()
            if not np.array_equal(back, values):
                raise Fault(
                    f"{size} bytes come back changed from the server",
                    "The connection or the server's TVM is wrong: use the same version there.",
                )
            if size >= _LARGEST_SENT or end - start >= _ENOUGH_S:
                return size / (middle - start), size / (end - middle)
            size *= 4


def _said(one: Figure) -> str:
    return f"{one.how} {one.value:.3g} {one.unit} (repeats differ by {one.spread * 100:.0f} %)"
