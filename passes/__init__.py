"""The rewrites of smartmem-tvm, one per file, as passes for a ``tvm.transform`` pipeline."""

from __future__ import annotations

if __name__ == "passes":
    raise ImportError(
        "the folder passes/ is the package smartmem_tvm.passes: install the project "
        "(`pip install -e .`) and import it under that name"
    )

from .mark_scheduled import MarkScheduled
from .stage_texture_stores import StageTextureStores
from .unroll_unit_reductions import UnrollUnitReductions
from .verify_thread_binding import VerifyThreadBinding

__all__ = [
    "MarkScheduled",
    "StageTextureStores",
    "UnrollUnitReductions",
    "VerifyThreadBinding",
]
