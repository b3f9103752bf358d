"""The real OpenCL devices of this machine."""

from __future__ import annotations

import json
from dataclasses import dataclass

import tvm
import tvm_ffi

from ..errors import DeviceError
from .loader import load

INSTALL_HINT = (
    "Install an OpenCL driver: on x86-64 `pip install intel-opencl-rt intel-cmplr-lib-rt` (the "
    "extra `opencl-cpu` of this package), elsewhere PoCL (Debian, Ubuntu: apt install "
    "pocl-opencl-icd)."
)


@dataclass(frozen=True)
class DeviceInfo:
    """What an OpenCL device says of itself; sizes in bytes, image extents in texels.

    ``library`` is the file that answers for the device and ``source`` why it was looked at.
    """

    index: int
    name: str
    vendor: str
    platform: str
    platform_vendor: str
    type: str
    version: str
    driver_version: str
    library: str
    source: str
    extensions: tuple[str, ...]
    global_memory: int
    max_allocation: int
    local_memory: int
    local_memory_in_hardware: bool
    cache: int
    cache_line: int
    max_work_group_size: int
    max_work_item_sizes: tuple[int, ...]
    compute_units: int
    clock_mhz: int
    image2d_max_width: int
    image2d_max_height: int
    image_max_array_size: int
    images: bool
    fp16: bool

    @classmethod
    def from_entry(cls, entry: dict) -> DeviceInfo:
        """Make it from an entry of the runtime's JSON list, local or a server's."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})

    @property
    def event_timestamps(self) -> bool:
        """Whether the driver reports kernel times; opens the device on first use."""
        return bool(tvm_ffi.get_global_func("smartmem.opencl.event_timestamps")(self.index))


def list_devices() -> list[DeviceInfo]:
    """List the OpenCL devices in order of preference: GPUs first, packaged drivers before others.

    ``SMARTMEM_OPENCL_DEVICE`` (indices or parts of names, comma-separated) limits and orders the
    list; like the drivers it is read once, before the first look-up.
    """
    return [DeviceInfo.from_entry(entry) for entry in _table()["devices"]]


def problems() -> list[str]:
    """Why drivers or devices were passed over, a line each."""
    return list(_table()["problems"])


def device(selector: str | int | None = None) -> tvm.runtime.Device:
    """Return the OpenCL device that *selector* picks.

    Parameters
    ----------
    selector
        An index of :func:`list_devices`, or a part of a device's or platform's name (any case).
        Without it, the first device.

    Raises
    ------
    DeviceError
        When there is no such device; the message lists those that exist.
    """
    if load().provider != "smartmem":
        if selector is not None and not str(selector).isdigit():
            raise DeviceError(
                f"{selector!r} does not name a device: TVM brings its own OpenCL runtime, which "
                "knows devices by index alone. Give an index."
            )
        return tvm.runtime.device("opencl", int(selector or 0))
    devices = list_devices()
    if not devices:
        reasons = "".join(f"\n  {problem}" for problem in problems())
        raise DeviceError(f"no OpenCL device was found. {INSTALL_HINT}{reasons}")
    if selector is None:
        return tvm.runtime.device("opencl", 0)
    text = str(selector).lower()
    for info in devices:
        by_index = text.isdigit() and int(text) == info.index
        names = (info.name, info.platform, info.platform_vendor)
        by_name = not text.isdigit() and any(text in name.lower() for name in names)
        if by_index or by_name:
            return tvm.runtime.device("opencl", info.index)
    known = "; ".join(f"{d.index}: {d.name} ({d.platform})" for d in devices)
    raise DeviceError(f"no OpenCL device matches {selector!r}. Devices here: {known}.")


def _table() -> dict:
    if load().provider != "smartmem":
        return {"devices": [], "problems": ["TVM brings its own OpenCL runtime, which lists none"]}
    return json.loads(tvm_ffi.get_global_func("smartmem.opencl.devices")())
