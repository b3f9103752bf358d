"""``smartmem traffic`` and the traffic that ``smartmem explain`` reports."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

PARAMETERS = 4 * (16 * 32 + 32 + 32 * 8)
INPUTS = 4 * 3 * 16
OUTPUTS = 4 * (3 * 8 + 32 * 3)


def test_traffic_of_a_model(workplace, smartmem_json):
    document = smartmem_json("traffic", "mlp.onnx", "--device", "cpu")
    traffic = document["traffic_bytes"]
    assert traffic["compulsory"] == PARAMETERS + INPUTS + OUTPUTS
    assert traffic["executed"] is None
    kernels = document["kernels"]
    assert traffic["footprint"] == sum(k["launches"] * k["footprint"] for k in kernels)
    # Parameters and inputs are read and outputs written by some kernel.
    assert traffic["footprint"] >= traffic["compulsory"]


def test_explain_reports_the_same(workplace, smartmem_json):
    explained = smartmem_json("explain", "mlp.onnx", "--device", "cpu")["traffic_bytes"]
    measured = smartmem_json("traffic", "mlp.onnx", "--device", "cpu")["traffic_bytes"]
    assert explained == {key: measured[key] for key in ("footprint", "compulsory")}


@pytest.mark.skipif(shutil.which("oclgrind") is None, reason="oclgrind is not installed")
def test_executed_traffic_of_an_artefact(workplace, smartmem, smartmem_json):
    assert smartmem("compile", "mlp.onnx", "--device", "cpu", "-o", "out")[0] == 0
    document = smartmem_json("traffic", "out", "--executed")
    total = document["executed"]
    assert document["traffic_bytes"]["executed"] == (
        total["global_loaded"] + total["global_stored"]
    )
    assert document["traffic_bytes"]["executed"] >= document["traffic_bytes"]["footprint"]
    assert sum(k["executed"]["launches"] for k in document["kernels"]) == total["launches"]
    assert document["traffic_bytes"]["compulsory"] == PARAMETERS + INPUTS + OUTPUTS
    code, text, _ = smartmem("traffic", "out", "--executed")
    assert code == 0
    assert str(document["traffic_bytes"]["executed"]) in text


def test_without_oclgrind_the_remedy_is_named(workplace, smartmem, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, _, err = smartmem("traffic", "mlp.onnx", "--device", "cpu", "--executed")
    assert code == 2
    assert "apt install oclgrind" in err


@pytest.mark.parametrize("words", [("absent.onnx",), ("mlp.onnx", "--timeout", "0")])
def test_bad_usage(workplace, smartmem, words):
    assert smartmem("traffic", *words)[0] == 2


def test_a_damaged_artefact_is_refused(workplace, smartmem):
    (workplace / "out").mkdir()
    np.savez(workplace / "out" / "x.npz", x=np.zeros(1))
    assert smartmem("traffic", "out")[0] == 2
