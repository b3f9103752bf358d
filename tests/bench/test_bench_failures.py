"""A runner that misbehaves is a row with a reason, and the others are measured."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from smartmem_tvm.bench import preparation
from smartmem_tvm.bench.process import Worker, WorkerFailure

MIB = 1 << 20


@pytest.fixture
def worker(fakes, tmp_path):
    """Start a fake in a worker; it is closed at the end."""
    started = []

    def start(kind, time_limit_s=60.0, memory_limit=4096 * MIB):
        one = Worker(
            f"fake_runners:{kind}", tmp_path / "log", time_limit_s, lambda: memory_limit, 1
        )
        started.append(one)
        return one

    yield start
    for one in started:
        one.close()


CASE = {"source": "", "threads": 1, "artefacts": "/nonexistent"}


def test_failures_are_rows_and_the_rest_goes_on(fakes, bench, notes):
    fakes(wrong="Wrong", other="OtherOutputs", crash="Crash", raises="Raises", talks="Talks",
          absent="Absent", slow="Slow")  # fmt: skip
    records, document = bench(
        "wrong", "other", "crash", "raises", "absent", "talks", "slow", repeats=5, threads=1
    )
    assert {name: record.status for name, record in records.items()} == {
        "smartmem": "ok",
        "wrong": "wrong",
        "other": "wrong",
        "crash": "failed",
        "raises": "failed",
        "talks": "ok",
        "slow": "ok",
    }
    assert records["smartmem"].max_rel_error == 0
    assert (records["smartmem"].kernels, records["smartmem"].layout_kernels) == (7, 2)
    assert records["smartmem"].latency_ms == {"median": 1.0, "min": 1.0, "max": 1.0, "n": 5}
    assert records["slow"].latency_ms["n"] == 3  # over 20 s
    assert records["wrong"].failed.startswith("wrong: relative error")
    assert records["wrong"].max_rel_error > 1e-3
    assert "['nothing']" in records["other"].failed
    assert "SIGSEGV" in records["crash"].failed
    assert "about to crash" in records["crash"].failed
    assert records["raises"].failed == "error: ValueError: this model is not supported"
    # Only what is right has a ratio.
    ratios = {name: record.ratio for name, record in records.items() if record.ratio is not None}
    assert ratios == {"talks": 1.0, "slow": pytest.approx(1 / 30_000)}
    assert document.skipped == [
        {
            "runner": "absent",
            "reason": "'no_such_package_anywhere' is not installed "
            "(pip install 'smartmem-tvm[bench]')",
        }
    ]
    assert any("absent is skipped" in note for note in notes.notes)
    assert set(records["smartmem"].row()) == {
        "model", "size", "runner", "latency_ms", "kernels", "max_rel_error", "failed"
    }  # fmt: skip


def test_failures_of_the_second_phase_are_rows_too(fakes, bench):
    fakes(later="Later", unsteady="Unsteady", fine="Right")
    records, document = bench("later", "unsteady", "fine", repeats=2, threads=1)
    assert "SIGSEGV" in records["later"].failed
    assert (records["unsteady"].status, records["unsteady"].ratio) == ("wrong", None)
    assert records["unsteady"].max_rel_error > 1e-3
    assert records["fine"].ratio == 1.0
    assert document.complete


@pytest.mark.slow
def test_a_limit_is_tried_again_where_it_is_wider(fakes, bench, monkeypatch):
    fakes(hog="Hog")
    tried = []
    original = preparation._prepare_runner

    def prepare(model, choice, *rest):
        tried.append(choice.label)
        return original(model, choice, *rest)

    monkeypatch.setattr(preparation, "_prepare_runner", prepare)
    for limit, expected in ((600, ["smartmem", "hog"]), (630, []), (700, ["hog"])):
        tried.clear()
        records, _ = bench("hog", repeats=2, memory_limit=limit * MIB, threads=1, fresh=False)
        assert tried == expected
        assert records["hog"].failed.startswith("memory: the process passed its limit of ")
        assert records["smartmem"].failed is None


def test_a_hang_ends_at_the_time_limit(worker):
    one = worker("Hang")
    one.request(do="load", case={"folder": "/nonexistent", **CASE})
    one._time_limit_s = one.seconds + 0.5
    start = time.monotonic()
    with pytest.raises(WorkerFailure, match=r"^time: not done after \d+ s of work"):
        one.request(do="run")
    assert time.monotonic() - start < 10
    assert not one.alive


def test_a_memory_hog_ends_at_its_limit(worker):
    one = worker("Hog", memory_limit=1024 * MIB)
    with pytest.raises(WorkerFailure, match=r"^memory: .*1\.00 GiB"):
        one.request(do="load", case={"folder": "/nonexistent", **CASE})
    assert not one.alive
    assert one.peak_memory < 3000 * MIB


@pytest.mark.slow
def test_a_hog_is_reported_and_the_rest_goes_on(fakes, bench):
    fakes(hog="Hog", fine="Right")
    records, _ = bench("hog", "fine", repeats=2, memory_limit=1280 * MIB, threads=1)
    assert records["hog"].failed.startswith("memory: ")
    assert records["fine"].ratio == 1.0
    assert records["fine"].peak_memory_mib > 10


@pytest.mark.slow
def test_peers_that_do_not_fit_together_come_in_groups(fakes, bench, notes):
    fakes(one="Big", two="Big", three="Big")
    base = _resident_of_a_worker(fakes)
    # Ours and two of the three: 400 MiB each on top of what every worker holds.
    limit = int(base * 3 + 1000 * MIB)
    records, _ = bench("one", "two", "three", repeats=2, memory_limit=limit, threads=1)
    assert {name: record.failed for name, record in records.items()} == dict.fromkeys(records)
    assert [records[name].ratio for name in ("one", "two", "three")] == [1.0, 1.0, 1.0]
    assert notes.stages.count("round 1 of 2") == 2


def _resident_of_a_worker(fakes):
    one = Worker("fake_runners:Right", Path("log").absolute(), 60, lambda: 4096 * MIB, 1)
    one.request(do="load", case={"folder": "/nonexistent", **CASE})
    resident = psutil.Process(one._child.pid).memory_info().rss
    one.close()
    return resident


def test_a_model_without_reference_fails_for_all_runners(fakes, bench):
    Path("bad.onnx").write_bytes(b"no model")
    _, document = bench(models=("bad.onnx", "mlp.onnx"), repeats=2, threads=1)
    first, second = document.records()
    assert first.failed.startswith("error: no reference: ")
    assert "bad.onnx" in first.failed
    assert (second.model, second.failed) == ("mlp", None)


def test_idle_workers_are_stopped_and_end_with_the_harness(worker):
    one = worker("Right")
    one.request(do="load", case={"folder": "/nonexistent", **CASE})
    process = psutil.Process(one._child.pid)
    deadline = time.monotonic() + 5
    while process.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.status() == psutil.STATUS_STOPPED
    assert one.request(do="run")["ms"] == 1.0
    one._child.send_signal(signal.SIGKILL)
    with pytest.raises(WorkerFailure, match=r"crash: .*SIGKILL"):
        one.request(do="run")
