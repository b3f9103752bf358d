"""Index maps: composing, simplifying, inverting and proving them.

What the passes use of :mod:`.index_simplify`, :mod:`.index_inverse`, :mod:`.index_proof` and
:mod:`.index_split`.
"""

from __future__ import annotations

from .index_evaluate import evaluate
from .index_inverse import Inverse, Refusal, invert
from .index_proof import Proof, prove_same
from .index_simplify import (
    DivisionCount,
    compose,
    count_divisions,
    has_loads,
    simplify_divisions,
    simplify_indices,
    simplify_value,
)
from .index_split import LoopSplit, affine_after_split

__all__ = [
    "DivisionCount",
    "Inverse",
    "LoopSplit",
    "Proof",
    "Refusal",
    "affine_after_split",
    "compose",
    "count_divisions",
    "evaluate",
    "has_loads",
    "invert",
    "prove_same",
    "simplify_divisions",
    "simplify_indices",
    "simplify_value",
]
