"""Back from a graph of stages to PrimFuncs and Relax bindings; see :mod:`._graph`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlock, SBlockRealize
from tvm_ffi import structural_equal, structural_hash, structural_map, structural_walk

from smartmem_tvm.analysis.computation import (
    Stage,
    Store,
    map_stage,
    structure_of,
    substitute_in_stage,
    with_fresh_axes,
)
from smartmem_tvm.analysis.expressions import loads_of
from smartmem_tvm.analysis.layouts import LAYOUTS
from smartmem_tvm.upstream import nonnegative_dividends

from ._graph import Graph, Node, OpaqueNode, read_graph

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


class _Writer:
    def __init__(self, graph: Graph, builder: relax.BlockBuilder) -> None:
        self.graph, self.builder = graph, builder
        self.exprs: dict[Any, Any] = dict(graph.external)
        self.bindings: list[Any] = []
        self.functions: dict[int, list[tuple[list[Any], dict[str, Any], Any]]] = {}
        self.wanted: dict[Any, list[Any]] = {}
        for var, buffer in graph.results.items():
            if buffer is not None:
                self.wanted.setdefault(buffer, []).append(var)
        self.used = set(graph.result_buffers())
        for node in graph.nodes:
            self.used.update(node.inputs())

    def bind(self, var: Any, value: Any) -> Any:
        self.bindings.append(relax.VarBinding(var, self.builder.normalize(value)))
        return var

    def name_for(self, buffer: Any, ty: Any) -> Any:
        """The result variable that must be bound to the buffer, or a new one."""
        wanted = self.wanted.get(buffer)
        return wanted[0] if wanted else relax.DataflowVar(buffer.name, ty)

    def write(self) -> relax.DataflowBlock:
        for node in self.graph.nodes:
            (self._write_opaque if isinstance(node, OpaqueNode) else self._write_node)(node)
        bound = {binding.var for binding in self.bindings}
        for var, buffer in self.graph.results.items():
            if var in bound:
                continue
            if buffer is not None:
                self.bind(var, self.exprs[buffer])
            else:
                parts = self.graph.variables[var]
                self.bind(var, relax.Tuple([self.exprs[part] for part in parts]))
        return relax.DataflowBlock(self.bindings)

    def _write_node(self, node: Node) -> None:
        previous = list(node.inplace.values())
        inputs = [buffer for buffer in node.inputs() if buffer not in previous]
        parameters = [*inputs, *node.inplace]
        symbols = _free_symbols(node, parameters)
        if node.layouts:
            made = [buffer for buffer in node.outputs if buffer not in parameters]
            places = [*parameters, *(None for _ in symbols), *made]
            node.attrs = {**node.attrs, LAYOUTS: [node.layouts.get(b) for b in places]}
        global_var = self._function(node, parameters, symbols)
        types = [self._type(buffer) for buffer in node.outputs]
        arguments = relax.Tuple([*(self.exprs[b] for b in [*inputs, *previous]), *symbols])
        if previous:
            places = [parameters.index(b) if b in node.inplace else -1 for b in node.outputs]
            call = relax.call_tir_inplace(global_var, arguments, places, types)
        else:
            call = relax.call_tir(global_var, arguments, types)
        if len(types) == 1:
            (buffer,) = node.outputs
            self.exprs[buffer] = self.bind(self.name_for(buffer, types[0]), call)
            return
        together = self.bind(relax.DataflowVar(node.name, tvm.ir.TupleType(types)), call)
        for number, buffer in enumerate(node.outputs):
            if buffer in self.used:
                var = self.name_for(buffer, types[number])
                self.exprs[buffer] = self.bind(var, relax.TupleGetItem(together, number))

    def _type(self, buffer: Any) -> relax.TensorType:
        """Type of a tensor, with the device's memory that the buffer's scope stands for."""
        scope = str(buffer.ty.storage_scope)
        places = self.builder.get().global_infos.get("vdevice", ())
        place = next((p for p in places if str(p.memory_scope) == scope), None)
        return relax.TensorType(list(buffer.shape), str(buffer.dtype), place)

    def _function(self, node: Node, inputs: list[Any], symbols: list[Any]) -> Any:
        """Function of a node; one of the same structure is written once."""
        structure = [inputs, symbols, node.outputs, *map(structure_of, node.stages)]
        bucket = self.functions.setdefault(structural_hash(structure, map_free_vars=True), [])
        for known, attrs, global_var in bucket:
            if _same_attrs(attrs, node.attrs) and structural_equal(
                known, structure, map_free_vars=True
            ):
                return global_var
        func = build_prim_func(node, inputs, symbols)
        global_var = self.builder.add_func(func, node.name.rstrip("0123456789_") or node.name)
        bucket.append((structure, node.attrs, global_var))
        return global_var

    def _write_opaque(self, node: OpaqueNode) -> None:
        binding = node.binding
        replaced: dict[Any, Any] = {}
        for var in self._variables_in(binding.value):
            made = self.graph.variables[var]
            if isinstance(made, tuple):
                parts = [self.exprs.get(part) for part in made]
                if all(part is not None for part in parts):
                    ty = var.ty
                    replaced[var] = self.bind(relax.DataflowVar(var.name, ty), relax.Tuple(parts))
            elif made in self.exprs and not self.exprs[made].same_as(var):
                replaced[var] = self.exprs[made]
        value = structural_map(binding.value, (tvm.ir.Var, lambda v: replaced.get(v, v)))
        if isinstance(binding, relax.MatchCast):
            self.bindings.append(relax.MatchCast(binding.var, value, binding.ty))
        else:
            self.bind(binding.var, value)
        made = self.graph.variables.get(binding.var)
        if isinstance(made, tuple):
            for number, buffer in enumerate(made):
                if buffer is not None and buffer in self.used:
                    var = self.name_for(buffer, binding.var.ty.fields[number])
                    self.exprs[buffer] = self.bind(var, relax.TupleGetItem(binding.var, number))
        elif made is not None:
            self.exprs[made] = binding.var

    def _variables_in(self, expr: Any) -> list[Any]:
        """Variables of the graph that stand for buffers, in the order of their first use."""
        found: dict[Any, None] = {}
        structural_walk(expr, (tvm.ir.Var, lambda var: found.setdefault(var, None)))
        return [var for var in found if self.graph.variables.get(var) is not None]


def _same_attrs(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        structural_equal(tvm_ffi.convert(one[name]), tvm_ffi.convert(other[name])) for name in one
    )


def _free_symbols(node: Node, inputs: list[Any]) -> list[Any]:
    """Shape variables that no parameter's shape defines."""
    defined = {
        dim
        for buffer in [*inputs, *node.outputs]
        for dim in buffer.shape
        if isinstance(dim, tvm.ir.Var)
    }
    bound = {axis.var for stage in node.stages for axis in stage.axes}
    buffers = set(inputs) | {store.buffer for stage in node.stages for store in stage.stores}
    free: dict[Any, None] = {}

    def visit(var: Any) -> None:
        if var not in defined and var not in bound and var not in buffers:
            free.setdefault(var)

    for stage in node.stages:
        for axis in stage.axes:
            structural_walk(axis.extent, (tvm.ir.Var, visit))
        for store in stage.stores:
            for part in (store.value, store.condition, *store.indices):
                if part is not None:
                    structural_walk(part, (tvm.ir.Var, visit))
    for buffer in [*inputs, *node.outputs]:
        for dim in buffer.shape:
            structural_walk(dim, (tvm.ir.Var, visit))
    return list(free)


def write_block(graph: Graph, builder: relax.BlockBuilder) -> relax.DataflowBlock:
    """Dataflow block of a graph; the PrimFuncs go to `builder`, equal ones once."""
    return _Writer(graph, builder).write()


def rewrite_blocks(
    mod: tvm.IRModule, rewrite: Callable[[Graph], object], **reading: bool
) -> tvm.IRModule:
    """Module in which ``rewrite(graph)`` has changed the graph of every dataflow block.

    PrimFuncs are written anew and take the plain names again; those that nobody calls any more are
    left out. `reading` is as of :func:`read_graph`.
    """
    graphs: dict[Any, Graph] = {}
    for func in mod.functions.values():
        for block in _dataflow_blocks(func):
            graph = read_graph(mod, block, **reading)
            rewrite(graph)
            graph.sort()
            graphs[block] = graph
    builder = relax.BlockBuilder(_without_rewritten(mod, graphs))
    changed = {}
    for global_var, func in mod.functions.items():
        if _dataflow_blocks(func):
            blocks = [
                write_block(graphs[block], builder) if block in graphs else block
                for block in func.body.blocks
            ]
            body = relax.SeqExpr(blocks, func.body.body)
            changed[global_var] = relax.Function(
                func.params, body, func.ret_ty, func.is_pure, func.attrs
            )
    result = builder.get()
    for global_var, func in changed.items():
        result.update_func(global_var, func)
    return relax.transform.Normalize()(result)


def _dataflow_blocks(func: Any) -> list[relax.DataflowBlock]:
    if not isinstance(func, relax.Function) or not isinstance(func.body, relax.SeqExpr):
        return []
    return [block for block in func.body.blocks if isinstance(block, relax.DataflowBlock)]


def _without_rewritten(mod: tvm.IRModule, graphs: dict[Any, Graph]) -> tvm.IRModule:
    """Module without the private PrimFuncs that only rewritten nodes called."""
    called: set[Any] = set()

    def visit(global_var: Any) -> None:
        called.add(global_var)

    for func in mod.functions.values():
        if isinstance(func, tirx.PrimFunc):
            structural_walk(func.body, (tvm.ir.GlobalVar, visit))
        elif not _dataflow_blocks(func):
            structural_walk(func, (tvm.ir.GlobalVar, visit))
        else:
            for block in func.body.blocks:
                if block not in graphs:
                    structural_walk(block, (tvm.ir.GlobalVar, visit))
    for graph in graphs.values():
        for node in graph.nodes:
            if isinstance(node, OpaqueNode):
                structural_walk(node.binding.value, (tvm.ir.GlobalVar, visit))
    kept = mod.clone()
    for global_var, func in mod.functions.items():
        private = isinstance(func, tirx.PrimFunc) and "global_symbol" not in func.attrs
        if private and global_var not in called:
            del kept[global_var]
    return kept
