"""Whether the kernels of a graph could write and read a tensor by whole texels."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import tvm
from tvm import sym, tirx
from tvm_ffi import structural_equal

from smartmem_tvm.analysis.computation import Axis
from smartmem_tvm.analysis.expressions import const, static, substitute
from smartmem_tvm.analysis.fused_kernel import Kernel, NotAKernel, read_kernel
from smartmem_tvm.analysis.kernel_work import Work, bounds_of, list_work
from smartmem_tvm.analysis.texels import LANES, lane_axis

from ._graph import Node
from ._tensors import is_reshape


class TexelAccesses:
    """What the kernels of a module, as schedules will see them, do with dimensions of tensors."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self._functions: dict[Any, _Function | str] = {}

    def refusal(self, node: Node) -> str | None:
        """Why nothing is known of a node, which then has its tensors in buffers."""
        found = self._function(node)
        return found if isinstance(found, str) else None

    def lanes_written(self, node: Node, buffer: Any, dim: int) -> Any:
        """The sink's axis along a texel, None where texels are not written as a whole."""
        function = self._read(node)
        return function.lanes_written(_parameters(function.kernel, node, buffer), dim)

    def lanes_read(self, node: Node, buffer: Any, dim: int) -> list[Any]:
        """For each place in a kernel that reads the tensor, the axis along a texel, or None."""
        function = self._read(node)
        return function.lanes_read(_parameters(function.kernel, node, buffer), dim)

    def is_sink_axis(self, node: Node, var: Any) -> bool:
        """Whether a variable of a kernel is an axis of its output; otherwise it is reduced over."""
        return any(axis.var.same_as(var) for axis in self._read(node).kernel.sink.axes)

    def _read(self, node: Node) -> _Function:
        found = self._function(node)
        if isinstance(found, str):
            raise LookupError(f"kernel '{node.name}' could not be read: {found}")
        return found

    def _function(self, node: Node) -> _Function | str:
        if node.origin is None:
            return "it was not read from a function"
        global_var, _ = node.origin
        if global_var not in self._functions:
            self._functions[global_var] = _read_function(self.mod[global_var])
        return self._functions[global_var]


class _Function:
    """One function, read once for all nodes and tensors that it stands for."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    @cached_property
    def _work(self) -> list[Work]:
        return list_work(self.kernel)

    @cached_property
    def _bounds(self) -> sym.Analyzer:
        return bounds_of(self.kernel, self._work)

    def lanes_written(self, mine: list[Any], dim: int) -> Any:
        sink = self.kernel.sink
        stores = [store for store in sink.stores if any(store.buffer.same_as(p) for p in mine)]
        axis: Axis | None = None
        for store in stores:
            var = lane_axis(store.indices[dim], self._bounds)
            found = next((a for a in sink.axes if a.var.same_as(var)), None)
            if found is None or (static(found.extent) or 1) % LANES:
                return None
            if axis is not None and found is not axis:
                return None
            axis = found
            place = [i // const(LANES, i) if d == dim else i for d, i in enumerate(store.indices)]
            if store.condition is not None:
                place.append(store.condition)
            if not all(_same_in_a_texel(part, axis, self._bounds) for part in place):
                return None
        return None if axis is None else axis.var

    def lanes_read(self, mine: list[Any], dim: int) -> list[Any]:
        return [
            lane_axis(access.indices[dim], self._bounds)
            for part in self._work
            for access in part.accesses[: len(part.accesses) - part.writes]
            if any(access.buffer.same_as(parameter) for parameter in mine)
        ]


def _read_function(func: tirx.PrimFunc) -> _Function | str:
    if is_reshape(func):
        return "it only gives the tensor another shape"
    try:
        return _Function(read_kernel(func))
    except NotAKernel as error:
        return str(error)


def _parameters(kernel: Kernel, node: Node, buffer: Any) -> list[Any]:
    """Parameters of a node's function that stand for a tensor."""
    _, arguments = node.origin or (None, [])
    pairs = zip(kernel.func.params, arguments, strict=True)
    return [parameter for parameter, argument in pairs if argument.same_as(buffer)]


def _same_in_a_texel(expr: Any, axis: Axis, analyzer: sym.Analyzer) -> bool:
    """Whether an expression is the same for all four lanes along an axis."""
    texel = tirx.Var("texel", axis.var.ty)
    count = const(int(axis.extent) // LANES, texel)
    analyzer.bind(texel, tvm.ir.Range(const(0, texel), count))
    first = texel * const(LANES, texel)
    values = [
        analyzer.simplify(substitute(expr, {axis.var: first + const(lane, texel)}))
        for lane in range(LANES)
    ]
    return all(structural_equal(value, values[0]) for value in values[1:])
