"""Two branches of a conditional that are the halves of a rotation.

::

    if e < n - s then V(e + s) else V(e + s - n)   →   V((e + s) % n)        e in [0, n)

V is any value: a load through a window partition keeps its form. What is rotated, ``e``, is what
the condition compares with a constant; it need not be an iterator.
"""

from __future__ import annotations

from math import inf
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_equal, structural_map, structural_walk

from .expressions import substitute, uses
from .index_proof import prove_same
from .index_reading import INTEGER_LIMITS, dtype_of
from .index_space import IndexSpace

# Points at which two values are compared before they are simplified.
TRIED_POINTS = 128


def merge_halves(space: IndexSpace, condition: Any, true: Any, false: Any) -> Any | None:
    """One value for both branches, not simplified yet, or None if they are no rotation.

    The branches must be as they were written: simplified under their conditions, two halves of one
    map no longer look alike.
    """
    if not isinstance(condition, tirx.LT | tirx.LE | tirx.GT | tirx.GE):
        return None
    if sources(true) != sources(false) or not sources(true):
        return None
    found = _threshold(condition)
    if found is None:
        return None
    rotated, limit, true_is_upper = found
    low, high = space.bounds(space.read(rotated))
    if low != 0 or high == inf or not 0 < limit <= high:
        return None
    size = int(high) + 1
    upper, lower = (true, false) if true_is_upper else (false, true)
    dtype = dtype_of(rotated)
    place = tirx.Var("rotated", dtype)
    upper, lower = (_replace(branch, rotated, place) for branch in (upper, lower))
    if not uses(upper, place) or not uses(lower, place):
        return None
    # Where the upper branch begins, the rotation does: upper holds V(e - limit).
    from_upper = substitute(upper, {place: place + limit})
    from_lower = substitute(lower, {place: place - (size - limit)})
    for value, other, first, count in (
        (from_upper, from_lower, size - limit, limit),
        (from_lower, from_upper, 0, size - limit),
    ):
        rng = tvm.ir.Range.from_min_extent(tirx.const(first, dtype), tirx.const(count, dtype))
        if _same(space, value, other, {**space.domain, place: rng}):
            turned = tirx.FloorMod(rotated + (size - limit), tirx.const(size, dtype))
            return substitute(value, {place: turned})
    return None


def sources(value: Any) -> set[Any]:
    """Tensors that a value is read from."""
    found: set[Any] = set()
    structural_walk(value, (TensorLoad, lambda load: found.add(load.source)))
    return found


def _threshold(comparison: Any) -> tuple[Any, int, bool] | None:
    """Compared expression, the value from which it counts as large, whether true means large."""
    left, right = comparison.a, comparison.b
    if dtype_of(left) not in INTEGER_LIMITS:
        return None
    greater = isinstance(comparison, tirx.GT | tirx.GE)
    strict = isinstance(comparison, tirx.GT | tirx.LT)
    if isinstance(left, tirx.IntImm) and not isinstance(right, tirx.IntImm):
        left, right, greater = right, left, not greater
    elif not isinstance(right, tirx.IntImm):
        return None
    # e > k and e <= k part at k + 1; e >= k and e < k at k.
    return left, right.value + (greater == strict), greater


def _replace(value: Any, part: Any, var: Any) -> Any:
    if isinstance(part, tvm.ir.Var):
        return substitute(value, {part: var})
    return structural_map(
        value, (type(part), lambda expr: var if structural_equal(expr, part) else expr)
    )


def _same(space: IndexSpace, value: Any, other: Any, domain: dict[Any, tvm.ir.Range]) -> bool:
    """Whether two values agree where the conditions of the space hold, by their normal form."""
    from .index_conditions import simplify_expression  # it calls this module

    # Conditions on data cannot be evaluated: the values are then compared at all points.
    conditions = [condition for condition in space.conditions if not sources(condition)]
    predicate = tirx.all(*conditions) if conditions else None
    # Most pairs differ at some point. This saves simplifying them, which tries their own branches
    # in turn: it would be exponential in the depth of a long concatenation.
    proof = prove_same(
        value,
        other,
        domain,
        predicate,
        exhaustive=TRIED_POINTS,
        samples=TRIED_POINTS,
        use_prover=False,
    )
    if not proof.holds:
        return False
    inside = IndexSpace(domain, space.conditions)
    return bool(
        structural_equal(simplify_expression(inside, value), simplify_expression(inside, other))
    )
