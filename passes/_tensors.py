"""Which tensors of a graph may be stored in a layout of their own."""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.ir.expr import GenericConst

from ._graph import Graph, OpaqueNode


def is_constant(graph: Graph, buffer: Any) -> bool:
    """Whether the tensor's elements are known at compile time."""
    return isinstance(graph.external.get(buffer), GenericConst)


def public_tensors(graph: Graph) -> dict[Any, str]:
    """Tensors that others than kernels see, with the reason: they lie row by row.

    Constants are left out: each kernel may have one stored as it likes.
    """
    found = {
        buffer: "it comes from outside of the dataflow block"
        for buffer in graph.external
        if not is_constant(graph, buffer)
    }
    outside = "it is used outside of the dataflow block"
    found |= {buffer: outside for buffer in graph.result_buffers()}
    for node in graph.nodes:
        if isinstance(node, OpaqueNode):
            reason = f"an opaque operator has it ({node.reason})"
            found |= {buffer: reason for buffer in (*node.reads, *node.outputs)}
    return {buffer: reason for buffer, reason in found.items() if not is_constant(graph, buffer)}


def shared_memory(graph: Graph) -> dict[Any, Any]:
    """For each tensor a kernel writes in place, or into which it does, one that stands for all."""
    parent: dict[Any, Any] = {}

    def root(buffer: Any) -> Any:
        while parent.setdefault(buffer, buffer) is not buffer:
            buffer = parent[buffer]
        return buffer

    for node in graph.kernels():
        for output, before in node.inplace.items():
            parent[root(output)] = root(before)
    return {buffer: root(buffer) for buffer in list(parent)}


def is_reshape(func: Any) -> bool:
    """Whether the function leaves every element in its place, so that no kernel is needed."""
    return bool(relax.analysis.has_reshape_pattern(func))
