from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from smartmem_tvm import zoo
from smartmem_tvm.bench import plots
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
                "measured": record.latency_ms is not None,
                "graph": "g",
                "code": "c",
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
        "host": None,
        "rpc": None,
        "threads": 2,
    }
    probes = {"numpy-gemm": {"rate": 200e9}, "copy-bandwidth": {"rate": 16e9}}
    return Document(settings, environment, probes=probes, models=models, complete=True, **fields)


def times(median):
    return {"median": median, "min": median - 1, "max": median + 1, "n": 5}


OURS = Record(
    "swin",
    "full",
    "smartmem",
    latency_ms=times(90.0),
    kernels=158,
    layout_kernels=3,
    footprint_bytes=300 << 20,
)
TVM = Record("swin", "full", "tvm", latency_ms=times(900.0), kernels=210, ratio=0.1)
ADRENO = Record(
    "swin",
    "full",
    "tvm-adreno",
    "wrong",
    times(500.0),
    kernels=300,
    failed="wrong: error 1",
    details={"image_kernels": 0, "image_arguments": 0},
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
    assert (
        "| swin/full | 4.5 | 90.00 [89.00, 91.00] | 900 [899, 901] | 500 [499, 501] **wrong** | "
        "372 | 158 | 135 | 30.6 |" in text
    )
    assert "| swin/full | 0.100 | – |" in text
    assert "| **geometric mean** | 0.100 (1) | – |" in text
    # 2 * 4.5 GMACs at 200 GFLOP/s are 45 ms: half of 90. What is wrong has no fraction.
    assert "| swin/full | 50.0% | 5.0% | – |" in text
    assert (
        "| swin/full | 760 | 158, 3 | 210, ? | 300, ? **wrong** | 765 | 596 | 374 | 207 | 158 |"
        in text
    )
    assert "| model | compulsory | smartmem |" in text
    assert "| swin/full | 114.4 | 300.0 |" in text
    assert "It places none in swin/full" in text
    assert "| swin/full | 0 | 0 |" in text
    assert f"| swin/full | 0.100 | {30.6 / 158:.3f} | – |" in text
    assert "- swin/full on tvm-adreno: wrong: error 1" in text
    assert "not finished" not in text
    assert "disturbed" not in text
    assert render({}, PAPER) == NOTHING_YET
    busy = document(OURS, TVM)
    busy.models["swin/full"]["load_average"] = 9.0
    assert "**disturbed**" in render({"full.json": busy}, PAPER)


def test_page_of_what_is_only_prepared():
    prepared = document(replace(OURS, latency_ms=None), replace(TVM, latency_ms=None, ratio=None))
    text = render({"full.json": prepared}, PAPER)
    assert "- prepared and not measured: swin/full" in text
    assert "| swin/full | 760 | 158, 3 | 210, ? | 765 |" in text
    assert "### Latency" not in text
    assert "disturbed" not in text


@pytest.fixture
def page():
    script = Path(__file__).parent.parent.parent / "benchmarks" / "page.py"
    spec = importlib.util.spec_from_file_location("benchmarks_page", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def write_page(page, tmp_path):
    """Write or check a page of one results file: status and text."""
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    output = tmp_path / "docs" / "page.md"

    def write(*arguments):
        paths = ["--results", str(tmp_path / "results"), "--output", str(output)]
        return page.main([*paths, *arguments]), output.read_text()

    document(OURS, TVM, ADRENO).save(tmp_path / "results" / "full.json")
    return write


def test_plots_are_optional(write_page, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    status, text = write_page()
    assert (status, write_page("--check")[0]) == (0, 0)
    assert "No plots: they are drawn where matplotlib is installed" in text
    assert "full.json: no plots: 'matplotlib' is not installed" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.svg"))


def test_plots(write_page, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    _, text = write_page()
    for name in ("ratios", "kernels"):
        assert f"](../results/full-{name}.svg)" in text
    svg = (tmp_path / "results/full-kernels.svg").read_text()
    ElementTree.fromstring(svg)
    assert "swin/full" in svg
    assert "paper: SmartMem" in svg
    # Drawn again, the same bytes.
    (tmp_path / "results/full-kernels.svg").unlink()
    write_page()
    assert (tmp_path / "results/full-kernels.svg").read_text() == svg
    # Plots of other results are not shown, and checking neither draws nor needs matplotlib.
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    assert write_page("--check")[0] == 0
    document(replace(OURS, kernels=99), TVM).save(tmp_path / "results" / "full.json")
    assert write_page("--check")[0] == 1
    assert "full-kernels.svg" not in write_page()[1]


def test_plotted_values():
    ratios, kernels = plots.plots_of(document(OURS, TVM, ADRENO), PAPER)
    assert (ratios.series, ratios.rows) == (["tvm"], {"swin/full": [0.1]})
    assert kernels.series == ["smartmem", "tvm", "tvm-adreno", "paper: SmartMem"]
    assert kernels.rows == {"swin/full": [158, 210, 300, 158]}


def test_choices():
    assert [choice.label for choice in parse_choices(["tvm", "smartmem", "tvm"])] == [
        "smartmem",
        "tvm",
    ]
    half = parse_choice("smartmem:dtype=float16")
    assert (half.name, half.options) == ("smartmem", {"dtype": "float16"})
    assert half.runner.dtype("float32", half.options) == "float16"
    assert parse_choice("numpy-gemm").is_probe
    ablated = parse_choice("smartmem-no-fuse:dtype=float16")
    assert (ablated.label, ablated.name) == ("smartmem-no-fuse:dtype=float16", "smartmem")
    assert (ablated.disable, ablated.options) == (("fuse",), {"dtype": "float16"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "no runner 'nothing': choose from smartmem, tvm, "),
        ("smartmem:size=1", "no switch 'size': it has dtype"),
        ("tvm:dtype=float16", "no switch 'dtype': it has none"),
        ("smartmem:dtype=int4", "cannot be 'int4': use float32 or float16"),
        ("smartmem:dtype", "cannot be ''"),
        ("smartmem-no-magic", r"no switch 'magic' to disable: it has .*fuse \("),
        ("smartmem-no-fuse+magic", "no switch 'magic'"),
        ("tvm-no-fuse", "no runner 'tvm-no-fuse'"),
    ],
)
def test_wrong_choices(text, message):
    with pytest.raises(SmartMemError, match=message):
        parse_choice(text)


def test_the_page_is_that_of_the_results(page):
    assert page.main(["--check"]) == 0


def test_the_paper_names_models_as_the_zoo_does():
    folder = Path(__file__).parent.parent.parent / "benchmarks"
    paper = json.loads((folder / "paper.json").read_text(encoding="utf-8"))
    assert len(paper["models"]) == 18
    assert {str(model["name"]) for model in zoo.list_models()} <= paper["models"].keys()
