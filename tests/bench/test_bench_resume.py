"""An interrupted run goes on; a finished one is not mixed with the next."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import psutil
import pytest
from small_models import mlp

from smartmem_tvm.bench import harness
from smartmem_tvm.bench.results import read_document
from smartmem_tvm.errors import SmartMemError

DRIVER = """
import sys
from pathlib import Path
from smartmem_tvm.bench import harness, runners
sys.path[:0] = sys.argv[1:2]
from conftest import Notes
harness.PROBES = {}
harness.commit = lambda: "abc"
runners.RUNNERS = {"smartmem": ("fake_runners:Blocked", "fake")}
models = harness.choose_models(["first.onnx", "second.onnx"], "full")
settings = harness.Settings(models, tuple(runners.parse_choices([])), repeats=2, threads=1)
harness.run(settings, "full", Path("results.json").absolute(), Notes())
"""


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


# Kills a run between two of its steps: on a busy machine the moment can be missed.
@pytest.mark.slow
def test_resume_after_kill(fakes, bench, notes, tmp_path, monkeypatch):
    for name in ("first", "second"):
        onnx.save(mlp(), f"{name}.onnx")
    block = tmp_path / "block"
    block.touch()
    monkeypatch.setenv("FAKE_BLOCK", str(block))
    tests = Path(__file__).parent
    paths = os.pathsep.join(map(str, (tests, tests.parent)))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tests)], env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        results = Path("results.json")
        wait_for(results.exists)

        def workers():
            return [p for p in psutil.Process(driver.pid).children() if "fake_runners:Blocked" in
                    p.cmdline()]  # fmt: skip

        wait_for(workers)
        left = workers()
        os.kill(driver.pid, signal.SIGKILL)
    finally:
        driver.kill()
        driver.wait()
    wait_for(lambda: all(gone(process) for process in left))
    before = json.loads(results.read_text())
    assert before["complete"] is False
    assert list(before["models"]) == ["first/file"]

    block.unlink()
    fakes(smartmem="Blocked")
    _, document = bench(models=("first.onnx", "second.onnx"), repeats=2, threads=1)
    assert [name for name, _, _ in notes.models] == ["second/file"]
    assert any("continuing" in note and "first/file" in note for note in notes.notes)
    assert document.models["first/file"] == before["models"]["first/file"]
    assert document.complete
    assert read_document(results).matches(document)
    assert not list(tmp_path.glob(".*.tmp"))


def rewrite(path, **fields):
    document = json.loads(path.read_text())
    document.update(fields)
    path.write_text(json.dumps(document))


def test_only_the_same_unfinished_run_is_continued(bench, notes, monkeypatch):
    measured = {"date": "", "load_average": 0.0, "facts": {}, "records": []}
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
    monkeypatch.setattr(harness, "commit", lambda: "def")
    _, document = bench(repeats=3, threads=1)
    assert len(notes.models) == 4
    assert document.models["mlp/file"]["commit"] == "def"

    rewrite(results, complete=False)
    bench(repeats=3, threads=1, fresh=True)
    assert len(notes.models) == 5

    rewrite(results, complete=False)
    onnx.save(mlp(scale=2.0), "mlp.onnx")  # the same name, another model
    bench(repeats=3, threads=1)
    assert len(notes.models) == 6


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": 99}', "\x00\x01"])
def test_other_files_are_left_alone(bench, text):
    Path("results.json").write_text(text)
    with pytest.raises(SmartMemError, match=r"results\.json"):
        bench(repeats=2)
    assert Path("results.json").read_text() == text
    assert not Path("results.json.previous").exists()
