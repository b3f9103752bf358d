"""A dataflow block as a graph of stages over shared buffers, for the passes that merge kernels.

Every tensor of the block, whoever makes it, is one buffer. A :class:`Node` is one ``call_tir``
whose PrimFunc could be read (:mod:`smartmem_tvm.analysis.computation`): its stages read and write
these buffers directly, so that joining two nodes is joining their lists of stages. What could not
be read is an :class:`OpaqueNode` and keeps its binding as it was.

:func:`read_graph` and :func:`write_block` are each other's inverse but for names and order:
bindings come back in an order in which everything is defined before it is used.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir.expr import GenericConst
from tvm_ffi import structural_walk

from smartmem_tvm.analysis.computation import (
    OpaqueReason,
    Stage,
    read_stages,
    stored_twice,
    substitute_in_stage,
    with_fresh_axes,
)
from smartmem_tvm.analysis.expressions import substitute
from smartmem_tvm.analysis.layouts import LAYOUTS
from smartmem_tvm.errors import SmartMemError

CALL_TIR = tvm.ir.Op.get("relax.call_tir")
CALL_TIR_INPLACE = tvm.ir.Op.get("relax.call_tir_inplace")


@dataclass(eq=False)
class Node:
    """A kernel: stages, and which of the buffers they write are tensors of the graph.

    Attributes
    ----------
    name
        Hint for the PrimFunc's name.
    stages
        In an order in which each reads only what an earlier one has written.
    outputs
        Buffers that others may read; what else the stages write is internal.
    operators
        Names of the operators that it does the work of.
    inplace
        Outputs that it writes a part of only, each with the buffer that holds the other parts: the
        output is that buffer's memory.
    layouts
        Index maps of the buffers that are not to lie row by row (:mod:`.rewrite_layouts`).
    origin
        The function that it was read from, and what each of its parameters stands for.
    """

    name: str
    stages: list[Stage]
    outputs: list[Any]
    operators: list[str] = field(default_factory=list)
    attrs: dict[str, Any] = field(default_factory=dict)
    inplace: dict[Any, Any] = field(default_factory=dict)
    layouts: dict[Any, Any] = field(default_factory=dict)
    origin: tuple[Any, list[Any]] | None = None

    def inputs(self) -> list[Any]:
        """Buffers that it needs and does not make, in the order of first use."""
        written = {store.buffer for stage in self.stages for store in stage.stores}
        seen: dict[Any, None] = {}
        for stage in self.stages:
            for load in stage.loads():
                if load.source not in written:
                    seen.setdefault(load.source)
        return [*seen, *self.inplace.values()]


@dataclass(eq=False)
class OpaqueNode:
    """A binding that is kept as it is, with the reason."""

    binding: Any
    reads: list[Any]
    outputs: list[Any]
    reason: str

    def inputs(self) -> list[Any]:
        """Buffers, and Relax variables that are not tensors, that it reads."""
        return self.reads


@dataclass(eq=False)
class Graph:
    """One dataflow block.

    Attributes
    ----------
    nodes
        In an order of dependence.
    external
        Relax expression of each buffer that comes from outside: parameter, constant, earlier block.
    results
        Relax variables that are used outside of the block, with their buffers.
    """

    nodes: list[Node | OpaqueNode]
    external: dict[Any, Any]
    results: dict[Any, Any]
    variables: dict[Any, Any] = field(default_factory=dict)

    def kernels(self) -> Iterator[Node]:
        """Nodes that are not opaque."""
        return (node for node in self.nodes if isinstance(node, Node))

    def producers(self) -> dict[Any, Node | OpaqueNode]:
        """Node that makes each buffer."""
        return {buffer: node for node in self.nodes for buffer in node.outputs}

    def consumers(self) -> dict[Any, list[Node | OpaqueNode]]:
        """Nodes that read each buffer."""
        found: dict[Any, list[Node | OpaqueNode]] = {}
        for node in self.nodes:
            for buffer in node.inputs():
                found.setdefault(buffer, []).append(node)
        return found

    def result_buffers(self) -> set[Any]:
        """Buffers that are used outside of the block."""
        found: set[Any] = set()
        for var, buffer in self.results.items():
            parts = self.variables.get(var) if buffer is None else buffer
            for part in parts if isinstance(parts, tuple) else (parts,):
                if part is not None:
                    found.add(part)
        return found

    def sort(self) -> None:
        """Put the nodes in an order of dependence, the given one where that allows it."""
        position = {node: number for number, node in enumerate(self.nodes)}
        producers = self.producers()
        waiting: dict[Node | OpaqueNode, int] = {}
        after: dict[Node | OpaqueNode, list[Node | OpaqueNode]] = {}
        for node in self.nodes:
            before = {producers[b] for b in node.inputs() if b in producers} - {node}
            waiting[node] = len(before)
            for other in before:
                after.setdefault(other, []).append(node)
        ready = [position[node] for node in self.nodes if not waiting[node]]
        heapq.heapify(ready)
        order: list[Node | OpaqueNode] = []
        while ready:
            node = self.nodes[heapq.heappop(ready)]
            order.append(node)
            for follower in after.get(node, ()):
                waiting[follower] -= 1
                if not waiting[follower]:
                    heapq.heappush(ready, position[follower])
        if len(order) != len(self.nodes):
            raise ValueError("kernels of the graph depend on each other in a circle")
        self.nodes = order


class _Reader:
    def __init__(self, mod: tvm.IRModule, *, in_place: bool, repeated: bool) -> None:
        self.mod = mod
        self.in_place = in_place
        self.repeated = repeated
        self.values: dict[Any, Any] = {}  # relax variable → buffer, or tuple of buffers
        self.constants: dict[Any, Any] = {}
        self.graph = Graph([], {}, {})
        self.stages: dict[Any, list[Stage] | OpaqueReason] = {}
        self.part_names: dict[tuple[Any, int], str] = {}  # (tuple, index) → the part's variable

    def buffer_of(self, expr: Any) -> Any:
        """Buffer of a Relax variable or constant; None for what is not a tensor of known shape."""
        if isinstance(expr, tvm.ir.Var):
            if expr not in self.values:
                self.values[expr] = made = self.declare(expr.ty, expr.name)
                if made is not None and not isinstance(made, tuple):
                    self.graph.external[made] = expr
            made = self.values[expr]
            return None if isinstance(made, tuple) else made
        if isinstance(expr, GenericConst):
            if expr not in self.constants:
                self.constants[expr] = buffer = self.declare(expr.ty, "constant")
                self.graph.external[buffer] = expr
            return self.constants[expr]
        return None

    def declare(self, ty: Any, name: str) -> Any:
        """Buffer of a tensor type, tuple of buffers of a tuple type, otherwise None."""
        if isinstance(ty, tvm.ir.TupleType):
            return tuple(self.declare(part, f"{name}_{i}") for i, part in enumerate(ty.fields))
        if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
            return None
        return tirx.decl_buffer(list(ty.shape.values), str(ty.dtype), name, layout=None)

    def declare_result(self, var: Any) -> Any:
        """As `declare`; parts of a tuple are called as the variables that they are bound to."""
        if not isinstance(var.ty, tvm.ir.TupleType):
            return self.declare(var.ty, var.name)
        return tuple(
            self.declare(part, self.part_names.get((var, number), f"{var.name}_{number}"))
            for number, part in enumerate(var.ty.fields)
        )

    def read(self, block: relax.DataflowBlock) -> Graph:
        for binding in block.bindings:
            if isinstance(binding.value, relax.TupleGetItem):
                place = (binding.value.tuple_value, int(binding.value.index))
                self.part_names.setdefault(place, binding.var.name)
        for binding in block.bindings:
            var = binding.var
            if not self._read_alias(binding):
                node = self._read_call(binding) or self._opaque(binding, "not a call_tir")
                if isinstance(node, str):
                    node = self._opaque(binding, node)
                self.graph.nodes.append(node)
            if not isinstance(var, relax.DataflowVar):
                made = self.values.get(var)
                if isinstance(made, tuple) or made is None:
                    made = None
                self.graph.results[var] = made
        return self.graph

    def _read_alias(self, binding: Any) -> bool:
        value = binding.value
        if isinstance(value, relax.TupleGetItem) and isinstance(value.tuple_value, tvm.ir.Var):
            parts = self.values.get(value.tuple_value)
            if isinstance(parts, tuple) and parts[value.index] is not None:
                self.values[binding.var] = parts[value.index]
                return True
        if isinstance(value, tvm.ir.Var):
            made = self.buffer_of(value)
            made = self.values[value] if made is None else made
            if made is not None:
                self.values[binding.var] = made
                return True
        if isinstance(value, relax.Tuple):
            buffers = tuple(self.buffer_of(part) for part in value.fields)
            if all(buffer is not None for buffer in buffers):
                self.values[binding.var] = buffers
                return True
        return False

    def _opaque(self, binding: Any, reason: str) -> OpaqueNode:
        reads: dict[Any, None] = {}

        def visit(var: Any) -> None:
            made = self.values.get(var)
            if made is None and self.buffer_of(var) is not None:
                made = self.values[var]
            for key in made if isinstance(made, tuple) else (made,):
                reads.setdefault(var if key is None else key)

        structural_walk(binding.value, (tvm.ir.Var, visit))
        made = self.declare_result(binding.var)
        self.values[binding.var] = made
        parts = made if isinstance(made, tuple) else (made,)
        outputs = [binding.var if part is None else part for part in parts]
        return OpaqueNode(binding, list(reads), outputs, reason)

    def _read_call(self, binding: Any) -> Node | str | None:
        call = binding.value
        if not isinstance(call, relax.Call):
            return None
        inplace = call.op.same_as(CALL_TIR_INPLACE)
        if not inplace and not call.op.same_as(CALL_TIR):
            return None
        if inplace and not self.in_place:
            return "it writes into the memory of an operand"
        global_var, arguments = call.args[0], call.args[1]
        func = self.mod[global_var]
        if global_var not in self.stages:
            self.stages[global_var] = read_stages(func)
        stages = self.stages[global_var]
        if isinstance(stages, OpaqueReason):
            return stages.reason
        twice = None if self.repeated else next(filter(None, map(stored_twice, stages)), None)
        if twice is not None:
            return twice
        reads = [
            argument if isinstance(argument.ty, tvm.ir.PrimType) else self.buffer_of(argument)
            for argument in arguments.fields
        ]
        made = self.declare_result(binding.var)
        outputs = list(made) if isinstance(made, tuple) else [made]
        if any(buffer is None for buffer in (*reads, *outputs)):
            return "a tensor has no known shape"
        written = {
            int(place): number
            for number, place in enumerate(call.attrs.inplace_indices if inplace else [])
            if int(place) >= 0
        }
        if any(reads.count(reads[place]) > 1 for place in written):
            return "it reads, as another operand, the memory that it writes into"
        parameters = [outputs[written[n]] if n in written else b for n, b in enumerate(reads)]
        parameters += [b for n, b in enumerate(outputs) if n not in written.values()]
        values = _bind(func.params, parameters)
        if values is None:
            return "its parameters do not match its arguments"
        self.values[binding.var] = made
        node = Node(
            global_var.name_hint,
            [with_fresh_axes(stage, values) for stage in stages],
            outputs,
            [binding.var.name],
            inplace={outputs[number]: reads[place] for place, number in written.items()},
            layouts=_layouts_of(func, global_var.name_hint, parameters),
            origin=(global_var, parameters),
        )
        internal: dict[Any, Any] = {}
        for stage in node.stages:
            for store in stage.stores:
                if store.buffer not in outputs:
                    old = store.buffer
                    internal[old] = tirx.decl_buffer(
                        [substitute(d, values) for d in old.shape],
                        old.dtype,
                        old.name,
                        layout=None,
                    )
        if internal:
            node.stages = [substitute_in_stage(stage, internal) for stage in node.stages]
        return node


def _layouts_of(func: tirx.PrimFunc, name: str, parameters: list[Any]) -> dict[Any, Any]:
    """Index map of each buffer that the function's attribute gives one."""
    maps = func.attrs.get(LAYOUTS) or [None] * len(parameters)
    if len(maps) != len(parameters):
        raise SmartMemError(
            f"the attribute {LAYOUTS} of function '{name}' has {len(maps)} entries, but it has "
            f"{len(parameters)} parameters: give each an index map or None"
        )
    return {b: m for b, m in zip(parameters, maps, strict=True) if m is not None}


def _bind(params: Any, arguments: list[Any]) -> dict[Any, Any] | None:
    """What each parameter, and each symbol in the parameters' shapes, stands for in this call."""
    if len(params) != len(arguments):
        return None
    values: dict[Any, Any] = dict(zip(params, arguments, strict=True))
    for param, argument in zip(params, arguments, strict=True):
        if isinstance(param.ty, tvm.ir.PrimType):
            continue
        if len(param.shape) != len(argument.shape):
            return None
        for dim, actual in zip(param.shape, argument.shape, strict=True):
            if isinstance(dim, tvm.ir.Var):
                values.setdefault(dim, actual)
    return values


def read_graph(
    mod: tvm.IRModule,
    block: relax.DataflowBlock,
    *,
    in_place: bool = False,
    repeated: bool = False,
) -> Graph:
    """Graph of a dataflow block.

    Kernels that write into an operand's memory are nodes with `in_place`; without it they are
    opaque, for the passes that join kernels: joined, they would write before others have read.
    Likewise kernels with a stage that stores in a buffer twice, with `repeated` or `in_place`:
    ConcatenateInPlace makes such stages, and the passes before it look for one store of an element.
    """
    reader = _Reader(mod, in_place=in_place, repeated=in_place or repeated)
    graph = reader.read(block)
    graph.variables = reader.values
    return graph
