from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import planted_kernels as plants
import psutil
import pytest
import small_tasks
from rpc_cluster import children

from smartmem_tvm.devices import load_profile
from smartmem_tvm.errors import DeviceError, SmartMemError
from smartmem_tvm.tuning import measure_device
from smartmem_tvm.tuning.measure import Job, MeasureLimits, Measurer
from smartmem_tvm.tuning.measure_device import MOST_LAUNCHES, time_candidate

DOUBLED = Job("doubled", None)


@pytest.fixture(autouse=True)
def no_process_is_left():
    before = children()
    yield
    _, alive = psutil.wait_procs(children() - before, timeout=10)
    assert alive == []


@pytest.mark.parametrize("limits", [{"seconds": 0.0}, {"memory": -1}, {"repeats": 0}])
def test_limits_that_nothing_keeps(limits):
    with pytest.raises(SmartMemError, match=next(iter(limits))):
        MeasureLimits(**limits)


class FakeTask:
    """A task whose launches take so many seconds; it keeps what was asked."""

    def __init__(self, seconds):
        self.asked = []
        self._seconds = seconds

    def seconds(self, module, launches, repeats):
        self.asked.append((launches, repeats))
        return [self._seconds] * repeats


@pytest.mark.parametrize(
    ("seconds", "stop_above_s", "asked"),
    [
        (1e-7, None, [(1, 1), (MOST_LAUNCHES, 5)]),
        (1e-3, 5e-3, [(1, 1), (10, 5)]),
        (6e-3, 5e-3, [(1, 1)]),
        (0.9, None, [(1, 1), (1, 2)]),
        (1.9, 3.0, [(1, 1), (1, 1)]),
        (2.1, 3.0, [(1, 1)]),
    ],
)
def test_how_often_a_candidate_is_launched(seconds, stop_above_s, asked):
    task = FakeTask(seconds)
    times = time_candidate(task, None, 5, stop_above_s)
    assert task.asked == asked
    assert times == [seconds] * asked[-1][1]
    assert measure_device.REPEAT_S == 0.01


@pytest.mark.device
def test_right_candidates(measure, planted, opencl_info):
    jobs = [Job(name, None) for name in small_tasks.TASKS if name != "in_place"]
    jobs += [
        Job("matmul", small_tasks.MATMUL),
        Job("in_place", plants.plant(plants.IN_PLACE)),
        Job("matmul", small_tasks.MATMUL, stop_above_s=1e-12),
        Job("matmul", small_tasks.NO_SUCH_AXIS),
        Job("nothing", None),
    ]
    found = measure(jobs, builder=planted)
    assert [job for job, _ in found] == jobs
    *right, once, illegal, missing = [outcome for _, outcome in found]
    for outcome in (*right, once):
        assert (outcome.status, outcome.reason) == ("ok", None)
        assert all(second > 0 for second in outcome.seconds)
        assert outcome.error < 1e-2
        assert (outcome.device, outcome.driver) == (opencl_info.name, opencl_info.driver_version)
        assert outcome.facts["reference"] == "host"
    assert {len(outcome.seconds) for outcome in right} == {3}
    assert len(once.seconds) == 1
    assert right[0].facts["rule"] == "Contraction"
    assert right[-2].facts["rule"] == "ByChoice"
    assert (illegal.status, illegal.seconds) == ("illegal", ())
    assert "names axis 7" in illegal.reason
    assert (missing.status, missing.error) == ("error", None)
    assert "no folder of a task" in missing.reason


@pytest.mark.device
def test_planted_kernels_cost_a_trial_each(measure, planted):
    kinds = [*plants.WRONG, plants.RAISE, plants.ABORT]
    jobs = [job for kind in kinds for job in (Job("doubled", plants.plant(kind)), DOUBLED)]
    found = measure(jobs, builder=planted)
    assert [job for job, _ in found] == jobs
    outcomes = [outcome for _, outcome in found]
    # Whatever went before: the next one is right again.
    assert {outcome.status for outcome in outcomes[1::2]} == {"ok"}
    *wrong, raised, crashed = outcomes[::2]
    for outcome in wrong:
        assert (outcome.status, outcome.seconds) == ("wrong", ())
        assert outcome.error > 1e-3
        assert outcome.reason.startswith("relative error of 'O'")
    assert wrong[-1].reason.endswith("after it was right at the first launch")
    assert (raised.status, raised.reason) == ("error", "KeyError: 'a mistake in the builder'")
    assert crashed.status == "crash"
    assert "SIGABRT" in crashed.reason


@pytest.mark.device
@pytest.mark.slow
def test_a_hang_ends_at_the_limit(measure, planted):
    jobs = [Job("doubled", plants.plant(plants.HANG)), DOUBLED]
    (_, hung), (_, right) = measure(jobs, builder=planted, seconds=15.0)
    assert (hung.status, hung.seconds) == ("timeout", ())
    assert hung.reason == "not done in time, while at stage 'run'"
    assert right.status == "ok"


@pytest.mark.device
def test_where_the_host_takes_too_long(measure, tasks, planted):
    (tasks / "doubled" / "reference.npz").unlink()
    limits = MeasureLimits(seconds=120.0, reference_seconds=0.0)
    jobs = [DOUBLED, Job("doubled", plants.plant(plants.SCALED))]
    (_, right), (_, wrong) = measure(jobs, builder=planted, limits=limits)
    assert right.status == "ok"
    assert right.facts["reference"] == "untuned"
    assert right.facts["why"] == "the host passed its limit of 0 s"
    assert wrong.status == "wrong"


@pytest.mark.device
@pytest.mark.slow
def test_a_reference_is_computed_once(measure, tasks):
    path = tasks / "root" / "reference.npz"
    path.unlink()
    (_, first), (_, second) = measure([Job("root", None)] * 2)
    assert (first.status, second.status) == ("ok", "ok")
    assert (first.facts["reference"], first.facts["positive"]) == ("host", True)
    written = path.stat().st_mtime_ns
    measure([Job("root", None)])
    assert path.stat().st_mtime_ns == written


@pytest.mark.device
def test_jobs_may_depend_on_outcomes(tasks):
    seen = []

    def jobs():
        for count in range(3):
            assert len(seen) == count
            yield DOUBLED

    with Measurer(tasks, load_profile("cpu")) as measurer:
        measurer.measure(jobs(), lambda job, outcome: seen.append(outcome))
        before = children()
        measurer.measure([DOUBLED], lambda job, outcome: seen.append(outcome))
        assert children() == before  # the worker is kept
        for process in before:
            process.kill()
        psutil.wait_procs(before)
        measurer.measure([DOUBLED], lambda job, outcome: seen.append(outcome))
    assert [outcome.status for outcome in seen] == ["ok"] * 5


@pytest.mark.device
def test_an_interruption_ends_the_workers(tasks):
    def done(job, outcome):
        raise KeyboardInterrupt

    measurer = Measurer(tasks, load_profile("cpu"))
    before = children()
    with pytest.raises(KeyboardInterrupt):
        measurer.measure([DOUBLED] * 2, done)
    assert children() == before


def test_a_device_that_there_is_not(measure):
    with pytest.raises(DeviceError, match=r"candidates cannot be measured: .*no OpenCL device m"):
        measure([DOUBLED], opencl_device="no such device")


def test_memory_is_limited(measure):
    limits = MeasureLimits(memory=32 << 20)
    with pytest.raises(DeviceError, match=r"passed its limit of 0\.03 GiB"):
        measure([DOUBLED], limits=limits)


SESSION = """
import planted_kernels as plants
from pathlib import Path
from smartmem_tvm.devices import load_profile
from smartmem_tvm.tuning.measure import Job, Measurer

with Measurer(Path({tasks!r}), load_profile("cpu"), builder={builder!r}) as measurer:
    jobs = [Job("doubled", None), Job("doubled", plants.plant(plants.HANG))]
    measurer.measure(jobs, lambda job, outcome: print(outcome.status, flush=True))
"""


@pytest.mark.device
@pytest.mark.slow
def test_a_session_that_is_killed_leaves_nothing(tasks, planted):
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION.format(tasks=str(tasks), builder=planted)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert session.stdout.readline() == "ok\n"
        time.sleep(1.0)  # the next one hangs, or is about to
        workers = psutil.Process(session.pid).children(recursive=True)
        assert workers
        os.kill(session.pid, signal.SIGKILL)
        session.wait(60)
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert alive == []
    finally:
        session.kill()
        session.stdout.close()
