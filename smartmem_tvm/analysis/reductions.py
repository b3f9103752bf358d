"""Updates of reductions that may be done in any order."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.ir.prim import expr as prim

from .computation import Stage, Store
from .expressions import dtype_of, loads_of

_OPERATORS = (prim.Add, prim.Mul, prim.Max, prim.Min)


def _split_update(store: Store) -> tuple[Any, Any] | None:
    """Operator and operand of ``value = operator(value, operand)``; None for other updates."""
    value = store.value
    if not isinstance(value, _OPERATORS):
        return None
    for old, operand in ((value.a, value.b), (value.b, value.a)):
        if isinstance(old, TensorLoad) and old.source.same_as(store.buffer):
            return type(value), operand
    return None


def split_updates(stage: Stage) -> list[tuple[Any, Any]] | None:
    """Operator and operand of every store; None where the order of the updates matters.

    It does for other updates, and where a result is part of what it or another accumulates.
    """
    own = {store.buffer for store in stage.stores}
    updates = [_split_update(store) for store in stage.stores]
    found = [update for update in updates if update is not None]
    if len(found) < len(updates) or not stage.is_reduction:
        return None
    if any(load.source in own for _, operand in found for load in loads_of(operand)):
        return None
    return found


def neutral(operator: Any, store: Store, initial: Any) -> Any:
    """Value that changes nothing when it is combined; for maxima the initial value serves."""
    dtype = dtype_of(store.buffer)
    if operator is prim.Add:
        return tirx.const(0, dtype)
    if operator is prim.Mul:
        return tirx.const(1, dtype)
    return initial
