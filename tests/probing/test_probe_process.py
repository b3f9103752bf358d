from __future__ import annotations

import os
import time

import psutil
import pytest

from smartmem_tvm.errors import DeviceError
from smartmem_tvm.probing.process import ProbeFailure, ProbeProcess


def answers_twice(request, emit):
    emit({"got": request["x"]})
    print("a driver's chatter")
    emit({"pid": os.getpid()})


def refuses(request, emit):
    raise DeviceError("the device refuses")


def is_wrong(request, emit):
    raise ZeroDivisionError("a defect")


def hangs(request, emit):
    emit({"pid": os.getpid()})
    time.sleep(600)


def entry(function):
    return f"{__name__}:{function.__name__}"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """A probe's process finds this file."""
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def test_a_probe_answers_in_order():
    with ProbeProcess(entry(answers_twice), {"x": 7}) as process:
        assert process.receive(60) == {"got": 7}
        assert process.receive(60)["pid"] != os.getpid()
        assert process.receive(60) is None


def test_a_users_error_is_an_answer():
    with ProbeProcess(entry(refuses), {}) as process:
        assert process.receive(60) == {"error": "the device refuses"}
        assert process.receive(60) is None


def test_a_defect_names_itself():
    with (
        ProbeProcess(entry(is_wrong), {}) as process,
        pytest.raises(ProbeFailure, match=r"exit code 1.*ZeroDivisionError: a defect"),
    ):
        process.receive(60)


def test_a_probe_that_hangs_is_ended():
    with ProbeProcess(entry(hangs), {}) as process:
        pid = process.receive(60)["pid"]
        with pytest.raises(ProbeFailure, match=r"no answer within 0\.1 s"):
            process.receive(0.1)
    assert not psutil.pid_exists(pid)
