"""Where and with what a measurement was made."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "onnxruntime", "onnx", "numpy", "mnn", "openvino")
_MEASURED = ("*.py", "*.cc", "*.h", "*.toml", "*.xz")


def environment(opencl_device: str | None) -> dict[str, Any]:
    """Machine, OpenCL device and driver, versions; the same on every run of the same set-up."""
    from .. import __version__, runtime
    from ..errors import DeviceError

    try:
        index = runtime.device(opencl_device).index
        info = next((d for d in runtime.list_devices() if d.index == index), None)
    except DeviceError:
        info = None
    device = None
    if info is not None:
        device = {"name": info.name, "driver": info.driver_version, "platform": info.platform}
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
