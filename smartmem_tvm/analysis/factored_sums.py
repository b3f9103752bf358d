"""Factors that a sum's reduced axes do not change are multiplied to its result instead.

::

    M[i, j] += (q[i, k] * c) * (K[j, k] * c)             M[i, j] += q[i, k] * K[j, k]
    S[i, j] = M[i, j]                              →     S[i, j] = M[i, j] * c * c

The scale of an attention's scores, or the divisor of a mean, then costs one product for an element
of the result, not one for each that is added up.

Legal for sums in float32 and wider that start at 0 and that no other reduction reads. Narrower
types could overflow before they are scaled.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from operator import mul
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.ir.prim import expr as prim

from .computation import Stage, Store, point_of, replace_in_stage
from .expressions import dtype_of, substitute, uses

WIDE = ("float32", "float64")


def factor_sums(stages: list[Stage]) -> list[Stage]:
    """Stages, in order, with factors taken out of their sums."""
    for number, stage in enumerate(stages):
        later = stages[number + 1 :]
        made_here = {store.buffer for store in stage.stores}
        readers = [s for s in later if made_here & {load.source for load in s.loads()}]
        if not stage.is_reduction or any(reader.is_reduction for reader in readers):
            continue
        stores, factors = [], {}
        for store, initial in zip(stage.stores, stage.initial, strict=True):
            made, taken = _factored(stage, store, initial)
            stores.append(made)
            if taken is not None:
                factors[store.buffer] = _scaled(stage, made, taken)
        if factors:
            stages = [
                *stages[:number],
                replace(stage, stores=tuple(stores)),
                *(replace_in_stage(s, factors) for s in later),
            ]
    return stages


@dataclass
class _Factors:
    """A product taken apart: what a reduced axis changes, and what none does."""

    moving: list[Any] = field(default_factory=list)
    fixed: list[Any] = field(default_factory=list)
    divisors: list[Any] = field(default_factory=list)


def _factored(stage: Stage, store: Store, initial: Any) -> tuple[Store, _Factors | None]:
    value = store.value
    if (
        dtype_of(store.buffer) not in WIDE
        or not isinstance(value, prim.Add)
        or not isinstance(initial, tirx.FloatImm)
        or float(initial.value) != 0.0
    ):
        return store, None
    for old, product in ((value.a, value.b), (value.b, value.a)):
        if isinstance(old, TensorLoad) and old.source.same_as(store.buffer):
            found = _Factors()
            _take_apart(product, [axis.var for axis in stage.axes if axis.reduced], found)
            if found.moving and (found.fixed or found.divisors):
                return replace(store, value=old + reduce(mul, found.moving)), found
    return store, None


def _take_apart(value: Any, reduced: list[Any], found: _Factors) -> None:
    if not any(uses(value, var) for var in reduced):
        found.fixed.append(value)
    elif isinstance(value, prim.Mul):
        _take_apart(value.a, reduced, found)
        _take_apart(value.b, reduced, found)
    elif isinstance(value, prim.Div) and not any(uses(value.b, var) for var in reduced):
        _take_apart(value.a, reduced, found)
        found.divisors.append(value.b)
    else:
        found.moving.append(value)


def _scaled(stage: Stage, store: Store, factors: _Factors) -> Any:
    """Replacement of a load of the sum."""

    def load(indices: list[Any]) -> Any:
        values = point_of(stage, store.buffer, indices)
        value = reduce(
            mul,
            (substitute(f, values) for f in factors.fixed),
            tirx.BufferLoad(store.buffer, indices),
        )
        for divisor in factors.divisors:
            value = value / substitute(divisor, values)
        return value

    return load
