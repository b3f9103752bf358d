"""The script behind ``make check-zoo``: what it repeats, what it calls failed, and its limits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PASSED = {"passed": True, "reason": None, "max_rel_error": 1e-6, "kernels": 3, "layout_kernels": 1}
FAILED = {"passed": False, "reason": "wrong", "max_rel_error": 2.0, "kernels": 3}
TAKEN = {"seconds": 1.0, "peak_memory_gib": 0.5}


@pytest.fixture
def check_zoo(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import check_zoo

    return check_zoo


@pytest.fixture
def limited_process(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import limited_process

    return limited_process


@pytest.fixture
def run_checks(check_zoo, monkeypatch, tmp_path):
    """Run the script with checks that only say what was asked of them."""
    output = tmp_path / "checks.json"
    monkeypatch.setattr(check_zoo, "missing", lambda driver: None)

    def run(*arguments: str, result: dict = PASSED) -> tuple[int, list[str], list[dict]]:
        asked = []

        def check(driver, model, settings, limits):
            asked.append(f"{model} {driver.selector}")
            return result | TAKEN

        monkeypatch.setattr(check_zoo, "check", check)
        code = check_zoo.main(["--models", "vit,swin", "--output", str(output), *arguments])
        return code, asked, json.loads(output.read_text())["rows"]

    return run


def test_sizes_and_drivers(run_checks):
    code, asked, rows = run_checks()
    expected = {
        f"zoo:{model}/{size} {driver}"
        for model in ("vit", "swin")
        for size, drivers in (
            ("micro", ("intel", "pocl", "oclgrind")),
            ("small", ("intel", "pocl")),
        )
        for driver in drivers
    }
    assert (code, set(asked), len(asked)) == (0, expected, len(expected))
    assert {(row["model"], row["size"], row["driver"]) for row in rows} == {
        (*key.removeprefix("zoo:").split(" ")[0].split("/"), key.split(" ")[1]) for key in expected
    }


def test_what_passed_is_not_repeated_until_something_changes(run_checks, check_zoo, monkeypatch):
    only = ("--sizes", "micro", "--drivers", "pocl")
    assert len(run_checks(*only)[1]) == 2
    assert run_checks(*only)[:2] == (0, [])
    assert len(run_checks(*only, "--fresh")[1]) == 2
    monkeypatch.setattr(check_zoo, "compiler_fingerprint", lambda: "another")
    assert run_checks(*only, "--keep-passed")[:2] == (0, [])
    assert len(run_checks(*only)[1]) == 2
    monkeypatch.setattr(check_zoo, "graph_fingerprint", lambda model, size: model)
    assert len(run_checks(*only)[1]) == 2
    assert run_checks(*only)[:2] == (0, [])


def test_what_failed_is_repeated(run_checks, capsys):
    only = ("--sizes", "micro", "--drivers", "pocl")
    code, _, rows = run_checks(*only, result=FAILED)
    assert code == 1
    assert [row["reason"] for row in rows] == ["wrong", "wrong"]
    assert "FAILED swin/micro pocl: wrong" in capsys.readouterr().out
    assert len(run_checks(*only)[1]) == 2


def test_other_settings_do_not_mix(run_checks):
    run_checks("--sizes", "micro", "--drivers", "pocl")
    with pytest.raises(SystemExit, match="another --output"):
        run_checks("--dtype", "float16")


def test_a_missing_simulator_is_skipped(check_zoo, tmp_path, monkeypatch, capsys):
    absent = check_zoo.Driver("oclgrind", ("micro",), ("no-such-simulator",))
    monkeypatch.setitem(check_zoo.DRIVERS, "oclgrind", absent)
    output = tmp_path / "checks.json"
    assert check_zoo.main(["--drivers", "oclgrind", "--output", str(output)]) == 0
    reason = "no-such-simulator is not installed"
    assert json.loads(output.read_text())["skipped"] == {"oclgrind": reason}
    assert f"oclgrind is skipped: {reason}" in capsys.readouterr().err


def test_names_that_do_not_exist(check_zoo, capsys):
    with pytest.raises(SystemExit):
        check_zoo.main(["--drivers", "pocll"])
    assert "'pocll': choose from intel, pocl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ending", "findings", "reason"),
    [
        ({}, "", None),
        ({"stdout": json.dumps(FAILED | {"tolerance": 0.001})}, "", "above 0.001"),
        ({"stdout": "", "code": -11}, "", "SIGSEGV: the last words"),
        ({"stdout": "", "code": 2}, "", "exit code 2: the last words"),
        ({"passed_limit": "time: not done"}, "", "time: not done"),
        ({}, "\nInvalid read of size 4\n\tKernel: matmul\n", r"Invalid read.*Kernel: matmul"),
    ],
)
def test_verdicts(check_zoo, limited_process, ending, findings, reason):
    fields = {
        "code": 0,
        "stdout": json.dumps(PASSED | {"tolerance": 0.001}),
        "stderr": "first\nthe last words\n",
        "seconds": 1.0,
        "peak_memory": 1 << 29,
        "passed_limit": None,
    }
    row = check_zoo.judge(limited_process.Outcome(**(fields | ending)), findings)
    assert row["passed"] is (reason is None)
    assert row["peak_memory_gib"] == 0.5
    assert reason is None or re.search(reason, row["reason"])


def test_limits_end_the_process_and_its_children(limited_process, tmp_path):
    spawn = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(60)"
    )
    limits = limited_process.Limits(2.0, limited_process.GIB)
    outcome = limited_process.run([sys.executable, "-c", spawn], {}, limits)
    assert outcome.passed_limit == "time: not done after 2 s"
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def test_memory_limit(limited_process):
    hold = "import time; block = bytearray(400 << 20); time.sleep(60)"
    limits = limited_process.Limits(30.0, limited_process.GIB // 4)
    outcome = limited_process.run([sys.executable, "-c", hold], {}, limits)
    assert outcome.passed_limit == "memory: more than 0.25 GiB"
    assert outcome.seconds < 25


@pytest.mark.slow
@pytest.mark.device
def test_what_runs_in_the_simulator_checks_a_model():
    script = str(BENCHMARKS / "check_zoo.py")
    done = subprocess.run(
        [sys.executable, script, "--worker", "zoo:resnext/micro"],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    assert result["passed"]
    assert 0 < result["max_rel_error"] < 1e-4
    assert result["kernels"] > result["layout_kernels"]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
