"""What an ONNX graph holds: the operators TVM has no conversion for, and index bounds of inputs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from tvm.relax.frontend.onnx import onnx_frontend

from ..errors import ModelError

STANDARD = {"", "ai.onnx"}
"""Names of the domain of ONNX's own operators."""
_CONTRIB = "com.microsoft"
_CONTRIB_ONLY = {
    "Attention",
    "BiasGelu",
    "EmbedLayerNormalization",
    "FastGelu",
    "MatMulInteger16",
    "SkipLayerNormalization",
}
"""Converters that follow onnxruntime's definition, also where ONNX has another of that name."""
_CONTRIB_SAME = {"Gelu"}
"""Operators with one definition in both domains."""
_SHAPE_ONLY = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_SHOWN = 5


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from nodes(subgraph)


def check_operators(graph: onnx.GraphProto) -> None:
    """Refuse a graph with operators that TVM's importer cannot convert or would mistake."""
    known = {name for name, converter in onnx_frontend._get_convert_map().items() if converter}
    known |= {"Constant", "If"}
    first: dict[tuple[str, str], onnx.NodeProto] = {}
    for node in nodes(graph):
        if node.domain in STANDARD:
            supported = node.op_type in known - _CONTRIB_ONLY
        else:
            supported = node.domain == _CONTRIB and (
                node.op_type in known & (_CONTRIB_ONLY | _CONTRIB_SAME)
            )
        if not supported:
            first.setdefault((node.domain or "ai.onnx", node.op_type), node)
    if first:
        listed = [
            f"{kind} of domain {domain} (node {describe(node)})"
            for (domain, kind), node in list(first.items())[:_SHOWN]
        ]
        more = f" and {len(first) - _SHOWN} more" if len(first) > _SHOWN else ""
        raise ModelError(
            f"the model has operators that cannot be compiled: {', '.join(listed)}{more}. Export "
            "it with standard operators that TVM's importer converts, or replace these nodes."
        )


def describe(node: onnx.NodeProto) -> str:
    """How messages call a node: its name, or what it computes if it has none."""
    if node.name:
        return f"'{node.name}'"
    return f"without a name that computes '{node.output[0] if node.output else '?'}'"


def index_bounds(graph: onnx.GraphProto) -> dict[str, int]:
    """For inputs that index a constant table through Gather: the smallest table's extent."""
    tables = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    origin = {value.name: value.name for value in graph.input if value.name not in tables}
    bounds: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in _SHAPE_ONLY and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        if node.op_type != "Gather" or node.input[0] not in tables or node.input[1] not in origin:
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        name, extent = origin[node.input[1]], tables[node.input[0]][axis]
        bounds[name] = min(extent, bounds.get(name, extent))
    return bounds
