"""Single operators against onnxruntime, at ordinary, odd and degenerate shapes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from smartmem_tvm.checking import output_errors
from smartmem_tvm.compiler import compile as compile_model
from smartmem_tvm.frontend import import_model, random_inputs, reference_outputs

pytestmark = pytest.mark.device
FLOAT = onnx.TensorProto.FLOAT


def graph(op, shapes, constants=(), **attributes):
    """One operator on float inputs of these shapes, then its constant inputs."""
    inputs = [helper.make_tensor_value_info(f"x{i}", FLOAT, s) for i, s in enumerate(shapes)]
    stored = [numpy_helper.from_array(value, f"c{i}") for i, value in enumerate(constants)]
    names = [value.name for value in (*inputs, *stored)]
    node = helper.make_node(op, names, ["y"], **attributes)
    output = helper.make_tensor_value_info("y", FLOAT, None)
    body = helper.make_graph([node], op, inputs, [output], stored)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def ints(*values):
    return np.array(values, dtype=np.int64)


def ones(*shape):
    return np.linspace(0.5, 1.5, int(np.prod(shape)), dtype=np.float32).reshape(shape)


# Not among them: CumSum, whose kernels of TVM are wrong on PoCL and rusticl (not yet explained).
CASES = {
    "matmul": graph("MatMul", [(5, 7), (7, 3)]),
    "matmul_row": graph("MatMul", [(1, 129), (129, 65)]),
    "matmul_column": graph("MatMul", [(65, 33), (33, 1)]),
    "matmul_inner_1": graph("MatMul", [(5, 1), (1, 3)]),
    "matmul_all_1": graph("MatMul", [(1, 1), (1, 1)]),
    "matmul_batched": graph("MatMul", [(2, 3, 17, 19), (2, 3, 19, 5)]),
    "matmul_broadcast": graph("MatMul", [(3, 17, 19), (19, 5)]),
    "gemm_transposed": graph(
        "Gemm", [(7, 5), (3, 7), (3,)], transA=1, transB=1, alpha=0.5, beta=2.0
    ),
    "gemm_inner_1": graph("Gemm", [(5, 1), (1, 3), (3,)]),
    "softmax_rows": graph("Softmax", [(7, 33)], axis=-1),
    "softmax_middle": graph("Softmax", [(3, 5, 7)], axis=1),
    "softmax_1": graph("Softmax", [(7, 1)], axis=-1),
    "layer_norm": graph("LayerNormalization", [(3, 5, 17)], [ones(17), ones(17)], axis=-1),
    "layer_norm_1": graph("LayerNormalization", [(5, 1)], [ones(1), ones(1)], axis=-1),
    "mean_inner": graph("ReduceMean", [(5, 33)], [ints(1)], keepdims=0),
    "mean_outer": graph("ReduceMean", [(33, 5)], [ints(0)], keepdims=0),
    "mean_spatial": graph("ReduceMean", [(1, 13, 7, 7)], [ints(2, 3)], keepdims=1),
    "mean_1": graph("ReduceMean", [(5, 1)], [ints(1)], keepdims=0),
    "sum_all": graph("ReduceSum", [(3, 5, 7)], [ints(0, 1, 2)], keepdims=0),
    "max_middle": graph("ReduceMax", [(3, 33, 5)], [ints(1)], keepdims=0),
    "max_pool": graph(
        "MaxPool", [(1, 3, 9, 9)], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "average_pool": graph("AveragePool", [(1, 3, 9, 7)], kernel_shape=[2, 2], strides=[2, 2]),
    "global_average": graph("GlobalAveragePool", [(1, 17, 7, 7)]),
    "transposed_convolution": graph(
        "ConvTranspose", [(1, 4, 5, 5)], [ones(4, 3, 2, 2), ones(3)], strides=[2, 2]
    ),
    "batch_norm": graph("BatchNormalization", [(1, 5, 3, 3)], [ones(5), ones(5), ones(5), ones(5)]),
    "instance_norm": graph("InstanceNormalization", [(1, 5, 7, 7)], [ones(5), ones(5)]),
    "transpose": graph("Transpose", [(3, 5, 7)], perm=[2, 0, 1]),
    "slice": graph("Slice", [(9, 11)], [ints(1, 2), ints(9, 11), ints(0, 1), ints(2, 3)]),
    "gather": graph("Gather", [(9, 11)], [ints(3, 0, 8, 8)], axis=0),
    "concat": graph("Concat", [(3, 5), (3, 1), (3, 7)], axis=1),
    "pad": graph("Pad", [(3, 5)], [ints(1, 2, 0, 3)]),
    "broadcast_add": graph("Add", [(3, 1, 7), (5, 1)]),
    "tile": graph("Tile", [(3, 5)], [ints(2, 3)]),
    "erf": graph("Erf", [(3, 5)]),
    "einsum": graph("Einsum", [(2, 3, 5), (2, 7, 5)], equation="bik,bjk->bij"),
}


@pytest.mark.parametrize("name", CASES)
def test_operator(name, opencl_device):
    imported = import_model(CASES[name])
    inputs = random_inputs(imported.inputs)
    outputs = compile_model(imported).run(inputs)
    errors = output_errors(outputs, reference_outputs(imported, inputs))
    assert max(errors.values()) < 1e-5
