"""Which launches only move data.

A launch is *layout only* when every store in it writes an element that was read somewhere else, or
a constant, and at least one is read::

    C[i, j] = A[j, i]                                         yes: transpose
    C[i] = T.if_then_else(1 <= i and i < 9, A[i - 1], 0.0)    yes: pad
    C[i] = A[ids[i]]                                          yes: gather, the index is data
    C[i] = T.if_then_else(M[i], A[i], B[i])                   no: which value is data, as a max is
    C[i] = T.cast(A[i], "float16")                            no: the value changes
    C[i] = C[i] + A[i, k]                                     no: arithmetic
    C[i] = 0.0                                                no: nothing is moved

Integers in private memory that are computed from loop variables alone are part of the indices: a
schedule keeps there where a work-item starts.

A cast counts as compute: it is elementwise work that belongs in its producer's or consumer's
kernel, and no index map on an edge can replace it. Staging through shared or local memory on the
way is still movement.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_walk

from .expressions import dtype_of, loads_of

_CONSTANTS = (tirx.IntImm, tirx.FloatImm)


def _indices(stores: list[tirx.BufferStore]) -> set[Any]:
    """Private buffers of integers that no data goes into."""
    found = {
        s.buffer
        for s in stores
        if s.buffer.scope() == "local" and dtype_of(s.value).startswith(("int", "uint"))
    }
    while True:
        given = {
            s.buffer
            for s in stores
            if s.buffer in found and any(load.source not in found for load in loads_of(s.value))
        }
        if not given:
            return found
        found -= given


def _moved(value: Any, bound: dict[Any, Any], indices: set[Any]) -> list[Any] | None:
    """Loads that the value may be a copy of; None when it is computed."""
    if isinstance(value, TensorLoad):
        return None if value.source in indices else [value]
    if isinstance(value, _CONSTANTS):
        return []
    if isinstance(value, tirx.Broadcast):
        return _moved(value.value, bound, indices)
    if isinstance(value, tvm.ir.Var) and value in bound:
        return _moved(bound[value], bound, indices)
    if isinstance(value, tirx.Select):
        condition, *choices = value.condition, value.true_value, value.false_value
    elif isinstance(value, tvm.ir.Call) and value.op.same_as(tvm.ir.Op.get("prim.if_then_else")):
        condition, *choices = value.args
    else:
        return None
    if any(load.source not in indices for load in loads_of(condition)):
        return None
    loads: list[Any] = []
    for choice in choices:
        moved = _moved(choice, bound, indices)
        if moved is None:
            return None
        loads += moved
    return loads


def is_layout_only(body: tirx.Stmt) -> bool:
    """Whether the statement, usually the body of one launch, only moves data."""
    stores: list[tirx.BufferStore] = []
    bound: dict[Any, Any] = {}
    effects: list[Any] = []

    def bind(stmt: tirx.Bind) -> None:
        bound[stmt.var] = stmt.value

    structural_walk(
        body,
        [(tirx.BufferStore, stores.append), (tirx.Bind, bind), (tirx.Evaluate, effects.append)],
    )
    if effects:  # intrinsics: barriers, tensor cores, stores that are already lowered
        return False
    indices = _indices(stores)
    loads: list[Any] = []
    for store in stores:
        if store.buffer in indices:
            continue
        moved = _moved(store.value, bound, indices)
        if moved is None:
            return False
        loads += moved
    return bool(loads)
