"""Small real runs of the tuning bench: parts add up, and what was killed goes on."""

from __future__ import annotations

import json
import operator
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import bench_tuning
import pytest
import tuning_metaschedule
from bench_tuning import main
from tuning_cases import KEY, bench_in, entry
from tuning_comparing import UNTUNED
from tuning_pool import LISTING, write
from tuning_results import read_results
from tvm import te

from smartmem_tvm.bench.work import work_folder
from smartmem_tvm.devices import resolve_profile
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.tuning.candidate import build_candidate
from smartmem_tvm.tuning.reference import host_reference, read_task, save_reference, write_task


def product(term):
    """A small matrix product, if `term` multiplies."""
    a, b = te.placeholder((64, 48), name="A"), te.placeholder((48, 32), name="B")
    k = te.reduce_axis((0, 48), name="k")
    c = te.compute((64, 32), lambda i, j: te.sum(term(a[i, k], b[k, j]), axis=k), name="C")
    return te.create_prim_func([a, b, c])


@pytest.fixture
def small(tmp_path):
    """Output of a run whose model's pool has one small matrix product."""
    func = product(operator.mul)
    bench = bench_in(tmp_path / "tuning.work")
    bench.folder.parent.mkdir()
    with work_folder(bench.folder, fresh=False):
        pass
    pool = bench.pool("swin/micro", fused=True)
    write_task(pool, KEY, func, resolve_profile("cpu").target())
    tasks = [asdict(replace(entry(), key=KEY, untuned_s=None))]
    write(pool / LISTING, json.dumps({"left_out": {}, "tasks": tasks}))
    write_task(bench.tasks, KEY, func, resolve_profile("cpu").target())
    save_reference(bench.tasks / KEY, host_reference(func, 0))
    return tmp_path / "tuning.json"


def command(output, *more):
    fixed = ["--models", "swin", "--size", "micro", "--draw", "1", "--least", "0", "--seeds", "0"]
    return ["bench_tuning", *fixed, "--output", str(output), *more]


@pytest.mark.slow
def test_parts_of_a_run_add_up(small, monkeypatch, capsys, opencl_device):
    def run(*more):
        monkeypatch.setattr("sys.argv", command(small, "--trials", "3", *more))
        assert main() == 0

    run("--strategies", "random")
    first = read_results(small)
    (random,) = first.units.values()
    assert random["trials"] == 3
    assert random["failed"] is None
    assert random["improvements"][0] == [1, random["untuned_s"]]
    assert random["improvements"][-1][1] == random["best_s"]
    assert first.comparisons[KEY]["times_s"].keys() == {UNTUNED, "random/0"}
    run("--strategies", "random,explorer", "--no-compare")
    second = read_results(small)
    assert second.units[f"{KEY}/random/0"] == random
    assert second.units[f"{KEY}/explorer/0"]["failed"] is None
    run("--strategies", "random")
    found = read_results(small)
    assert found.comparisons[KEY]["failed"] == {}
    times = found.comparisons[KEY]["times_s"]
    assert {name: len(some) for name, some in times.items()} == {
        UNTUNED: 9, "random/0": 9, "explorer/0": 9,
    }  # fmt: skip
    run("--table", "--plot")
    assert "explorer" in capsys.readouterr().out
    assert small.with_suffix(".svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(small, opencl_device):
    arguments = command(small, "--trials", "30", "--strategies", "random", "--no-compare")
    script = [sys.executable, bench_tuning.__file__, *arguments[1:]]
    records = small.with_suffix(".work") / "cpu" / "records" / f"{KEY}-random-0.jsonl"
    process = subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not records.exists() or records.read_bytes().count(b"\n") < 4:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(script, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = read_results(small).units.values()
    assert found["trials"] == 30
    assert 3 <= found["earlier"] < 30


@pytest.mark.slow
def test_metaschedule_tunes_the_same_function(small, monkeypatch, opencl_device):
    monkeypatch.setattr("sys.argv", command(small, "--trials", "2", "--strategies", "metaschedule"))
    assert main() == 0
    results = read_results(small)
    (found,) = results.units.values()
    assert found["failed"] is None, found
    assert found["trials"] == 2
    assert results.comparisons[KEY]["times_s"].keys() == {UNTUNED, "metaschedule/0"}


@pytest.mark.slow
def test_a_wrong_candidate_is_not_accepted(small, opencl_device):
    task = bench_in(small.with_suffix(".work")).tasks / KEY
    func, target = read_task(task)
    right = build_candidate(func, target, None).executable.jit()
    arguments = {"task": str(task), "opencl_device": None, "repeats": 2}
    seconds = tuning_metaschedule.measure_candidate(right, None, None, None, **arguments)
    assert len(seconds) == 2
    wrong = build_candidate(product(operator.sub), target, None).executable.jit()
    with pytest.raises(SmartMemError, match="wrong outputs: relative error"):
        tuning_metaschedule.measure_candidate(wrong, None, None, None, **arguments)
