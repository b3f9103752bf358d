"""Convolutions against onnxruntime: kernel sizes, groups, strides, odd extents."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from smartmem_tvm.checking import output_errors
from smartmem_tvm.compiler import compile as compile_model
from smartmem_tvm.frontend import import_model, random_inputs, reference_outputs

pytestmark = pytest.mark.device


def convolution(channels: int, filters: int, groups: int, kernel: int, size: int, stride: int = 1):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((filters, channels // groups, kernel, kernel)).astype("float32")
    bias = rng.standard_normal(filters).astype("float32")
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, channels, size, size])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], group=groups, pads=[kernel // 2] * 4, strides=[stride] * 2
    )
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph([node], "convolution", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    "shape",
    [
        (32, 64, 8, 1, 14),  # dlight's Reduction rule is wrong on the grouped 1x1 ones
        (16, 32, 4, 1, 7),
        (16, 32, 4, 1, 8),
        (16, 16, 4, 3, 7),
        (8, 8, 8, 3, 7, 2),
        (3, 5, 1, 3, 9, 2),
        (1, 1, 1, 1, 1),
    ],
)
def test_convolution(shape, opencl_device):
    imported = import_model(convolution(*shape))
    inputs = random_inputs(imported.inputs)
    outputs = compile_model(imported).run(inputs)
    errors = output_errors(outputs, reference_outputs(imported, inputs))
    assert max(errors.values()) < 1e-5
