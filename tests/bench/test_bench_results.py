from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from smartmem_tvm import zoo
from smartmem_tvm.bench.arrays import read_arrays, write_arrays
from smartmem_tvm.bench.page import NOTHING_YET, render
from smartmem_tvm.bench.results import (
    Document,
    Record,
    geomean_ratios,
    read_document,
    roofline,
)
from smartmem_tvm.bench.runners import parse_choice, parse_choices
from smartmem_tvm.errors import SmartMemError

PAPER = {
    "source": "the paper",
    "setting": "a phone",
    "models": {
        "swin": {
            "operators": 765,
            "operators_after": {"MNN": 596, "TVM": 374, "DNNFusion": 207, "SmartMem": 158},
            "latency_ms": {"MNN": 372.0, "TVM": 158.0, "DNNFusion": 135.0, "SmartMem": 30.6},
        }
    },
}


def document(*records, **fields):
    models = {}
    for record in records:
        entry = models.setdefault(
            f"{record.model}/{record.size}",
            {
                "commit": "abc",
                "load_average": 1.0,
                "facts": {"macs_g": 4.5, "compulsory_bytes": 120e6, "operators": 760},
                "records": [],
            },
        )
        entry["records"].append(asdict(record))
    environment = {
        "machine": {"processor": "P", "cores": 2, "memory_gib": 23.0},
        "opencl_device": {"name": "D", "driver": "1", "platform": "O"},
        "versions": {"numpy": "2"},
    }
    settings = {
        "size": "full",
        "runners": ["smartmem", "tvm"],
        "repeats": 5,
        "device": "auto",
        "opencl_device": None,
        "dtype": "float32",
        "threads": 2,
    }
    probes = {"numpy-gemm": {"rate": 200e9}, "copy-bandwidth": {"rate": 16e9}}
    return Document(settings, environment, probes=probes, models=models, complete=True, **fields)


def times(median):
    return {"median": median, "min": median - 1, "max": median + 1, "n": 5}


OURS = Record("swin", "full", "smartmem", latency_ms=times(90.0), kernels=158, layout_kernels=3)
TVM = Record("swin", "full", "tvm", latency_ms=times(900.0), kernels=210, ratio=0.1)
ADRENO = Record(
    "swin", "full", "tvm-adreno", "wrong", times(500.0), kernels=300, failed="wrong: error 1"
)


def test_geometric_means():
    rows = [Record("a", "full", "x", ratio=0.5), Record("b", "full", "x", ratio=2.0)]
    assert geomean_ratios([*rows, OURS, ADRENO]) == {
        "x": {"ratio": pytest.approx(1.0), "models": 2}
    }


def test_roofline():
    probes = {"numpy-gemm": {"rate": 200e9}, "copy-bandwidth": {"rate": 16e9}}
    assert roofline({"macs_g": 10.0, "compulsory_bytes": 16e6}, probes) == pytest.approx(100.0)
    assert roofline({"macs_g": 0.1, "compulsory_bytes": 16e8}, probes) == pytest.approx(100.0)
    assert roofline({"macs_g": 10.0}, probes) is None
    failed = {**probes, "numpy-gemm": {"rate": None}}
    assert roofline({"macs_g": 1.0, "compulsory_bytes": 1}, failed) is None


def test_documents_survive_files(tmp_path):
    infinite = Record("a", "full", "x", "wrong", max_rel_error=math.inf, failed="wrong: inf")
    original = document(OURS, infinite)
    path = tmp_path / "r.json"
    original.save(path)
    again = read_document(path)
    assert again.matches(original)
    assert again.records()[0] == OURS
    assert again.records()[1].max_rel_error is None  # JSON has no infinity
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def test_a_wrong_result_stays_called_wrong():
    record = Record("a", "full", "x")
    record.fail("wrong: error")
    record.fail("time: too long")
    assert (record.status, record.failed) == ("wrong", "wrong: error")


def test_arrays_have_any_names(tmp_path):
    arrays = {"a/b": np.arange(3), "file": np.ones((2, 1), np.float32), "": np.array(True)}
    write_arrays(tmp_path / "x.npz", arrays)
    again = read_arrays(tmp_path / "x.npz")
    assert list(again) == list(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(again[name], value)
        assert again[name].dtype == value.dtype


def test_page():
    text = render({"full.json": document(OURS, TVM, ADRENO)}, PAPER)
    assert "smartmem bench --models swin/full --size full --against tvm --repeats 5" in text
    # 2 * 4.5 GMACs at 200 GFLOP/s are 45 ms: half of 90.
    assert "| swin/full | 4.5 | 90.00 [89.00, 91.00] | 50.0% | 900 [899, 901] | 0.100 |" in text
    assert "500 [499, 501] **wrong** | – |" in text
    assert "| swin/full | 760 | 158, 3 | 210, ? | 300, ? | 765 | 596 | 374 | 207 | 158 |" in text
    assert f"| swin/full | 0.100 | {30.6 / 158:.3f} | – |" in text
    assert "- swin on tvm-adreno: wrong: error 1" in text
    assert "interrupted" not in text
    assert "disturbed" not in text
    assert render({}, PAPER) == NOTHING_YET
    busy = document(OURS, TVM)
    busy.models["swin/full"]["load_average"] = 9.0
    assert "**disturbed**" in render({"full.json": busy}, PAPER)


def test_choices():
    assert [choice.label for choice in parse_choices(["tvm", "smartmem", "tvm"])] == [
        "smartmem",
        "tvm",
    ]
    half = parse_choice("smartmem:dtype=float16")
    assert (half.name, half.options) == ("smartmem", {"dtype": "float16"})
    assert half.runner.dtype("float32", half.options) == "float16"
    assert parse_choice("numpy-gemm").is_probe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "no runner 'nothing': choose from smartmem, tvm, "),
        ("smartmem:size=1", "no switch 'size': it has dtype"),
        ("tvm:dtype=float16", "no switch 'dtype': it has none"),
        ("smartmem:dtype=int4", "cannot be 'int4': use float32 or float16"),
        ("smartmem:dtype", "cannot be ''"),
    ],
)
def test_wrong_choices(text, message):
    with pytest.raises(SmartMemError, match=message):
        parse_choice(text)


def test_the_page_is_that_of_the_results():
    script = Path(__file__).parent.parent.parent / "benchmarks" / "page.py"
    spec = importlib.util.spec_from_file_location("benchmarks_page", script)
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert page.main(["--check"]) == 0


def test_the_paper_names_models_as_the_zoo_does():
    folder = Path(__file__).parent.parent.parent / "benchmarks"
    paper = json.loads((folder / "paper.json").read_text(encoding="utf-8"))
    assert len(paper["models"]) == 18
    assert {str(model["name"]) for model in zoo.list_models()} <= paper["models"].keys()
