"""Back from a graph of stages to Relax bindings and their PrimFuncs; see :mod:`._graph`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm_ffi import structural_equal, structural_hash, structural_map, structural_walk

from smartmem_tvm.analysis.computation import structure_of
from smartmem_tvm.analysis.layouts import LAYOUTS

from ._emit_function import build_prim_func
from ._graph import Graph, Node, OpaqueNode, read_graph


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
