from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from smartmem_tvm.cli.main import main
from smartmem_tvm.tuning.records_file import read_records

TUNE = ("tune", "mlp.onnx", "--records", "r.jsonl", "--strategy", "random")

device = pytest.mark.device


@device
def test_tune_and_compile(workplace, smartmem_json, opencl_device):
    document = smartmem_json(*TUNE, "--trials", 7)
    assert document["trials"] == 7
    assert document["strategy"] == "random"
    assert not document["interrupted"]
    assert document["left_out"] == {}
    rows = document["tasks"]
    assert sum(row["trials"] for row in rows) == 7
    assert all(row["best_us"] <= row["untuned_us"] for row in rows)
    assert document["kernels_ms"]["tuned"] <= document["kernels_ms"]["untuned"]
    records = read_records("r.jsonl").records
    assert {record.task for record in records} == {row["task"] for row in rows}
    assert smartmem_json("check", "mlp.onnx", "--records", "r.jsonl")["passed"]
    compiled = smartmem_json("compile", "mlp.onnx", "-o", "out", "--records", "r.jsonl")
    assert compiled["tuned"] == 2
    assert smartmem_json("compile", "mlp.onnx", "-o", "plain")["tuned"] == 0


@device
def test_a_session_goes_on_where_the_last_one_ended(workplace, smartmem_json, opencl_device):
    smartmem_json(*TUNE, "--trials", 5)
    before = Path("r.jsonl").read_text()
    assert smartmem_json(*TUNE, "--trials", 8)["trials"] == 8
    after = Path("r.jsonl").read_text()
    assert after.startswith(before)
    assert smartmem_json(*TUNE, "--trials", 8)["trials"] == 8
    assert Path("r.jsonl").read_text() == after


@device
@pytest.mark.slow
def test_one_task_alone(workplace, smartmem, smartmem_json, opencl_device):
    rows = smartmem_json(*TUNE, "--trials", 2)["tasks"]
    chosen = smartmem_json(*TUNE, "--tasks", rows[1]["name"], "--trials-per-task", 3)["tasks"]
    assert [row["task"] for row in chosen] == [rows[1]["task"]]
    assert chosen[0]["trials"] == 3
    code, out, _ = smartmem(*TUNE, "--tasks", f"{rows[0]['task']}, ", "--trials", 1)
    assert code == 0
    assert rows[0]["name"] in out


@device
@pytest.mark.slow
def test_a_plot(workplace, smartmem, opencl_device):
    pytest.importorskip("matplotlib")
    code, _, err = smartmem(*TUNE, "--trials", 4, "--plot", "p.svg")
    assert code == 0, err
    assert Path("p.svg").read_text().lstrip().startswith("<?xml")
    assert not list(Path().glob(".*"))


@device
@pytest.mark.slow
def test_records_of_a_tuned_model_are_shown(workplace, smartmem, smartmem_json, opencl_device):
    smartmem_json(*TUNE, "--trials", 4)
    shown = smartmem_json("records", "show", "r.jsonl")
    assert len(shown["tasks"]) == 2
    assert shown["torn_bytes"] == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--strategy", "luck"], "luck.*evolution"),
        (["--trials", "0"], "budget"),
        (["--minutes", "-1"], "budget"),
        (["--minutes", "nan"], "budget"),
        (["--trials", "3", "--repeats", "0"], "--repeats 0: .* at least 1"),
        (["--trials", "3", "--time-limit", "nan"], "--time-limit nan: .* at least 1"),
        (["--trials", "3", "--memory-limit", "inf"], "--memory-limit inf: .* at least 0.1"),
        (["--trials", "3", "--servers", "0"], "--servers 0: .* at least 1"),
        (["--rpc", "a:1", "--key", "k", "--rpc-timeout", "nan"], "--rpc-timeout nan"),
        (["--trials", "3", "--tasks", "none"], "no kernel 'none'"),
        (["--rpc", "127.0.0.1:1"], "--key"),
        (["--trials", "3", "--host", "nowhere"], "nowhere"),
        (["--trials", "3", "--device", "nothing"], "nothing"),
    ],
)
def test_bad_usage(workplace, smartmem, words, what):
    code, out, err = smartmem("tune", "mlp.onnx", "--records", "r.jsonl", *words)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert re.search(what, err), err
    assert not Path("r.jsonl").exists()


def test_records_that_are_something_else(workplace, smartmem, opencl_device):
    Path("r.jsonl").write_text(json.dumps({"model": "mlp"}) + "\n")
    code, _, err = smartmem(*TUNE, "--trials", 3)
    assert code == 2
    assert "r.jsonl" in err
    assert json.loads(Path("r.jsonl").read_text()) == {"model": "mlp"}


def test_records_have_to_be_said(workplace, capsys):
    assert main(["tune", "mlp.onnx"]) == 2
    assert "--records" in capsys.readouterr().err
