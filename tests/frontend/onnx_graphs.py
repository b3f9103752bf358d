"""Small ONNX graphs that the frontend's tests share."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def constant(name: str, values: object, dtype: str = "int64") -> onnx.TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def value(name: str, shape: list[int | str] | None, kind: int = TensorProto.FLOAT):
    """A graph input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, initializers=(), *, opset: int = 17, domains=()):
    """A model from parts."""
    graph = helper.make_graph(list(nodes), "graph", inputs, outputs, list(initializers))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def linear(batch: int | str = 2) -> onnx.ModelProto:
    """relu(x · w + b)."""
    rng = np.random.default_rng(0)
    return model(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"], "product"),
            helper.make_node("Add", ["xw", "b"], ["sum"], "sum"),
            helper.make_node("Relu", ["sum"], ["y"], "activation"),
        ],
        [value("x", [batch, 8])],
        [value("y", [batch, 4])],
        [
            constant("w", rng.standard_normal((8, 4)), "float32"),
            constant("b", rng.standard_normal(4), "float32"),
        ],
    )


def legacy(batch: int | str = 1) -> onnx.ModelProto:
    """What the legacy torch exporter writes for a padded, flattened image.

    Pads come from ``(4 - height % 4) % 4``; the reshape keeps the batch through
    Shape → Gather → Unsqueeze → Concat; heights and widths are 6 and pad to 8.
    """
    node = helper.make_node
    weights = np.random.default_rng(0).standard_normal((5, 3, 3, 3))
    return model(
        [
            node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
            node("Shape", ["c"], ["shape"], "shape"),
            node("Gather", ["shape", "two"], ["height"], "height", axis=0),
            node("Mod", ["height", "four"], ["over"], "over"),
            node("Sub", ["four", "over"], ["short"], "short"),
            node("Mod", ["short", "four"], ["pad"], "pad"),
            node("Unsqueeze", ["pad", "axis"], ["pad1"], "pad1"),
            node("Concat", ["zeros6", "pad1", "pad1"], ["pads"], "pads", axis=0),
            node("Pad", ["c", "pads", "fill"], ["p"], "padded"),
            node("Shape", ["p"], ["shape2"], "shape2"),
            node("Gather", ["shape2", "zero"], ["batch"], "batch", axis=0),
            node("Unsqueeze", ["batch", "axis"], ["batch1"], "batch1"),
            node("Concat", ["batch1", "five", "rest"], ["target"], "target", axis=0),
            node("Reshape", ["p", "target"], ["y"], "flat"),
        ],
        [value("x", [batch, 3, 6, 6])],
        [value("y", [batch, 5, 64])],
        [
            constant("w", weights, "float32"),
            constant("zero", 0),
            constant("two", 2),
            constant("four", 4),
            constant("axis", [0]),
            constant("zeros6", [0] * 6),
            constant("fill", 0.0, "float32"),
            constant("five", [5]),
            constant("rest", [-1]),
        ],
    )


def embedding() -> onnx.ModelProto:
    """Token identifiers look up a table of 7 rows, with a mask beside them."""
    return model(
        [
            helper.make_node("Cast", ["tokens"], ["wide"], "wide", to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "wide"], ["rows"], "look_up", axis=0),
            helper.make_node("Where", ["mask", "rows", "zero"], ["y"], "masked"),
        ],
        [
            value("tokens", [1, 5], TensorProto.INT32),
            value("mask", [1, 5, 1], TensorProto.BOOL),
            value("count", [3], TensorProto.INT64),
        ],
        [value("y", [1, 5, 4])],
        [
            constant("table", np.random.default_rng(0).standard_normal((7, 4)), "float32"),
            constant("zero", 0.0, "float32"),
        ],
    )
