"""Some of ONNX's node tests on the device; ``make onnx-nodes`` runs all (run_onnx_nodes.py)."""

from __future__ import annotations

import numpy as np
import pytest
import run_onnx_nodes
from onnx_nodes import NOT_IMPORTED, REFUSED, RIGHT, WRONG, _difference, run_test

# One or two of each group of operators.
NAMES = [
    "test_add_bcast",
    "test_argmax_keepdims_example",
    "test_averagepool_2d_pads",
    "test_batchnorm_example",
    "test_clip_example",
    "test_concat_3d_axis_negative_2",
    "test_conv_with_strides_and_asymmetric_padding",
    "test_convtranspose_group_2",
    "test_depthtospace_crd_mode_example",
    "test_einsum_batch_matmul",
    "test_gather_negative_indices",
    "test_gemm_all_attributes",
    "test_layer_normalization_4d_axis_negative_1_expanded",
    "test_logsoftmax_axis_1",
    "test_maxpool_2d_strides",
    "test_mod_mixed_sign_int32",
    "test_rotary_embedding_expanded",
    "test_softmax_large_number",
    "test_tril_pos",
    "test_where_example",
]


@pytest.mark.parametrize("name", NAMES)
def test_onnx_node(name, opencl_device):
    result = run_test(name, "smartmem", opencl_device)
    if "Double precision" in result["reason"]:
        pytest.skip("the device has no double precision")
    assert (result["outcome"], result["reason"]) == (RIGHT, "")


def test_what_cannot_be_imported_is_no_failure(opencl_device):
    result = run_test("test_strnormalizer_nostopwords_nochangecase", "smartmem", opencl_device)
    assert result["outcome"] == NOT_IMPORTED
    assert result["reason"]


def test_difference_names_the_element():
    expected = np.arange(6, dtype="float32").reshape(2, 3)
    assert _difference([expected], [expected]) == ""
    off = expected.copy()
    off[1, 0] = 4
    assert "1 of 6 elements, the first is 4.0 and not 3.0" in _difference([off], [expected])
    assert "int32" in _difference([expected.astype("int32")], [expected])
    assert _difference([expected, expected], [expected]) == "2 outputs, not 1"


def test_what_tvm_takes_and_we_refuse_is_refused(opencl_device):
    result = run_test("test_training_dropout_default", "smartmem", opencl_device)
    assert (result["outcome"], result["tvm_imports"]) == (REFUSED, True)
    assert "training_mode" in result["reason"]


def test_narrow_types_are_passed_as_bytes(opencl_device):
    for name in ("test_cast_FLOAT_to_FLOAT8E4M3FN", "test_cast_INT4_to_INT8"):
        assert run_test(name, "smartmem", opencl_device)["outcome"] == RIGHT


def test_rates_are_of_what_tvm_imports():
    right = {"outcome": RIGHT, "reason": "", "tvm_imports": True}
    wrong = {"outcome": WRONG, "reason": "why", "tvm_imports": True}
    refused = {"outcome": REFUSED, "reason": "no", "tvm_imports": True}
    out = {"outcome": NOT_IMPORTED, "reason": "no such operator", "tvm_imports": False}
    alone = {"outcome": RIGHT, "reason": "", "tvm_imports": False}
    found = run_onnx_nodes.rates(
        {
            "test_a": {"smartmem": right, "tvm": wrong},
            "test_b": {"smartmem": right, "tvm": right},
            "test_c": {"smartmem": out, "tvm": out},
            "test_d": {"smartmem": refused, "tvm": right},
            "test_e": {"smartmem": alone, "tvm": out},
        }
    )
    assert (found["tests"], found["imported"], found["beyond_tvm"]["tests"]) == (5, 3, 1)
    assert found["pipelines"]["smartmem"]["right_percent"] == 66.67
    assert found["pipelines"]["tvm"]["right_percent"] == 66.67
    assert found["differences_from_tvm"]["test_a"] == {"smartmem": "right", "tvm": "wrong: why"}
    assert found["right_with_tvm_alone"] == ["test_d"]
    assert found["not_right"] == {"test_d": {"smartmem": "refused: no", "tvm": "right"}}


def test_worker_that_dies_is_replaced(monkeypatch):
    """A test that kills its process is tried in a new one, and the next test has one too."""
    worker = run_onnx_nodes.Worker("smartmem", timeout=60)
    started = []

    def start(self):
        started.append(self)
        program = "import os\nfor line in iter(input, ''): os.abort()"
        self._process = run_onnx_nodes.subprocess.Popen(
            [run_onnx_nodes.sys.executable, "-c", program],
            stdin=-1, stdout=-1, stderr=-3, text=True,
        )  # fmt: skip
        self._answers = run_onnx_nodes.Queue()
        run_onnx_nodes.threading.Thread(
            target=run_onnx_nodes._forward, args=(self._process.stdout, self._answers)
        ).start()
        return self._process

    monkeypatch.setattr(run_onnx_nodes.Worker, "_start", start)
    try:
        assert worker.run("test_a")["outcome"] == run_onnx_nodes.CRASHED
        assert len(started) == 1
        assert worker.run("test_b")["outcome"] == run_onnx_nodes.CRASHED
        assert len(started) == 2
    finally:
        worker.close()
