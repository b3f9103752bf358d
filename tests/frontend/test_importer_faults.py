"""Each operator that TVM's importer converts wrongly: ours is right, and TVM's is still wrong.

Where the second fails, TVM has mended it: remove the converter (smartmem_tvm/frontend).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from host import run_on_host
from onnx import TensorProto, helper
from onnx_graphs import constant, model, value

from smartmem_tvm.errors import ModelError
from smartmem_tvm.frontend import import_model
from smartmem_tvm.frontend.importer_faults import CONVERTERS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "onnx_backend"))
from onnx_nodes import RIGHT, _array, _difference, node_tests, run_test

# ONNX's own test of each operator that is converted here.
NODE_TESTS = {
    "BatchNormalization": "test_batchnorm_example_training_mode",
    "BitShift": "test_bitshift_right_int32_shift_ge_width",
    "ConvTranspose": "test_convtranspose_output_shape",
    "Dropout": "test_dropout_default_mask",
    "IsInf": "test_isinf_positive",
    "LayerNormalization": "test_layer_normalization_3d_axis1_epsilon",
    "Mod": "test_mod_float_edge_cases_fmod_0_float32",
    "Pow": "test_pow_types_int64_int64",
    "RMSNormalization": "test_rms_normalization_3d_axis0_epsilon",
    "SpaceToDepth": "test_spacetodepth_crd_mode_example",
}
REFUSED = {
    "Dropout": "test_training_dropout_default",
    "NonMaxSuppression": "test_nonmaxsuppression_suppress_by_IOU",
    "RoiAlign": "test_roialign_mode_max",
}
ELSEWHERE = {"ReduceLogSumExp"}  # no test of ONNX's has infinite elements


def test_every_converter_is_tested():
    assert set(CONVERTERS) == set(NODE_TESTS) | set(REFUSED) | ELSEWHERE


@pytest.mark.parametrize("name", NODE_TESTS.values())
def test_converted(name):
    case = node_tests()[name]
    imported = import_model(case.model)
    for inputs, outputs in case.data_sets:
        names = [spec.name for spec in imported.inputs]
        given = dict(zip(names, map(_array, inputs), strict=True))
        made = list(run_on_host(imported, given).values())
        assert _difference(made, [_array(output) for output in outputs]) == ""


@pytest.mark.parametrize("name", REFUSED.values())
def test_refused(name):
    kind = next(kind for kind, test in REFUSED.items() if test == name)
    with pytest.raises(ModelError, match=f"operator {kind} .* cannot be converted: "):
        import_model(node_tests()[name].model)


@pytest.mark.parametrize("name", [*NODE_TESTS.values(), *REFUSED.values()])
def test_upstream_is_still_wrong(name):
    assert run_test(name, "host", None)["outcome"] != RIGHT, "TVM has mended it"


@pytest.mark.parametrize("opset", [13, 18])
def test_log_sum_exp_of_infinite_elements(opset):
    attributes = {"axes": [1]} if opset < 18 else {}
    node = helper.make_node(
        "ReduceLogSumExp", ["x", "axes"][: 1 + (opset >= 18)], ["y"], **attributes
    )
    given = model(
        [node], [value("x", [3, 2])], [value("y", [3, 1])], [constant("axes", [1])], opset=opset
    )
    x = np.array([[-np.inf, -np.inf], [0, np.inf], [1, 2]], "float32")
    (y,) = run_on_host(import_model(given), {"x": x}).values()
    expected = [[-np.inf], [np.inf], [np.logaddexp(1, 2)]]
    np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_dropout_that_drops_nothing(ratio):
    given = model(
        [helper.make_node("Dropout", ["x", "ratio", "training"], ["y", "kept"])],
        [value("x", [3])],
        [value("y", [3]), value("kept", [3], TensorProto.BOOL)],
        [constant("ratio", ratio, "float32"), constant("training", ratio == 0, "bool")],
    )
    x = np.arange(3, dtype="float32")
    made = run_on_host(import_model(given), {"x": x})
    np.testing.assert_array_equal(made["y"], x)
    np.testing.assert_array_equal(made["kept"], [True] * 3)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_powers_of_integers_wrap(dtype):
    base, exponent = (
        np.array(v, dtype) for v in ([3, 2, -1, -1, 1, 0, 7], [40, 62, 65, 66, 70, 64, 0])
    )
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    given = model(
        [helper.make_node("Pow", ["x", "y"], ["z"])],
        [value("x", [7], kind), value("y", [7], kind)],
        [value("z", [7], kind)],
    )
    (z,) = run_on_host(import_model(given), {"x": base, "y": exponent}).values()
    np.testing.assert_array_equal(z, np.power(base, exponent))


def test_outputs_that_are_no_tensors():
    with pytest.raises(ModelError, match=r"output '\w+' is no tensor \(sequence_type\)"):
        import_model(node_tests()["test_split_to_sequence_nokeepdims"].model)


def test_operator_set_that_onnxruntime_lacks():
    given = node_tests()["test_depthtospace_example_expanded"].model
    assert onnx.defs.onnx_opset_version() >= given.opset_import[0].version
    assert import_model(given).operators == 3
