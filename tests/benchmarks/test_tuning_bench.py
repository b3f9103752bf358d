"""The tuning bench: what is asked for, what is kept and not repeated, and who fails alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import bench_tuning
import pytest
import tuning_comparing
import tuning_metaschedule
import tuning_units
import tvm
from bench_tuning import chosen, compare_all, tune, units_of
from tuning_bench import Unit
from tuning_cases import GIB, KEY, bench_in, entry, unit, units
from tuning_comparing import UNTUNED, compare, digests, versions_of
from tuning_pool import write
from tuning_results import Results, read_results, results_for
from tuning_workers import BenchWorker
from tvm.s_tir import meta_schedule as ms
from tvm.script import tirx as T
from tvm.target import Target

from smartmem_tvm.bench.process import WorkerFailure
from smartmem_tvm.bench.work import work_folder
from smartmem_tvm.errors import SmartMemError

# --- what is asked for


def options_of(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["bench_tuning", *arguments])
    return bench_tuning.parse_arguments()


def test_first_seeds_come_before_the_next(monkeypatch):
    arguments = ("--strategies", "explorer,random,metaschedule", "--seeds", "0,2")
    found = units_of(options_of(monkeypatch, *arguments), [entry()])
    assert [u.version for u in found] == [
        "explorer/0", "random/0", "metaschedule/0", "explorer/2", "random/2",
    ]  # fmt: skip
    with pytest.raises(SmartMemError, match="no 'luck'"):
        units_of(options_of(monkeypatch, "--strategies", "luck"), [])
    with pytest.raises(SmartMemError, match="'x' is no seed"):
        units_of(options_of(monkeypatch, "--seeds", "x"), [])


def test_tasks_are_chosen_by_key_name_or_number():
    entries = [entry(1), entry(2), entry(3)]
    assert chosen(entries, None) == entries
    assert chosen(entries, f"f3,2,{entries[2].key}") == [entries[2], entries[1]]
    with pytest.raises(SmartMemError, match="no drawn task is 'f9'"):
        chosen(entries, "f9")


# --- what is kept


def results_with(bench, *entries):
    return Results(bench.settings(), {}, tasks=[vars(e) for e in entries])


def test_units_are_kept_one_by_one_and_not_repeated(monkeypatch, tmp_path):
    bench, entries = bench_in(tmp_path), [entry(1), entry(2)]
    output = tmp_path / "tuning.json"
    arguments = ["--strategies", "random", "--seeds", "0", "--output", str(output)]
    options = options_of(monkeypatch, *arguments)
    done = []

    def run_unit(_bench, task, asked):
        if len(done) == 1:
            done.append("killed")
            raise KeyboardInterrupt
        done.append(asked.name)
        return unit(asked.task, failed="time: over" if task is entries[0] else None)

    monkeypatch.setattr(bench_tuning, "run_unit", run_unit)
    with pytest.raises(KeyboardInterrupt):
        tune(options, bench, entries, results_with(bench, *entries))
    first, second = (Unit(e.key, "random", 0).name for e in entries)
    kept = read_results(output)
    assert [*kept.units] == [first]
    tune(options, bench, entries, kept)
    assert [*read_results(output).units] == [first, second]
    tune(options, bench, entries, read_results(output))
    assert done == [first, "killed", second]
    options.retry = True
    tune(options, bench, entries, read_results(output))
    assert done[3:] == [first]


def test_results_of_other_settings_are_refused(tmp_path):
    bench, path = bench_in(tmp_path), tmp_path / "tuning.json"
    results_with(bench).save(path)
    assert results_for(path, bench.settings(), {}).settings == bench.settings()
    with pytest.raises(SmartMemError, match="trials is 8 there and 9 now"):
        results_for(path, replace(bench, trials=9).settings(), {})
    with pytest.raises(SmartMemError, match="other environment: machine"):
        results_for(path, bench.settings(), {"machine": "m"})
    path.write_text('{"tasks": []}', encoding="utf-8")
    with pytest.raises(SmartMemError, match="no results file of the tuning bench"):
        read_results(path)


def test_a_second_run_at_a_time_is_refused(monkeypatch, tmp_path):
    options = options_of(monkeypatch, "--output", str(tmp_path / "tuning.json"))
    folder = bench_tuning.bench_of(options).folder
    folder.parent.mkdir()
    with (
        work_folder(folder, fresh=False),
        pytest.raises(SmartMemError, match="in use by another run"),
    ):
        bench_tuning.run(options)


def test_tasks_are_compared_again_when_a_schedule_changed(monkeypatch, tmp_path):
    bench, one = bench_in(tmp_path), entry(1)
    output = tmp_path / "tuning.json"
    options = options_of(monkeypatch, "--output", str(output))
    compared = []

    def compare(_bench, task, versions, rounds, note):
        compared.append([*versions])
        return {"times_s": {n: [1.0] for n in versions}, "failed": {}, "load": [1.0, 1.0],
                "versions": digests(versions)}  # fmt: skip

    monkeypatch.setattr(bench_tuning, "compare", compare)
    results = results_with(bench, one)
    compare_all(options, bench, [one], results)
    assert compared == []  # nothing but the untuned schedule
    results.units |= units(unit(one.key, choice={"width": 4}), unit(one.key, "explorer", 0, []))
    compare_all(options, bench, [one], results)
    compare_all(options, bench, [one], read_results(output))
    assert compared == [[UNTUNED, "random/0"]]
    results.units |= units(unit(one.key, choice={"width": 8}))
    compare_all(options, bench, [one], results)
    assert len(compared) == 2
    options.compare_only = True
    compare_all(options, bench, [one], results)
    assert len(compared) == 3


# --- comparing


class Clock:
    """A worker in which one version ends the process, and times are those of a list."""

    requests: list = []  # noqa: RUF012
    bad: tuple = ()

    def __init__(self, *_):
        pass

    def request(self, _seconds, do, name=None, **_):
        Clock.requests.append((do, name))
        if (do, name) in Clock.bad:
            raise WorkerFailure("crash", "the process ended")
        return {"error": 0.0, "seconds": 2.0 if name == "slow/0" else 0.5}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(tuning_comparing, "BenchWorker", Clock)
    monkeypatch.setattr(Clock, "requests", [])
    return Clock


VERSIONS = {UNTUNED: {"choice": None}, "random/0": {"choice": {}}, "slow/0": {"choice": {}}}


def test_versions_take_turns_and_slow_ones_fewer(clock, tmp_path):
    found = compare(bench_in(tmp_path), entry(), VERSIONS, 5, print)
    assert {name: len(times) for name, times in found["times_s"].items()} == {
        UNTUNED: 5, "random/0": 5, "slow/0": 3,
    }  # fmt: skip
    order = [name for do, name in clock.requests if do == "time"]
    assert order[:6] == [UNTUNED, "random/0", "slow/0", "random/0", "slow/0", UNTUNED]
    assert found["failed"] == {}
    assert found["versions"] == digests(VERSIONS)


@pytest.mark.parametrize("stage", ["add", "time"])
def test_who_ends_the_process_is_left_out(clock, monkeypatch, tmp_path, stage):
    monkeypatch.setattr(Clock, "bad", ((stage, "random/0"),))
    found = compare(bench_in(tmp_path), entry(), VERSIONS, 5, print)
    assert found["failed"] == {"random/0": "crash: the process ended"}
    assert {name: len(times) for name, times in found["times_s"].items()} == {
        UNTUNED: 5, "slow/0": 3,
    }  # fmt: skip


def test_without_the_untuned_schedule_nothing_is_compared(clock, monkeypatch, tmp_path):
    monkeypatch.setattr(Clock, "bad", (("add", UNTUNED),))
    found = compare(bench_in(tmp_path), entry(), VERSIONS, 5, print)
    assert found["failed"].keys() == VERSIONS.keys()
    assert found["times_s"] == {}


def test_versions_are_the_best_of_each_session(tmp_path):
    bench, one = bench_in(tmp_path), entry(1)
    some = units(
        unit(one.key, choice={"width": 4}), unit(one.key, "metaschedule", 0),
        unit(one.key, "explorer", 0, []), unit("other", "evolution", 0),
    )  # fmt: skip
    found = versions_of(bench, one, some)
    module = str(tmp_path / "cpu" / "metaschedule" / f"{one.key}-0" / "best.json")
    assert found == {
        UNTUNED: {"choice": None},
        "random/0": {"choice": {"width": 4}},
        "metaschedule/0": {"module": module},
    }
    before = digests(found)
    write(Path(module), "{}")
    changed = digests(found)
    assert [name for name in found if before[name] != changed[name]] == ["metaschedule/0"]


# --- processes


def test_a_request_that_takes_too_long_ends_the_process(tmp_path):
    with BenchWorker(tmp_path / "log", 4 * GIB) as worker:
        pid = worker._child.pid
        with pytest.raises(WorkerFailure, match=r"time: not done after 0\.01 s"):
            worker.request(0.01, "load", task="t", device="cpu", opencl_device=None)
    assert not Path(f"/proc/{pid}").exists()


def test_what_a_process_raises_is_the_reason(tmp_path):
    with BenchWorker(tmp_path / "log", 4 * GIB) as worker:
        with pytest.raises(WorkerFailure, match=r"error: .*no-such-device"):
            worker.request(60.0, "load", task="t", device="no-such-device", opencl_device=None)


def test_sessions_that_fail_have_a_reason(monkeypatch, tmp_path):
    found = {"best_s": None, "trials": 2, "statuses": {"wrong": 2}, "reasons": {"wrong: 3": 2}}
    monkeypatch.setattr(tuning_units, "_metaschedule", lambda *_: {**found, "stopped": "time: x"})
    asked = Unit(KEY, "metaschedule", 0)
    failed = tuning_units.run_unit(bench_in(tmp_path), entry(), asked)
    assert failed["failed"] == "no candidate was right: wrong: 3; time: x"
    assert len(failed["load"]) == 2

    def crash(*_):
        raise WorkerFailure("crash", "signal SIGSEGV")

    monkeypatch.setattr(tuning_units, "_session", crash)
    failed = tuning_units.run_unit(bench_in(tmp_path), entry(), Unit(KEY, "random", 0))
    assert failed["failed"] == "crash: signal SIGSEGV"


def test_failures_of_metaschedule_have_a_status():
    texts = {
        "LocalRunner: An exception occurred\nwrong outputs: relative error": "wrong",
        "LocalRunner: Timeout, killed after 60 seconds\n": "timeout",
        "LocalRunner: An exception occurred\nSubprocess terminated": "crash",
        "LocalBuilder: An exception occurred\nboom": "error",
    }
    assert {text: tuning_metaschedule._status(text) for text in texts} == texts


@T.prim_func(s_tir=True)
def two_blocks_of_one_name(a: T.Buffer((64,)), c: T.Buffer((64,))):
    b = T.sblock_alloc_buffer((64,))
    for i in range(64):
        with T.sblock("add"):
            vi = T.axis.spatial(64, i)
            b[vi] = a[vi] + T.float32(1)
    for i in range(64):
        with T.sblock("add"):
            vi = T.axis.spatial(64, i)
            c[vi] = b[vi] + T.float32(2)


def default_space(func):
    """Designs of MetaSchedule's default space for OpenCL."""
    context = ms.TuneContext(func, target=Target("opencl"), space_generator="post-order-apply")
    return context.generate_design_space()


def test_metaschedule_reads_functions_whose_blocks_share_a_name():
    with pytest.raises(tvm.error.InternalError, match="Duplicated block name add"):
        default_space(two_blocks_of_one_name)
    assert default_space(tuning_metaschedule.with_own_names(two_blocks_of_one_name))
