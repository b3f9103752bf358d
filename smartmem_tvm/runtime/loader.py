"""Loads the OpenCL runtime library into TVM."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import tvm
import tvm_ffi

from ..errors import DeviceError

# SMARTMEM_RUNTIME_LIBRARY names another build of it, such as one with address checks.
LIBRARY = Path(
    os.environ.get("SMARTMEM_RUNTIME_LIBRARY") or Path(__file__).parent / "libsmartmem_opencl.so"
)

# The library mirrors one of TVM's C++ objects (module.cc), so it serves the version it was checked
# with and no other.
TVM_VERSION = "0.27.0.post1"

# Python distributions that ship an OpenCL driver, with the file to open.
PACKAGED_DRIVERS = {"intel-opencl-rt": "libintelocl.so"}

FEATURES = ("per-kernel profile", "image pool", "program binary cache", "device selection")

_lock = threading.Lock()
_status: RuntimeStatus | None = None


@dataclass(frozen=True)
class RuntimeStatus:
    """Which OpenCL runtime is in charge.

    Attributes
    ----------
    provider
        ``"smartmem"`` for this package's library, ``"tvm"`` for one that TVM was built with.
    missing
        Features of this package that the provider lacks.
    library
        The library's file, if it is ours.
    """

    provider: str
    missing: tuple[str, ...]
    library: Path | None


def load() -> RuntimeStatus:
    """Load the runtime once per process; later calls return the same answer.

    Raises
    ------
    DeviceError
        When TVM has another version than the library was built for, or the library is missing or
        cannot be loaded.
    """
    global _status
    with _lock:
        if _status is None:
            _status = _load()
        return _status


def status() -> RuntimeStatus:
    """Return which runtime is in charge, loading it if need be."""
    return load()


def _load() -> RuntimeStatus:
    if tvm_ffi.get_global_func("device_api.opencl", allow_missing=True) is not None:
        return RuntimeStatus("tvm", FEATURES, None)
    if tvm.__version__ != TVM_VERSION:
        raise DeviceError(
            f"the OpenCL runtime is built for apache-tvm {TVM_VERSION}, but {tvm.__version__} is "
            f"installed. Install that version: pip install apache-tvm=={TVM_VERSION}"
        )
    if not LIBRARY.exists():
        raise DeviceError(
            f"the OpenCL runtime {LIBRARY} was not built. Run `make setup`, or "
            "`pip install --no-build-isolation -e .` with g++ installed."
        )
    try:
        ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_LOCAL)
    except OSError as error:
        raise DeviceError(
            f"the OpenCL runtime {LIBRARY} cannot be loaded: {error}. Build it again: "
            "`make setup`, or `pip install --no-build-isolation -e .` with g++ installed."
        ) from error
    add_driver = tvm_ffi.get_global_func("smartmem.opencl.add_driver")
    for path, reason in _packaged_drivers():
        add_driver(str(path), reason)
    return RuntimeStatus("smartmem", (), LIBRARY)


def _packaged_drivers() -> list[tuple[Path, str]]:
    found = []
    for distribution, library in PACKAGED_DRIVERS.items():
        try:
            files = importlib.metadata.files(distribution) or []
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            path = Path(str(file.locate()))
            if file.name == library and path.exists():
                reason = f"Python package {distribution} {version}"
                found.append((path.resolve(), reason))
    return found
