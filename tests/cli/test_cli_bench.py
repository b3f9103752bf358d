from __future__ import annotations

import json
from pathlib import Path

import pytest

from smartmem_tvm.bench import harness, preparation
from smartmem_tvm.bench.runners import RUNNERS
from smartmem_tvm.cli.main import main


@pytest.fixture
def refused(workplace, capsys):
    def expect(*argv):
        before = sorted(workplace.rglob("*"))
        for json_option in ([], ["--json"]):
            assert main(["bench", *argv, *json_option]) == 2
            captured = capsys.readouterr()
            assert captured.out == ""
            assert "Traceback" not in captured.err
            assert sorted(workplace.rglob("*")) == before
        return captured.err

    return expect


def test_bad_input(refused, workplace):
    assert "no model 'nothing': it has" in refused("--models", "nothing")
    message = refused("--models", "swin", "--size", "huge")
    assert "no size 'huge' of swin: it has" in message
    assert "full" in message
    assert "no model of the zoo has size 'huge': use " in refused("--size", "huge")
    message = refused("--models", "swin", "--against", "tvm,nobody")
    assert "no runner 'nobody'" in message
    assert all(name in message for name in RUNNERS)
    assert "no switch 'x'" in refused("--models", "swin", "--against", "smartmem:x=1")
    message = refused("--models", "swin", "--ablate", "fuse,magic")
    assert "no switch 'magic' to disable: it has " in message
    assert "--key KEY is missing" in refused("--models", "swin", "--rpc", "127.0.0.1:1")
    assert "missing.onnx" in refused("--models", "missing.onnx")
    (workplace / "other").mkdir()
    (workplace / "other/mlp.onnx").write_bytes((workplace / "mlp.onnx").read_bytes())
    assert "would both be called 'mlp'" in refused("--models", "mlp.onnx,other/mlp.onnx")
    assert "--repeats 0" in refused("--models", "swin", "--repeats", "0")
    assert "--time-limit 0" in refused("--models", "swin", "--time-limit", "0")
    assert "--memory-limit nan" in refused("--models", "swin", "--memory-limit", "nan")
    assert "no folder" in refused("--models", "swin", "--output", "nowhere/x.json")
    assert "cannot write to work folder" in refused("--models", "mlp.onnx", "--work", "no/w")
    (workplace / "notes.json").write_text("{}")
    assert "left alone" in refused("--models", "mlp.onnx", "--output", "notes.json")


@pytest.mark.device
def test_bench(workplace, capsys, opencl_device, monkeypatch):
    monkeypatch.setattr(harness, "PROBES", {})
    for module in (harness, preparation):
        monkeypatch.setattr(module, "code_digest", lambda parts: "code")
    argv = ["bench", "--models", "mlp.onnx", "--against", "onnxruntime", "--repeats", "3"]
    assert main([*argv, "--prepare-only", "--json"]) == 0
    captured = capsys.readouterr()
    ours, peer = json.loads(captured.out)["rows"]
    kernels = ours["kernels"]
    assert (ours["latency_ms"], peer["latency_ms"], peer["kernels"]) == (None, None, None)
    assert "smartmem prepared, onnxruntime prepared" in captured.err
    assert main([*argv, "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    ours, peer = document["rows"]
    assert set(ours) == {
        "model", "size", "runner", "latency_ms", "kernels", "max_rel_error", "failed"
    }  # fmt: skip
    assert (ours["model"], ours["size"], ours["runner"]) == ("mlp", "file", "smartmem")
    assert (ours["kernels"], ours["failed"], peer["runner"]) == (kernels, None, "onnxruntime")
    assert 1 <= kernels <= 3
    assert ours["max_rel_error"] < 1e-5
    for row in (ours, peer):
        figures = row["latency_ms"]
        assert 0 < figures["min"] <= figures["median"] <= figures["max"]
        assert figures["n"] == 3
    assert document["geomean_ratio"]["onnxruntime"]["models"] == 1
    assert "[1/1] mlp/file" in captured.err
    results = Path("smartmem-bench-full.json")
    assert json.loads(results.read_text())["complete"] is True
    # The same results as a table, without measuring again.
    text = results.read_text().replace('"complete": true', '"complete": false')
    results.write_text(text)
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert "continuing" in captured.err
    assert "onnxruntime" in captured.out
    assert f"{peer['latency_ms']['median']:.3f}" in captured.out
