"""An interrupted run goes on; a finished one is not mixed with the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import onnx
import psutil
import pytest
from small_models import mlp

from smartmem_tvm.bench import harness, preparation
from smartmem_tvm.bench.results import read_document
from smartmem_tvm.bench.work import work_folder
from smartmem_tvm.errors import SmartMemError

DRIVER = """
import sys
from pathlib import Path
from smartmem_tvm.bench import harness, preparation, runners
from smartmem_tvm.bench.settings import Settings, choose_models
sys.path[:0] = sys.argv[1:2]
from conftest import Notes
harness.PROBES = {}
harness.commit = lambda: "abc"
harness.code_digest = preparation.code_digest = lambda parts: "code"
runners.RUNNERS = {"smartmem": ("fake_runners:Blocked", "fake")}
models = choose_models(["first.onnx", "second.onnx"], "full")
choices = tuple(runners.parse_choices([]))
settings = Settings(models, choices, Path("work").absolute(), repeats=2, threads=1)
harness.run(settings, "full", Path("results.json").absolute(), Notes())
"""


def wait_for(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def count(tmp_path, monkeypatch):
    """What runners of kind Counted did, since the last call."""
    path = tmp_path / "count"
    monkeypatch.setenv("FAKE_COUNT", str(path))

    def read():
        lines = path.read_text().split() if path.exists() else []
        path.write_text("")
        return lines

    return read


@pytest.mark.parametrize("phase", ["prepare", "measure"])
def test_resume_after_kill(fakes, bench, notes, tmp_path, monkeypatch, count, phase):
    for name in ("first", "second"):
        onnx.save(mlp(), f"{name}.onnx")
    block = tmp_path / "block"
    block.write_text(phase)
    monkeypatch.setenv("FAKE_BLOCK", str(block))
    tests = Path(__file__).parent
    paths = os.pathsep.join(map(str, (tests, tests.parent)))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tests)], env={**os.environ, "PYTHONPATH": paths}
    )
    blocked = block.with_suffix(".pid")
    try:
        # The worker says itself that it is at the point where the run is to be killed.
        wait_for(lambda: blocked.exists() or driver.poll() is not None)
        worker = int(blocked.read_text())
    finally:
        driver.kill()
        driver.wait()
    wait_for(lambda: gone(worker))
    results = Path("results.json")
    before = json.loads(results.read_text())
    assert before["complete"] is False
    assert list(before["models"]) == ["first/file"]
    count()

    block.unlink()
    fakes(smartmem="Blocked")
    _, document = bench(models=("first.onnx", "second.onnx"), repeats=2, threads=1)
    # Only what was not done: the second model's preparation if that is what was interrupted.
    assert count() == (["prepare"] if phase == "prepare" else []) + ["load"] * (
        2 if phase == "prepare" else 1
    )
    assert [name for name, _, _ in notes.models] == ["second/file"]
    assert any("continuing" in note and "first/file" in note for note in notes.notes)
    assert document.models["first/file"] == before["models"]["first/file"]
    assert document.complete
    assert read_document(results).matches(document)
    assert not list(tmp_path.rglob(".*.tmp"))


def test_prepared_models_are_only_measured(fakes, bench, notes, count):
    fakes(smartmem="Counted", peer="Counted")
    records, document = bench("peer", repeats=2, threads=1, prepare_only=True)
    assert count() == ["prepare", "load"] * 2
    ours = records["smartmem"]
    assert (ours.kernels, ours.footprint_bytes, ours.max_rel_error) == (5, 1 << 20, 0)
    assert ours.details == {"compiled": True, "loaded": True}
    assert (ours.latency_ms, ours.ratio, ours.failed) == (None, None, None)
    assert (document.complete, document.models["mlp/file"]["measured"]) == (False, False)
    # Once more: nothing is left to do.
    bench("peer", repeats=2, threads=1, prepare_only=True)
    assert count() == []

    records, document = bench("peer", repeats=2, threads=1)
    assert count() == ["load"] * 2
    assert records["smartmem"].latency_ms["n"] == 2
    assert records["peer"].ratio == 1.0
    assert records["smartmem"].kernels == 5
    assert (document.complete, document.models["mlp/file"]["measured"]) == (True, True)
    # Another run of other settings finds the work of this one.
    bench("peer", repeats=3, threads=1, output="other.json")
    assert count() == ["load"] * 2


def test_what_a_model_was_prepared_from_decides(fakes, bench, count, monkeypatch):
    fakes(smartmem="Counted")

    def prepares(**settings):
        bench(repeats=2, threads=1, prepare_only=True, **settings)
        return count().count("prepare")

    assert (prepares(), prepares()) == (1, 0)
    monkeypatch.setattr(preparation, "code_digest", lambda parts: "edited")
    assert (prepares(), prepares()) == (1, 0)
    onnx.save(mlp(scale=2.0), "mlp.onnx")
    assert (prepares(), prepares()) == (1, 0)
    assert (prepares(dtype="float16"), prepares(dtype="float16")) == (1, 0)
    assert prepares(dtype="float16", fresh=True) == 1
    # A folder that was cut off before its last file is prepared again.
    prepared = Path("work/mlp-file/smartmem/prepared.json")
    prepared.write_text(prepared.read_text()[:-5])
    assert prepares(dtype="float16") == 1


def test_work_folders_belong_to_one_run(bench, tmp_path):
    foreign = tmp_path / "work"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(SmartMemError, match="holds something else"):
        bench(repeats=2)
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    (foreign / "thesis.txt").unlink()
    with work_folder(foreign, fresh=False):
        with pytest.raises(SmartMemError, match="in use by another run"):
            bench(repeats=2)


def rewrite(path, **fields):
    document = json.loads(path.read_text())
    document.update(fields)
    path.write_text(json.dumps(document))


def test_only_the_same_unfinished_run_is_continued(bench, notes, monkeypatch):
    measured = {
        "measured": True, "date": "", "load_average": 0.0, "facts": {}, "records": []
    }  # fmt: skip
    monkeypatch.setattr(harness, "measure_model", lambda *_: dict(measured))
    results = Path("results.json").absolute()
    previous = Path("results.json.previous")
    bench(repeats=2, threads=1)
    assert not previous.exists()

    rewrite(results, complete=False)
    bench(repeats=2, threads=1)
    assert len(notes.models) == 1  # nothing was measured again

    bench(repeats=2, threads=1)  # it is complete now
    assert len(notes.models) == 2
    assert previous.exists()

    rewrite(results, complete=False)
    bench(repeats=3, threads=1)  # other settings
    assert len(notes.models) == 3

    rewrite(results, complete=False)
    monkeypatch.setattr(harness, "code_digest", lambda parts: "other")
    _, document = bench(repeats=3, threads=1)
    assert len(notes.models) == 4
    assert document.models["mlp/file"]["code"] == "other"

    rewrite(results, complete=False)
    bench(repeats=3, threads=1, fresh=True)
    assert len(notes.models) == 5

    rewrite(results, complete=False)
    onnx.save(mlp(scale=2.0), "mlp.onnx")  # the same name, another model
    bench(repeats=3, threads=1)
    assert len(notes.models) == 6


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 99}', "\x00\x01"])
def test_other_files_are_left_alone(bench, text):
    Path("results.json").write_text(text)
    with pytest.raises(SmartMemError, match=r"results\.json"):
        bench(repeats=2)
    assert Path("results.json").read_text() == text
    assert not Path("results.json.previous").exists()
