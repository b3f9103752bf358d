"""The OpenCL runtime: a C++ library that TVM loads, and its Python side.

TVM's wheel generates OpenCL but cannot run it. :func:`load` opens this package's library, which
registers a device API, module loader, allocator and timer under the names TVM looks up. Where TVM
brings an OpenCL runtime of its own, that one stays in charge and :func:`status` says what is then
missing.
"""

from .devices import DeviceInfo, device, list_devices, problems
from .loader import RuntimeStatus, load, status
from .profiling import KernelRecord, pool_stats, profile, release_pool
from .source import source_module

__all__ = [
    "DeviceInfo",
    "KernelRecord",
    "RuntimeStatus",
    "device",
    "list_devices",
    "load",
    "pool_stats",
    "problems",
    "profile",
    "release_pool",
    "source_module",
    "status",
]
