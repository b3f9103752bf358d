"""smartmem-tvm: run neural networks on mobile GPUs without moving data.

Importing the package loads the OpenCL runtime (unless TVM brings its own) and registers the
``"smartmem"`` Relax and TIR pipelines with TVM.
"""

from __future__ import annotations

from . import runtime
from .errors import ArtifactError, DeviceError, ModelError, SmartMemError
from .pipeline import pipeline, register

runtime.load()
register()

__all__ = [
    "Artifact",
    "ArtifactError",
    "Budget",
    "DeviceError",
    "ModelError",
    "SmartMemError",
    "compile",
    "load",
    "pipeline",
    "tune",
]
__version__ = "0.1.0"


def __getattr__(name: str):
    # Not needed inside somebody else's TVM pipeline, so imported on first use.
    if name == "compile":
        from .compiler import compile

        return compile
    if name in ("Budget", "tune"):
        from .tuning import session, tune

        return session.Budget if name == "Budget" else tune.tune
    if name in ("Artifact", "load"):
        from .artifact import Artifact

        return Artifact if name == "Artifact" else Artifact.load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
