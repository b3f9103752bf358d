"""Which loop to split, and by what, so that no division is left in the inner loops.

::

    for i in range(64): A[i // 8, i % 8]   →   for io in range(8): for ii in range(8): A[io, ii]

A loop is split where its extent is a multiple of the factor; what divides outer variables only is
computed once for each outer iteration and may stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import tvm
from tvm import tirx
from tvm_ffi import structural_walk

from .expressions import substitute, uses
from .index_reading import dtype_of
from .index_simplify import DIVISIONS, REMAINDERS, has_loads, simplify_indices
from .index_space import IndexSpace


@dataclass(frozen=True)
class LoopSplit:
    """How loops are split to make indices affine in what is inside.

    Attributes
    ----------
    factors
        Extent of the inner loop, for each loop that is split; empty if none need be.
    outer, inner
        New variables of the loops that are split.
    indices
        The indices over the new variables, simplified.
    """

    factors: dict[Any, int]
    outer: dict[Any, Any]
    inner: dict[Any, Any]
    indices: tuple[Any, ...]


def affine_after_split(indices: Any, loops: Mapping[Any, tvm.ir.Range]) -> LoopSplit | None:
    """The split after which no division is left in an inner loop, or None if there is none.

    Of several factors of a loop the largest is taken: the longest loop without divisions.

    Parameters
    ----------
    indices
        Index expression, or a list of them.
    loops
        Range of each loop variable.
    """
    exprs = list(indices) if isinstance(indices, Sequence) else [indices]
    exprs = simplify_indices(exprs, loops)
    split = LoopSplit({}, {}, {}, tuple(exprs))
    domain = dict(loops)
    for var in loops:
        if not divides(split.indices, var):
            continue
        found = _split_loop(split.indices, var, domain)
        if found is None:
            return None
        factor, outer, inner, domain, results = found
        split = LoopSplit(
            {**split.factors, var: factor},
            {**split.outer, var: outer},
            {**split.inner, var: inner},
            results,
        )
    # A later split may not bring a division back into an earlier inner loop.
    if any(divides(split.indices, inner) for inner in split.inner.values()):
        return None
    return split


def split_of_loop(
    indices: Sequence[Any], var: Any, loops: Mapping[Any, tvm.ir.Range]
) -> int | None:
    """Extent of the inner loop after which one loop's inner variable is divided no more.

    None where no split helps; 1 where the indices, simplified, do not divide the variable at all.
    """
    exprs = simplify_indices(list(indices), loops, check=not has_loads(indices))
    if not divides(exprs, var):
        return 1
    found = _split_loop(exprs, var, dict(loops))
    return None if found is None else found[0]


def divides(exprs: Sequence[Any], var: Any) -> bool:
    """Whether a quotient or a remainder of the variable is taken."""
    found: list[Any] = []
    structural_walk(list(exprs), ((*DIVISIONS, *REMAINDERS), found.append))
    return any(uses(expr, var) for expr in found)


def _split_loop(
    exprs: Sequence[Any], var: Any, domain: dict[Any, tvm.ir.Range]
) -> tuple[int, Any, Any, dict[Any, tvm.ir.Range], tuple[Any, ...]] | None:
    rng = domain[var]
    if not isinstance(rng.min, tirx.IntImm) or not isinstance(rng.extent, tirx.IntImm):
        return None
    start, extent, dtype = rng.min.value, rng.extent.value, dtype_of(var)
    outer, inner = tirx.Var(f"{var.name}_outer", var.ty), tirx.Var(f"{var.name}_inner", var.ty)
    for factor in _factors(exprs, var, domain, extent):
        changed = {other: r for other, r in domain.items() if other is not var}
        zero = tirx.IntImm(dtype, 0)
        changed[outer] = tvm.ir.Range.from_min_extent(zero, tirx.IntImm(dtype, extent // factor))
        changed[inner] = tvm.ir.Range.from_min_extent(zero, tirx.IntImm(dtype, factor))
        point = outer * factor + inner + start
        points = [substitute(expr, {var: point}) for expr in exprs]
        results = simplify_indices(points, changed, check=not has_loads(exprs))
        if not divides(results, inner):
            return factor, outer, inner, changed, tuple(results)
    return None


def _factors(
    exprs: Sequence[Any], var: Any, domain: Mapping[Any, tvm.ir.Range], extent: int
) -> list[int]:
    """Divisors of the extent that a division suggests, without 1, largest first."""
    space = IndexSpace(domain)
    axis = next(iter(space.read(var).atoms()), None)
    for expr in exprs:
        space.read(expr)
    periods: set[int] = set()
    for atom in space.atoms:
        size = atom.divisor.value
        if atom.kind not in ("floordiv", "floormod") or not size:
            continue
        coefficient = atom.number.terms.get((axis,), 0) if axis is not None else 0
        if coefficient:
            periods.add(size // gcd(size, coefficient))
        elif axis is not None and atom.number.atoms():
            periods.add(size)
    found = {gcd(period, extent) for period in periods}
    found |= {gcd(one, other) for one in found for other in found}
    return sorted((factor for factor in found if 1 < factor < extent), reverse=True)
