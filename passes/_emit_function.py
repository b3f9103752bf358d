"""PrimFuncs of nodes: one root block of their stages' loops; see :mod:`._graph`."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlock, SBlockRealize
from tvm_ffi import structural_equal, structural_map

from smartmem_tvm.analysis.computation import (
    Stage,
    Store,
    map_stage,
    substitute_in_stage,
    with_fresh_axes,
)
from smartmem_tvm.analysis.expressions import loads_of
from smartmem_tvm.upstream import nonnegative_dividends

from ._graph import Node

TRUE = tirx.IntImm("bool", 1)
ZERO, ONE = tirx.const(0, "int64"), tirx.const(1, "int64")


def build_prim_func(node: Node, inputs: list[Any], symbols: list[Any]) -> tirx.PrimFunc:
    """PrimFunc of a node: its parameters are `inputs`, `symbols` and the node's other outputs.

    An output among the inputs is written in place.
    """
    stages = [
        map_stage(stage, nonnegative_dividends)
        for stage in _without_copy_of_reduction(node.stages, node.outputs)
    ]
    renamed: dict[Any, Any] = {symbol: tirx.Var(symbol.name, symbol.ty) for symbol in symbols}
    taken: set[str] = set()
    parameters = []
    made = [buffer for buffer in node.outputs if buffer not in inputs]
    for buffer in [*inputs, *made]:
        parameters.append(_renamed_buffer(buffer, renamed, taken))
    internal = []
    for stage in stages:
        for store in stage.stores:
            if store.buffer not in renamed:
                internal.append(_renamed_buffer(store.buffer, renamed, taken))
    body = [_nest(with_fresh_axes(stage, renamed)) for stage in stages]
    root = SBlock(
        [], [], [], "root", tirx.SeqStmt(body) if len(body) > 1 else body[0], None, internal
    )
    func = tirx.PrimFunc(
        [
            *parameters[: len(inputs)],
            *(renamed[symbol] for symbol in symbols),
            *parameters[len(inputs) :],
        ],
        SBlockRealize([], TRUE, root),
    )
    return func.with_attr({"tirx.noalias": True, "s_tir": True, **node.attrs})


def _renamed_buffer(buffer: Any, renamed: dict[Any, Any], taken: set[str]) -> Any:
    name, number = buffer.name, 0
    while name in taken:
        number += 1
        name = f"{buffer.name}_{number}"
    taken.add(name)
    shape = [structural_map(d, (tvm.ir.Var, lambda v: renamed.get(v, v))) for d in buffer.shape]
    scope = str(buffer.ty.storage_scope)
    renamed[buffer] = tirx.decl_buffer(shape, buffer.dtype, name, scope=scope, layout=None)
    return renamed[buffer]


def _without_copy_of_reduction(stages: list[Stage], outputs: list[Any]) -> list[Stage]:
    """Let the reduction write the output itself where the last stage only copies its result."""
    if len(stages) < 2 or len(stages[-1].stores) != 1:
        return stages
    *before, last = stages
    (store,) = last.stores
    source = store.value.source if isinstance(store.value, TensorLoad) else None
    if source is None or not last.is_pointwise(store) or source in outputs:
        return stages
    if not all(i.same_as(a.var) for i, a in zip(store.value.indices, last.axes, strict=False)):
        return stages
    if [int_or_expr(d) for d in source.shape] != [int_or_expr(d) for d in store.buffer.shape]:
        return stages
    makers = [s for s in before for made in s.stores if made.buffer.same_as(source)]
    readers = [s for s in before for load in s.loads() if load.source.same_as(source)]
    if len(makers) != 1 or readers or makers[0] is not before[-1] or len(makers[0].stores) > 1:
        return stages
    return [*before[:-1], substitute_in_stage(before[-1], {source: store.buffer})]


def int_or_expr(extent: Any) -> Any:
    """Extent as an int where it is constant, for comparison."""
    return int(extent) if isinstance(extent, tirx.IntImm) else extent


def _nest(stage: Stage) -> Any:
    loops = [tirx.Var(axis.var.name.removeprefix("v_"), axis.var.ty) for axis in stage.axes]
    kinds = {False: tirx.IterVar.DataPar, True: tirx.IterVar.CommReduce}
    iter_vars = [tirx.IterVar(a.range, a.var, kinds[a.reduced]) for a in stage.axes]
    values: list[Any] = list(loops)
    if not stage.axes:  # a block needs an axis
        unit = tirx.IterVar(tvm.ir.Range(ZERO, ONE), tirx.Var("vi", "int64"), tirx.IterVar.DataPar)
        iter_vars, values = [unit], [ZERO]
    body = _stores(stage)
    init = (
        [
            tirx.BufferStore(store.buffer, value, list(store.indices))
            for store, value in zip(stage.stores, stage.initial, strict=bool(stage.initial))
        ]
        if stage.initial
        else []
    )
    block = SBlock(
        iter_vars,
        _regions([(load.source, load.indices) for load in stage.loads()]),
        _regions([(store.buffer, store.indices) for store in stage.stores]),
        stage.name,
        body[0] if len(body) == 1 else tirx.SeqStmt(body),
        None if not init else init[0] if len(init) == 1 else tirx.SeqStmt(init),
    )
    stmt: Any = SBlockRealize(values, TRUE, block)
    for loop, axis in zip(reversed(loops), reversed(stage.axes), strict=True):
        zero = tirx.const(0, axis.var.ty.dtype)
        stmt = tirx.For(loop, zero, axis.extent, tirx.ForKind.SERIAL, stmt)
    return stmt


def _stores(stage: Stage) -> list[Any]:
    """Stores of a stage; results of one reduction may read each other, so all come first."""
    if not stage.is_reduction or len(stage.stores) < 2:
        return [_store(store) for store in stage.stores]
    binds, stores = [], []
    for store in stage.stores:
        var = tirx.Var(f"v_{store.buffer.name}", store.value.ty)
        binds.append(tirx.Bind(var, store.value))
        stores.append(_store(Store(store.buffer, store.indices, var, store.condition)))
    return [*binds, *stores]


def _store(store: Store) -> Any:
    stmt = tirx.BufferStore(store.buffer, store.value, list(store.indices))
    return stmt if store.condition is None else tirx.IfThenElse(store.condition, stmt, None)


def _regions(accesses: list[tuple[Any, Any]]) -> list[Any]:
    return [_region(buffer, indices) for buffer, indices in _unique(accesses)]


def _unique(accesses: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Accesses without those of the same element of the same buffer."""
    found: list[tuple[Any, Any]] = []
    for buffer, indices in accesses:
        if not any(buffer.same_as(other) and _same(indices, known) for other, known in found):
            found.append((buffer, indices))
    return found


def _same(one: Any, other: Any) -> bool:
    return all(structural_equal(a, b) for a, b in zip(one, other, strict=True))


def _region(buffer: Any, indices: Any) -> Any:
    ranges = []
    for index, extent in zip(indices, buffer.shape, strict=True):
        if loads_of(index):  # an index that is data: anywhere
            ranges.append(tvm.ir.Range(tirx.const(0, index.ty.dtype), extent))
        else:
            ranges.append(tvm.ir.Range.from_min_extent(index, tirx.const(1, index.ty.dtype)))
    return tirx.BufferRegion(buffer, ranges)
