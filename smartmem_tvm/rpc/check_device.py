"""The steps of a check about the runtime, the device and its memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import tvm

from ..errors import DeviceError
from ..probing.device import ConnectionLost, ProbedDevice, first_line, last_line
from ..runtime import DeviceInfo
from ..runtime.loader import FEATURES, TVM_VERSION
from .check_steps import Fault, Finding, Walk
from .session import Remote

# What only this package's runtime registers, by the feature that it serves.
_FEATURES = {
    "per-kernel profile": "smartmem.opencl.profile_begin",
    "image pool": "smartmem.opencl.pool_stats",
    "program binary cache": "smartmem.opencl.add_driver",
    "device selection": "smartmem.opencl.devices",
}
_OPENCL = "device_api.opencl"
TEXTURE = "global.texture"
_MOST_BYTES = 64 << 20
_SMALL_BYTES = 1 << 20
_TEXEL = 16


def runtime_there(walk: Walk) -> Finding:
    """Whose OpenCL runtime serves, and what it lacks."""
    start = f"`python -m smartmem_tvm.rpc.server --tracker {walk.tracker} --key {walk.key}`"
    ours = f"there: pip install smartmem-tvm, stop this server and start {start}"
    if not _has(walk, _OPENCL):
        raise Fault(
            "the server has no OpenCL runtime: it is TVM's own `tvm.exec.rpc_server`, whose "
            "package brings none",
            f"Start this package's server {ours}.",
        )
    missing = [name for name in FEATURES if not _has(walk, _FEATURES[name])]
    here = f"TVM here: {tvm.__version__}"
    if not missing:
        return Finding(
            f"this package's runtime, with every feature; {here}, there: the {TVM_VERSION} that "
            "this runtime is built for"
        )
    whose = "TVM's own OpenCL runtime" if len(missing) == len(FEATURES) else "an older runtime"
    return Finding(
        f"{whose}, without {', '.join(missing)}; {here}, there: not reported",
        f"Models run, but without these. To have them, start this package's server {ours}.",
    )


def device(walk: Walk) -> Finding:
    """The device exists, and says of itself this."""
    info, devices = None, 0
    listing = server_function(walk, _FEATURES["device selection"])
    if listing is not None:
        entries = json.loads(_call(walk, listing))
        devices = len(entries["devices"])
        if walk.device >= devices:
            raise _no_device(walk, devices, entries["problems"])
        info = DeviceInfo.from_entry(entries["devices"][walk.device])
    where = f"{walk.tracker} key '{walk.key}'"
    try:
        walk.remote = Remote(where, walk.session, walk.device)
    except DeviceError as error:
        walk.session = None  # it was closed
        raise _no_device(walk, devices, [str(error)]) from error
    walk.probed = ProbedDevice.behind(walk.remote, info)
    if info is None:
        with walk.probed.errors():
            name = walk.probed.device.device_name
        return Finding(
            f"device {walk.device}: {name}; its limits are not reported",
            "Start this package's server to see them, and for the checks that need them.",
        )
    found = (
        f"device {walk.device} of {devices}: {info.name} ({info.platform}), driver "
        f"{info.driver_version}; {info.global_memory / 2**30:.1f} GiB, allocations to "
        f"{info.max_allocation / 2**30:.1f} GiB, groups to {info.max_work_group_size}, local "
        f"memory {info.local_memory >> 10} KiB, float16 {'yes' if info.fp16 else 'no'}, images "
        f"{_extents(info) if info.images else 'no'}"
    )
    return Finding(found + ("; a processor, not a GPU" if info.type == "cpu" else ""))


def memory(walk: Walk) -> Finding:
    """A buffer and an image keep what is written, and a freed image is used again."""
    there = walk.there
    values = np.arange(4096, dtype="float32").reshape(32, 32, 4)
    _round_trip(there, values, None, "buffer")
    said = ["buffers keep what is written"]
    remedy = ""
    try:
        _round_trip(there, values, TEXTURE, "image")
        walk.textures = True
        said.append("images too")
    except ConnectionLost:
        raise
    except DeviceError as error:
        said.append(f"images do not work ({error})")
        remedy = "Compile for a profile without textures, or look for a newer driver."
    statistics = server_function(walk, _FEATURES["image pool"])
    if statistics is None:
        said.append("no pool to look at")
        return Finding("; ".join(said), remedy)
    if walk.textures:
        reused = [_reused(walk, statistics) for _ in _twice(there)]
        if reused[1] > reused[0]:
            said.append("a second image of the same extents came from the pool")
        else:
            said.append("a second image of the same extents was made anew")
            remedy = "The pool does not keep images: report it, with the driver's name."
    return Finding("; ".join(said), remedy)


def textures(walk: Walk) -> Finding:
    """Images of the extents that the limits promise can be had and hold their texels."""
    there, info = walk.there, walk.there.info
    if info is None:
        return Finding(
            "not tried: the runtime there does not report limits",
            "Start this package's server for this check.",
        )
    if not info.images or not walk.textures:
        return Finding(
            "the device has no usable images",
            "Compile for a profile without textures; 'auto' does so where the driver says it.",
        )
    bound = min(_MOST_BYTES, info.max_allocation, info.global_memory // 8)
    width, height, layers = (
        info.image2d_max_width,
        info.image2d_max_height,
        info.image_max_array_size,
    )
    tall = max(1, min(height, bound // (_TEXEL * width)))
    wide = max(1, min(width, bound // (_TEXEL * height)))
    deep = max(1, min(layers, bound // _TEXEL))
    wanted = ((1, 1, 1), (1, 1, width), (1, height, 1), (deep, 1, 1), (1, tall, width))
    done = []
    for extents in dict.fromkeys((*wanted, (1, height, wide))):
        shape = (*extents, 4)
        texels = "{2} × {1} × {0}".format(*extents)
        walk.about(f"an image of {texels} texels")
        try:
            _large_image(there, shape)
        except ConnectionLost:
            raise
        except DeviceError as error:
            raise Fault(
                f"an image of {texels} texels, within the limits {_extents(info)} that the driver "
                f"reports, does not work: {error}",
                f"Give a profile with smaller texture limits: `smartmem profile-device --rpc "
                f"{walk.tracker} --key {walk.key}` writes one to edit.",
            ) from error
        done.append(texels)
    there.release()
    return Finding(f"images of {'; '.join(done)} texels (width × height × layers) hold their data")


def _large_image(there: ProbedDevice, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape)) * 4
    if size > _SMALL_BYTES:
        there.empty(shape, "float32", TEXTURE)  # too much to send: having it is enough
        with there.errors():
            there.device.sync()
        return
    values = np.arange(size // 4, dtype="float32").reshape(shape)
    _round_trip(there, values, TEXTURE, "image")


def _round_trip(there: ProbedDevice, values: np.ndarray, scope: str | None, what: str) -> None:
    result = there.download(there.upload(values, scope))
    if not np.array_equal(result, values):
        wrong = int((result != values).sum())
        raise DeviceError(
            f"{wrong} of {values.size} values that were written to a {what} of shape "
            f"{list(values.shape)} come back changed."
        )


def _twice(there: ProbedDevice) -> Iterator[None]:
    """Take an image of the same odd extents two times, freeing it before each pause."""
    for _ in range(2):
        image = there.empty((37, 53, 4), "float32", TEXTURE)
        del image
        yield


def _reused(walk: Walk, statistics: Any) -> int:
    return int(json.loads(_call(walk, statistics, walk.device))["reused"])


def _has(walk: Walk, name: str) -> bool:
    return server_function(walk, name) is not None


def server_function(walk: Walk, name: str) -> Any:
    """A function of the server; None where it has none."""
    find = walk.session.get_function
    try:
        return find(name)
    except AttributeError:
        return None
    except (tvm.error.RPCError, tvm.error.InternalError) as error:
        raise _lost(error) from error


def _call(walk: Walk, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except tvm.error.RPCError as error:
        raise DeviceError(last_line(str(error))) from error
    except tvm.error.InternalError as error:
        raise _lost(error) from error


def _lost(error: Exception) -> ConnectionLost:
    return ConnectionLost(f"the connection to the server broke ({first_line(error)})")


def _no_device(walk: Walk, devices: int, problems: list[str]) -> Fault:
    reasons = "".join(f"; {problem}" for problem in problems)
    if devices:
        return Fault(
            f"the server has no OpenCL device {walk.device}: it has {devices}",
            f"Choose another with --opencl-device (0 to {devices - 1}).",
        )
    return Fault(
        f"the server's machine has no OpenCL device{reasons}",
        "Run `smartmem devices` there: it says what was looked for and what to install.",
    )


def _extents(info: DeviceInfo) -> str:
    return f"{info.image2d_max_width} × {info.image2d_max_height} × {info.image_max_array_size}"
