"""``smartmem explain``: nothing is built or launched, so no device is needed."""

from __future__ import annotations

import pytest

from smartmem_tvm.pipeline import SWITCHES

EXPLAIN = ("explain", "mlp.onnx", "--device", "adreno-740")


def test_the_document(workplace, smartmem_json):
    document = smartmem_json(*EXPLAIN)
    assert (document["model"], document["device"], document["dtype"]) == (
        "mlp",
        "adreno-740",
        "float32",
    )
    assert (document["operators"], document["kernels"], document["layout_kernels"]) == (5, 2, 0)
    assert document["layout_transforms"] == {"before": 1, "eliminated": 1, "kept": []}
    assert document["index_divisions"] == {"before": 0, "after": 0, "inner_loops": 0}
    assert document["kernel_floor"] == {"ild": 2, "opaque": 0, "bound": 4}
    traffic = document["traffic_bytes"]
    assert traffic["footprint"] >= traffic["compulsory"] > 0
    rows = document["per_kernel"]
    assert sum(row["calls"] for row in rows) == document["kernels"]
    assert sum(row["footprint_bytes"] for row in rows) == traffic["footprint"]
    assert set(document["stages_s"]) >= {"simplify", "legalise", "eliminate", "schedule"}
    assert [(f["kind"], f["layout_class"], f["fate"]) for f in document["fates"]] == [
        ("matmul", "ILD", "kernel"),
        ("add", "ILI", "fused"),
        ("relu", "ILI", "fused"),
        ("matmul1", "ILD", "kernel"),
        ("transpose", "fixed", "fused"),
    ]
    names = {row["func"] for row in rows}
    assert all(fate["kernels"] and set(fate["kernels"]) <= names for fate in document["fates"])


def test_half_precision_says_where(workplace, smartmem, smartmem_json):
    half = smartmem_json(*EXPLAIN, "--dtype", "float16")["half"]
    assert "half" not in smartmem_json(*EXPLAIN)
    found = {entry["operator"]: entry for entry in half["operators"]}
    assert found["nn.relu"]["stored"] == "float16"
    assert found["add"]["stored"] == "register"
    assert found["matmul"]["reads"] == "float16"
    assert all(entry["reason"] and entry["count"] > 0 for entry in half["operators"])
    assert half["bytes"]["activations"]["float16"] > 0
    assert half["bytes"]["constants"]["float16"] > half["bytes"]["constants"].get("float32", 0)
    out = smartmem(*EXPLAIN, "--dtype", "float16")[1]
    assert "Half precision" in out
    assert "read by other kernels" in out
    assert "Half precision" not in smartmem(*EXPLAIN)[1]


def test_the_tensors(workplace, smartmem, smartmem_json):
    document = smartmem_json(*EXPLAIN)
    tensors = {tensor["name"]: tensor for tensor in document["tensors"]}
    assert {"name", "shape", "layout", "scope", "bytes", "copies", "reason", "readings"} <= set(
        next(iter(tensors.values()))
    )
    assert {tensor["scope"] for tensor in tensors.values()} == {"global", "global.texture"}
    total = sum(tensor["bytes"] for tensor in tensors.values())
    copies = sum(tensor["copies"] for tensor in tensors.values())
    assert document["tensor_bytes"] == {"total": total, "copies": copies}
    operands = [r for t in tensors.values() for r in t["readings"] if r["reduced"]]
    assert len(operands) == 4  # of two matrix products
    assert sum(document["operand_readings"].values()) == 4
    assert sum(document["scheduled_readings"].values()) == 4
    names = {row["func"] for row in document["per_kernel"]}
    assert {reading["kernel"] for reading in operands} == names
    code, out, err = smartmem(*EXPLAIN)
    assert (code, err) == (0, "")
    assert "Tensors" in out
    assert "Operands read along a reduced axis" in out
    for name in tensors:
        assert name in out


def test_what_is_kept_has_its_reason(workplace, smartmem, smartmem_json):
    options = ("--disable", "fuse")
    document = smartmem_json(*EXPLAIN, *options)
    assert document["layout_kernels"] == 1
    (kept,) = document["layout_transforms"]["kept"]
    assert kept["reason"] == "a graph output"
    assert "(transpose)" in kept["op"]
    code, out, err = smartmem(*EXPLAIN, *options)
    assert (code, err) == (0, "")
    assert "Kept, and why" in out
    assert "a graph output" in out


def test_the_tables(workplace, smartmem):
    code, out, err = smartmem(*EXPLAIN)
    assert (code, err) == (0, "")
    assert "layout transforms" in out
    assert "Every operator" not in out
    assert "Kept, and why" not in out
    code, out, err = smartmem(*EXPLAIN, "--operators")
    assert (code, err) == (0, "")
    assert "Every operator" in out
    for kind in ("matmul1", "transpose", "relu"):
        assert kind in out


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_is_taken(workplace, smartmem_json, switch):
    document = smartmem_json(*EXPLAIN, "--disable", switch)
    assert document["kernels"] >= 2


def test_several_switches(workplace, smartmem_json):
    options = [word for switch in SWITCHES for word in ("--disable", switch)]
    document = smartmem_json(*EXPLAIN, *options)
    assert (document["kernels"], document["layout_kernels"]) == (5, 1)
    assert {fate["fate"] for fate in document["fates"]} == {"kernel"}


def test_an_unknown_switch_is_bad_usage(workplace, smartmem):
    code, out, err = smartmem(*EXPLAIN, "--disable", "everything")
    assert (code, out) == (2, "")
    assert "'everything'" in err
    for switch in SWITCHES:
        assert switch in err
