"""Per-kernel times and memory counters, local or of a device behind an RPC session."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import tvm
import tvm_ffi

from ..errors import DeviceError

# A remote device's type is the local one plus a multiple of this per session (TVM's device_api.h).
_RPC_SESSION_MASK = 128


@dataclass(frozen=True)
class KernelRecord:
    """One kernel launch: device time in microseconds, work sizes in work-items."""

    name: str
    device_us: float
    global_size: tuple[int, ...]
    local_size: tuple[int, ...]


def _function(name: str, dev: tvm.runtime.Device):
    """A runtime function of the process that owns *dev*."""
    if dev.dlpack_device_type() >= _RPC_SESSION_MASK:
        find = dev._rpc_sess.get_function
    else:
        find = tvm_ffi.get_global_func
    try:
        return find(name)
    except (AttributeError, ValueError) as error:
        raise DeviceError(
            f"the OpenCL runtime that serves {dev} has no '{name}': it is not smartmem-tvm's. "
            "Start the server with `python -m smartmem_tvm.rpc.server`."
        ) from error


@contextlib.contextmanager
def profile(dev: tvm.runtime.Device) -> Iterator[list[KernelRecord]]:
    """Record the kernels that this thread launches on *dev* inside the ``with`` block.

    Yields
    ------
    list of KernelRecord
        Empty inside the block; filled in launch order when the block ends. On drivers that report
        no times (:attr:`DeviceInfo.event_timestamps`) each is the wall clock around the launch.
    """
    records: list[KernelRecord] = []
    begin = _function("smartmem.opencl.profile_begin", dev)
    end = _function("smartmem.opencl.profile_end", dev)
    begin(dev.index)
    try:
        yield records
    finally:
        for entry in json.loads(end()):
            records.append(
                KernelRecord(
                    entry["name"], entry["ns"] / 1e3, tuple(entry["global"]), tuple(entry["local"])
                )
            )


def pool_stats(dev: tvm.runtime.Device) -> dict[str, int]:
    """Counters of the device's memory: objects and bytes created, in use, free and at the peak."""
    return json.loads(_function("smartmem.opencl.pool_stats", dev)(dev.index))


def release_pool(dev: tvm.runtime.Device) -> None:
    """Give the memory that is free but kept for reuse back to the driver."""
    _function("smartmem.opencl.release_pool", dev)(dev.index)
