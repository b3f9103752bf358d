"""Small ONNX models that several test files share."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def mlp(batch: int | str = 3, scale: float = 1.0) -> onnx.ModelProto:
    """x [batch, 16] → y [batch, 8] through 32 hidden units, and z: the hidden units transposed."""
    rng = np.random.default_rng(0)
    weights = {
        name: (scale * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in (("w1", (16, 32)), ("b1", (32,)), ("w2", (32, 8)))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["product"]),
        helper.make_node("Add", ["product", "b1"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["y"]),
        helper.make_node("Transpose", ["hidden"], ["z"], perm=[1, 0]),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [_value("x", [batch, 16])],
        [_value("y", [batch, 8]), _value("z", [32, batch])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def mlp_input(batch: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """An input of :func:`mlp`."""
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((batch, 16)).astype(np.float32)}


def mlp_reference(x: np.ndarray, scale: float = 1.0) -> dict[str, np.ndarray]:
    """What :func:`mlp` computes, in float64."""
    w1, b1, w2 = (
        numpy_helper.to_array(tensor).astype(np.float64)
        for tensor in mlp(scale=scale).graph.initializer
    )
    hidden = np.maximum(x.astype(np.float64) @ w1 + b1, 0)
    return {"y": hidden @ w2, "z": hidden.T}


def _value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
