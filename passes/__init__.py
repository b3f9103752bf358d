"""The rewrites of smartmem-tvm, one per file, as passes for a ``tvm.transform`` pipeline."""

from __future__ import annotations

if __name__ == "passes":
    raise ImportError(
        "the folder passes/ is the package smartmem_tvm.passes: install the project "
        "(`pip install -e .`) and import it under that name"
    )

from .bind_texels import BindTexels
from .cast_to_half import CastToHalf
from .classify_operators import ClassifyOperators
from .concatenate_in_place import ConcatenateInPlace
from .eliminate_layout_transforms import EliminateLayoutTransforms
from .fuse_operators import FuseOperators
from .legalise_extremes import LegaliseExtremes
from .legalise_narrow_integers import LegaliseNarrowIntegers
from .legalise_scans import LegaliseScans
from .legalise_scatters import LegaliseScatters
from .legalise_sorts import LegaliseSorts
from .lower_vectors import LowerVectors
from .map_textures import MapTextures
from .mark_scheduled import MarkScheduled
from .merge_parallel_operators import MergeParallelOperators
from .name_expressions import NameExpressions
from .narrow_indices import NarrowIndices
from .plan_memory import PlanMemory
from .rewrite_layouts import RewriteLayouts
from .select_layouts import SelectLayouts
from .simplify_indices import SimplifyIndices
from .split_divided_loops import SplitDividedLoops
from .split_outputs import SplitOutputs
from .stage_texture_stores import StageTextureStores
from .unroll_unit_reductions import UnrollUnitReductions
from .verify_thread_binding import VerifyThreadBinding

__all__ = [
    "BindTexels",
    "CastToHalf",
    "ClassifyOperators",
    "ConcatenateInPlace",
    "EliminateLayoutTransforms",
    "FuseOperators",
    "LegaliseExtremes",
    "LegaliseNarrowIntegers",
    "LegaliseScans",
    "LegaliseScatters",
    "LegaliseSorts",
    "LowerVectors",
    "MapTextures",
    "MarkScheduled",
    "MergeParallelOperators",
    "NameExpressions",
    "NarrowIndices",
    "PlanMemory",
    "RewriteLayouts",
    "SelectLayouts",
    "SimplifyIndices",
    "SplitDividedLoops",
    "SplitOutputs",
    "StageTextureStores",
    "UnrollUnitReductions",
    "VerifyThreadBinding",
]
