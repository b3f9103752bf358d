"""The script that times passes: chains, table, and that work grows no faster than a chain."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import tvm

from smartmem_tvm.pipeline import pipeline_stages

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def pass_time(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import pass_time

    return pass_time


def python_calls(pass_time, kind, length):
    """Calls of Python functions while the passes run: exact, unlike seconds."""
    mod = pass_time.Chain().module(kind, length)
    target = tvm.target.Target("opencl", host="llvm")
    counts: Counter[str] = Counter()

    def note(_frame, event, _argument):
        counts[event] += 1

    with target:
        for stage, steps in pipeline_stages(target):
            if stage in pass_time.STAGES:
                for step in steps:
                    sys.setprofile(note)
                    try:
                        mod = step(mod)
                    finally:
                        sys.setprofile(None)
    return counts["call"]


def test_work_is_linear_in_opaque_operators(pass_time):
    first, second, third = (python_calls(pass_time, "opaque", n) for n in (60, 120, 240))
    assert third - second == pytest.approx(2 * (second - first), rel=0.05)


@pytest.mark.slow
def test_work_is_linear_in_mixed_operators(pass_time):
    short, long = (python_calls(pass_time, "mixed", n) for n in (300, 1_200))
    assert long < 4.4 * short


@pytest.mark.parametrize("kind", ["mixed", "opaque"])
def test_a_chain_has_as_many_operators_as_asked(pass_time, kind):
    chain = pass_time.Chain()
    mod = chain.module(kind, 100)
    (block,) = mod["main"].body.blocks
    assert chain.operators == len(block.bindings) - 1  # the last one names the output
    assert 100 <= chain.operators < 110


def test_the_file_keeps_what_is_not_measured_again(pass_time, tmp_path, capsys):
    output = tmp_path / "times.json"
    for length in ("20", "40"):
        arguments = ["--models", "", "--chains", "opaque", "--lengths", length]
        assert pass_time.main([*arguments, "--output", str(output)]) == 0
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert [(row["graph"], row["operators"]) for row in rows] == [
        ("chain:opaque/20", 20),
        ("chain:opaque/40", 40),
    ]
    assert all(row["seconds"] >= 0 and row["passes"] for row in rows)
    assert "chain:opaque/40" in capsys.readouterr().out


def test_slopes_are_of_the_long_chains(pass_time):
    rows = {
        f"chain:opaque/{n}": {"operators": n, "seconds": n**1.5 if n >= 1_000 else 9e9}
        for n in (100, 1_000, 3_000, 10_000)
    }
    assert pass_time.slopes(rows) == {"opaque": pytest.approx(1.5, abs=1e-3)}
