"""Index maps: composing, simplifying, inverting and proving them.

What the passes use of :mod:`.index_simplify`, :mod:`.index_inverse`, :mod:`.index_proof` and
:mod:`.index_split`.
"""

from __future__ import annotations

from .index_evaluate import evaluate
from .index_proof import Proof, prove_same
from .index_simplify import (
    DivisionCount,
    compose,
    count_divisions,
    has_loads,
    simplify_indices,
    simplify_value,
)

__all__ = [
    "DivisionCount",
    "Proof",
    "compose",
    "count_divisions",
    "evaluate",
    "has_loads",
    "prove_same",
    "simplify_indices",
    "simplify_value",
]
