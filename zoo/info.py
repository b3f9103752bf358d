"""Figures of a model: parameters, multiply-accumulates, operators."""

from __future__ import annotations

import math

import onnx

from smartmem_tvm.errors import ModelError

from .registry import DEFAULT_SIZE, load_graph
from .seeding import distribution

_CONTRACTIONS = ("Conv", "Gemm", "MatMul")


def info(name: str, size: str = DEFAULT_SIZE) -> dict[str, object]:
    """Describe a model without drawing its weights.

    Returns
    -------
    dict
        ``name``, ``size``; ``params_m``: trained parameters, in millions; ``macs_g``:
        multiply-accumulates of matrix products and convolutions in one inference, in 1e9;
        ``operators``: nodes of the ONNX graph; ``inputs`` and ``outputs``: shapes by name;
        ``source``: what was exported, and with what.
    """
    model = load_graph(name, size)
    graph = model.graph
    parameters = sum(
        math.prod(tensor.dims) for tensor in graph.initializer if distribution(tensor) is not None
    )
    return {
        "name": name,
        "size": size,
        "params_m": parameters / 1e6,
        "macs_g": count_macs(model) / 1e9,
        "operators": len(graph.node),
        "inputs": {value.name: _extents(value) for value in graph.input},
        "outputs": {value.name: _extents(value) for value in graph.output},
        "source": {entry.key: entry.value for entry in model.metadata_props},
    }


def count_macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of the MatMul, Gemm and Conv nodes of a graph with static shapes."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = _extents(value)
    return sum(_macs(node, shapes) for node in graph.node if node.op_type in _CONTRACTIONS)


def _macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """Elements of the result times the length of the reduction."""
    if node.op_type == "Conv":
        reduced = math.prod(shapes[node.input[1]][1:])
    elif node.op_type == "MatMul":
        reduced = shapes[node.input[0]][-1]
    else:
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        reduced = shapes[node.input[0]][0 if transposed else 1]
    return math.prod(shapes[node.output[0]]) * reduced


def _extents(value: onnx.ValueInfoProto) -> list[int]:
    extents = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if not value.type.tensor_type.HasField("shape") or 0 in extents:
        raise ModelError(f"'{value.name}' has no static shape: its operations cannot be counted.")
    return extents
