"""Where and with what a measurement was made."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from .runners.base import RpcAddress

if TYPE_CHECKING:
    from ..runtime import DeviceInfo

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "onnxruntime", "onnx", "numpy", "mnn", "openvino")
_MEASURED = ("*.py", "*.cc", "*.h", "*.toml", "*.xz")
# What shows results, and what exports the graphs that are stored anyway: neither decides what is
# compiled.
_NO_PART = ("bench", "cli", "report", "zoo.export")
_MAPPED = ("passes", "schedules", "zoo")


def environment(opencl_device: str | None, rpc: RpcAddress | None = None) -> dict[str, Any]:
    """Machine, OpenCL device and driver, versions; the same on every run of the same set-up."""
    from .. import __version__

    info = _device(opencl_device) if rpc is None else _remote_device(opencl_device, rpc)
    device = None
    if info is not None:
        device = {"name": info.name, "driver": info.driver_version, "platform": info.platform}
        if rpc is not None:
            device["rpc"] = rpc.key
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}",
        },
        "opencl_device": device,
        "versions": {
            "smartmem-tvm": __version__,
            "python": platform.python_version(),
            **{name: version for name in _PACKAGES if (version := _version(name))},
        },
    }


def _device(selector: str | None) -> DeviceInfo | None:
    from .. import runtime
    from ..errors import DeviceError

    try:
        index = runtime.device(selector).index
    except DeviceError:
        return None
    return next((device for device in runtime.list_devices() if device.index == index), None)


def _remote_device(selector: str | None, rpc: RpcAddress) -> DeviceInfo:
    from ..rpc.session import connect

    with connect(rpc.tracker, rpc.key, device=int(selector or 0), timeout=rpc.timeout) as remote:
        return remote.device_info()


def code_digest(parts: Iterable[str]) -> str:
    """Hash of the code of parts of this package, such as ``runtime`` or ``bench.runners.mnn``.

    "" is the whole package but for what only shows results. Compiled libraries count as well.
    """
    hashed = hashlib.sha256()
    for path, name in sorted(_code_files().items()):
        if any(_belongs(name, part) for part in parts):
            hashed.update(name.encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()[:16]


def _belongs(name: str, part: str) -> bool:
    if part == "":
        return not any(_belongs(name, other) for other in _NO_PART)
    return name == part or name.startswith(f"{part}.")


@functools.cache
def _code_files() -> dict[Path, str]:
    """Files of the package by path: their dotted names below it."""
    root = Path(__file__).resolve().parent.parent
    folders = {"": root}
    for name in _MAPPED:
        # These are packages of their own folders (setup.py): only importing them says where.
        origin = importlib.import_module(f"{__package__.split('.')[0]}.{name}").__file__
        if origin is not None:
            folders[name] = Path(origin).resolve().parent
    files = {}
    for prefix, folder in folders.items():
        for kind in ("*.py", "*.toml", "*.so"):
            for path in folder.rglob(kind):
                words = path.relative_to(folder).with_suffix("").parts
                files[path] = ".".join((*((prefix,) if prefix else ()), *words))
    return files


def commit() -> str | None:
    """Git commit of this package, with a hash of uncommitted changes; None outside a checkout."""
    package = Path(__file__).resolve().parent.parent
    # A package installed inside somebody else's checkout is not part of it.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = _git(package, "rev-parse", "--short=12", "HEAD")
    root = _git(package, "rev-parse", "--show-toplevel")
    if head is None or root is None:
        return None
    # Results and pages change while measuring; they do not change what is measured.
    changes = _git(Path(root.strip()), "diff", "HEAD", "--", *_MEASURED) or ""
    suffix = f"+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else ""
    return head.strip() + suffix


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "Model", "Hardware")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
