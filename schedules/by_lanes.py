"""Reductions with one partial result for each lane, and several vectors of them.

::

    for k in range(768): s += x[k]    →    for r in range(12): for p in unroll(4):
                                               t[p, lane] += x[64 * r + 16 * p + lane]
                                           s = 0 + the sum of all t

An addition waits for the one before it as long as both go to one vector; those of several vectors
do not wait for each other.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.tirx import BufferLoad, ForKind
from tvm_ffi import structural_walk

from smartmem_tvm.analysis.computation import Stage
from smartmem_tvm.analysis.expressions import const, dtype_of, static, substitute

from .builder import size_of
from .lanes import Lane
from .partial import Partial
from .row_filling import finish_rows
from .scope import Scope
from .statements import loop, loops, sequence

# Vectors of partial results, where their number divides that of the steps.
VECTORS = (4, 3, 2)
# Expressions of operands that are computed faster than they are added up.
SHORT = 40


def reduce_by_lanes(
    item: Any,
    stage: Stage,
    partial: Partial,
    registers: dict[Any, Any],
    rows: list[tuple[Any, int]],
    scope: Scope,
) -> None:
    """Reduce along lanes in `scope`, then over the lanes, then what is left over."""
    lane, lane_at = partial.lane, partial.lane.var
    repeats = scope.repeats
    for _, extent in partial.nest:
        repeats *= static(extent) or 1
    inside = Scope(
        scope,
        (*(var for var, _ in partial.nest), lane_at, *partial.atoms),
        repeats * lane.width,
        [*partial.hidden],
        lane=lane,
    )
    operands = [item._value_in(substitute(o, partial.values), inside) for o in partial.operands]
    vectors = 1 if rows else _vectors(partial, [*inside.statements, *operands])
    part = tirx.Var(item._name("part"), lane_at.ty)
    ahead = [(part, vectors)] if vectors > 1 else rows
    shape = [n for _, n in ahead] + [lane.width]
    place = [var for var, _ in ahead] + [lane_at]
    updates, after = [], []
    for store, combine, start, operand in zip(
        stage.stores, partial.combines, partial.starts, operands, strict=True
    ):
        lanes = item._private(f"{store.buffer.name}_lanes", shape, dtype_of(store.buffer))
        here = BufferLoad(lanes, place)
        scope.statements.append(item._assign(here, start, ahead, lane, False))
        updates.append(item._assign(here, combine(here, operand), rows, lane))
        if vectors > 1:
            after.append(_fold_vectors(lanes, combine, vectors, lane))
        after += _fold_lanes(item, lanes, combine, rows, lane, vectors)
        zero = const(0, lane_at)
        first = BufferLoad(lanes, [*([zero] if vectors > 1 else (v for v, _ in rows)), zero])
        initial = item._pull(substitute(store_initial(stage, store), partial.values), scope)
        after.append(item._assign(registers[store.buffer], combine(initial, first), rows, None))
    body, nest = sequence([*inside.statements, *updates]), partial.nest
    if vectors > 1:
        chunk, chunks = nest[-1]
        step = tirx.Var(item._name("r"), chunk.ty)
        size = const(vectors, chunk)
        body = substitute(body, {chunk: step * size + part})
        body = loop(part, size, body, ForKind.UNROLLED)
        nest = [*nest[:-1], (step, const(int(chunks) // vectors, chunk))]
    scope.statements.append(loops(nest, body))
    scope.statements += after
    points = 1
    for _, n in rows:
        points *= n
    item.operations += points * inside.repeats * len(stage.stores)
    if partial.tail:
        finish_rows(item, stage, lane, scope)
        _add_tail(item, stage, partial, registers, rows, scope, repeats)


def _add_tail(
    item: Any,
    stage: Stage,
    partial: Partial,
    registers: dict[Any, Any],
    rows: list[tuple[Any, int]],
    scope: Scope,
    repeats: int,
) -> None:
    inside = Scope(scope, tuple(var for var, _ in partial.tail), repeats)
    updates = []
    for store, operand, combine in zip(
        stage.stores, partial.operands, partial.combines, strict=True
    ):
        operand = item._value_in(substitute(operand, partial.tail_values), inside)
        total = registers[store.buffer]
        updates.append(item._assign(total, combine(total, operand), rows, None))
    scope.statements.append(loops(partial.tail, sequence([*inside.statements, *updates])))


def _vectors(partial: Partial, parts: list[Any]) -> int:
    """Vectors of partial results that keep additions from waiting for each other."""
    calls: list[Any] = []
    structural_walk(parts, (tvm.ir.Call, calls.append))
    chunks = static(partial.nest[-1][1])
    if calls or chunks is None or sum(map(size_of, parts)) > SHORT:
        return 1
    return next((n for n in VECTORS if chunks % n == 0 and chunks >= 2 * n), 1)


def _fold_vectors(lanes: Any, combine: Any, vectors: int, lane: Lane) -> Any:
    """All vectors into the first."""
    at = lane.var
    folded = BufferLoad(lanes, [const(0, at), at])
    for number in range(1, vectors):
        folded = combine(folded, BufferLoad(lanes, [const(number, at), at]))
    store = tirx.BufferStore(lanes, folded, [const(0, at), at])
    return loop(at, const(lane.width, at), store, ForKind.VECTORIZED)


def _fold_lanes(
    item: Any, lanes: Any, combine: Any, rows: list[tuple[Any, int]], lane: Lane, vectors: int
) -> list[Any]:
    """All lanes of a vector into its first one, by halves."""
    ahead = [const(0, lane.var)] if vectors > 1 else [var for var, _ in rows]
    statements = []
    width = lane.width
    while width > 1:
        width //= 2
        low = tirx.Var(item._name("low"), lane.var.ty)
        near = BufferLoad(lanes, [*ahead, low])
        far = BufferLoad(lanes, [*ahead, low + const(width, low)])
        fold = tirx.BufferStore(lanes, combine(near, far), [*ahead, low])
        kind = ForKind.VECTORIZED if width > 1 else ForKind.SERIAL
        folded = loop(low, const(width, low), fold, kind)
        statements.append(item._over(rows, folded, ForKind.UNROLLED))
    return statements


def store_initial(stage: Stage, store: Any) -> Any:
    """Initial value of what a store of a reduction accumulates."""
    return next(
        value for other, value in zip(stage.stores, stage.initial, strict=True) if other is store
    )
