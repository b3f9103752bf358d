"""The session: budgets, shares, records before learning, resumption."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf, nan
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from tvm import te, topi

from smartmem_tvm.devices import load_profile
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.tuning.records import Header, Records
from smartmem_tvm.tuning.session import CONFIRMATIONS, FINALISTS, Budget, TuningSession
from smartmem_tvm.tuning.tasks import TuningTask, space_of


def task(name, m, calls=1):
    a, b = te.placeholder((m, 16)), te.placeholder((16, 32))
    func = te.create_prim_func([a, b, topi.matmul(a, b)])
    key = f"{m:016x}"
    return TuningTask(key, name, func, space_of(func, load_profile("cpu").target()), calls)


class Formula:
    """Measures by a formula: wider is faster; what `fails` says fails."""

    def __init__(self, fails=lambda choice: None):
        self.fails = fails
        self.jobs = []

    def measure(self, jobs, done):
        for job in jobs:
            self.jobs.append(job)
            status = self.fails(job.choice) or "ok"
            tile = job.choice.tile
            base = int(job.task, 16) * 1e-5
            seconds = base / tile.width / (1 + 0.1 * len(tile.rows))
            done(
                job,
                SimpleNamespace(
                    status=status,
                    seconds=(seconds, seconds, seconds) if status == "ok" else (),
                    error=None,
                    reason=None if status == "ok" else "as told",
                    device="formula",
                    driver="1",
                ),
            )


def session(tasks, budget, measurer=None, known=None, strategy="random", keep=None, **options):
    kept = []
    made = TuningSession(
        tasks,
        measurer or Formula(),
        keep or kept.append,
        "cpu",
        strategy=strategy,
        seed=1,
        budget=budget,
        known=known,
        **options,
    )
    return made, kept


def as_records(kept, tmp_path):
    return Records(tmp_path / "records.jsonl", Header("0", tvm.__version__), kept, 0)


@pytest.mark.parametrize("strategy", ["random", "explorer", "evolution"])
def test_the_rules_schedule_is_measured_first_and_the_best_is_found(strategy):
    one = task("one", 64)
    made, kept = session([one], Budget(trials=24), strategy=strategy)
    made.run()
    assert made.trials == 24
    assert [record.trial for record in kept[:24]] == list(range(24))
    assert kept[0].choice == one.space.choice(one.space.start[0]).to_dict()
    (progress,) = made.progress
    assert progress.start_s == kept[0].typical
    assert progress.best_s == min(record.typical for record in kept)
    assert made.seconds() == progress.best_s <= made.seconds(best=False)
    assert len({record.choice_text for record in kept}) == 24


def test_the_best_is_measured_again_beside_the_rules_schedule():
    measurer = Formula()
    one = task("one", 64)
    made, kept = session([one], Budget(trials=12), measurer)
    made.run()
    again = kept[12:]
    start = one.space.choice(one.space.start[0]).to_dict()
    best = min(kept[:12], key=lambda record: record.typical).choice
    # In turns, so that whatever disturbs the machine disturbs both.
    turns = [record.choice for record in again if record.choice in (start, best)]
    assert turns == [start, best] * CONFIRMATIONS
    assert len(again) <= CONFIRMATIONS * (1 + FINALISTS)
    assert made.trials == 12


def test_a_lucky_time_does_not_win():
    class Lucky(Formula):
        """The fifth measurement looks ten times faster than it is."""

        def measure(self, jobs, done):
            def lucky(job, outcome):
                if len(self.jobs) == 5:
                    outcome.seconds = tuple(s / 100 for s in outcome.seconds[:1])
                done(job, outcome)

            super().measure(jobs, lucky)

    measurer = Lucky()
    made, kept = session([task("one", 64)], Budget(trials=12), measurer)
    made.run()
    (progress,) = made.progress
    assert progress.best_s > 5 * kept[4].typical


def test_what_is_wrong_once_is_never_best():
    measurer = Formula()
    made, kept = session([task("one", 64)], Budget(trials=12), measurer)
    measurer.fails = lambda choice: "wrong" if len(measurer.jobs) > 12 else None
    made.run()
    wrong = {record.choice_text for record in kept if record.status == "wrong"}
    (progress,) = made.progress
    assert wrong
    best = progress.task.space.choice(progress.ranking()[0][1])
    assert replace(kept[0], choice=best.to_dict()).choice_text not in wrong


def test_rounds_go_where_the_time_is():
    small, large = task("small", 8), task("large", 800)
    made, kept = session([small, large], Budget(trials=66))
    made.run()
    shares = {own.task.name: own.trials for own in made.progress}
    assert shares["large"] > 4 * shares["small"] > 0
    assert sum(shares.values()) == made.trials == 66 <= len(kept)


def test_calls_count_in_the_share():
    often, once = task("often", 64, calls=20), task("once", 72)
    made, _ = session([often, once], Budget(trials=50))
    made.run()
    shares = {own.task.name: own.trials for own in made.progress}
    assert shares["often"] > shares["once"]


def test_every_task_gets_as_many():
    tasks = [task("one", 8), task("two", 400), task("three", 40)]
    made, _ = session(tasks, Budget(per_task=11))
    made.run()
    assert [own.trials for own in made.progress] == [11, 11, 11]
    assert made.left_trials == 0


def test_a_budget_of_fewer_trials_than_tasks():
    made, kept = session([task("one", 8), task("two", 16), task("three", 32)], Budget(trials=2))
    made.run()
    assert len(kept) == 2
    assert made.seconds() is None


def test_time_ends_a_session():
    made, kept = session([task("one", 8)], Budget(seconds=1e-9))
    made.run()
    assert len(kept) == 1
    assert made.trials == 1


@pytest.mark.parametrize(
    "budget",
    [{}, {"trials": 0}, {"seconds": -1.0}, {"seconds": nan}, {"seconds": inf}, {"per_task": 0}],
)
def test_budgets_that_are_none(budget):
    with pytest.raises(SmartMemError, match="budget"):
        Budget(**budget)


def test_failures_cost_a_trial_and_nothing_else():
    measurer = Formula(lambda choice: "wrong" if choice.tile.width == 16 else None)
    made, kept = session([task("one", 64)], Budget(trials=40), measurer)
    made.run()
    assert {record.status for record in kept} == {"ok", "wrong"}
    best = min((record for record in kept if record.typical), key=lambda record: record.typical)
    assert best.choice.get("width", 1) != 16
    assert made.progress[0].statuses["wrong"] == len(
        {r.choice_text for r in kept if r.status == "wrong"}
    )


def test_a_record_is_kept_before_the_search_learns():
    class Full(Exception):
        pass

    kept = []

    def keep(record):
        if len(kept) == 5:
            raise Full
        kept.append(record)

    made, _ = session([task("one", 64)], Budget(trials=40), keep=keep)
    with pytest.raises(Full):
        made.run()
    assert len(kept) == 5
    assert made.trials == 5


@pytest.mark.parametrize("strategy", ["random", "explorer", "evolution"])
def test_a_session_goes_on_from_records(strategy, tmp_path):
    one = task("one", 64)
    first, kept = session([one], Budget(trials=20), strategy=strategy)
    first.run()
    known = as_records(kept, tmp_path)
    second, more = session([one], Budget(trials=30), known=known, strategy=strategy)
    assert second.progress[0].best_s == first.progress[0].best_s
    assert second.progress[0].start_s == first.progress[0].start_s
    second.run()
    assert second.trials == 30
    assert not {r.choice_text for r in kept} & {r.choice_text for r in more[:10]}
    assert [record.trial for record in more[:10]] == list(range(20, 30))


def test_records_of_other_schedules_count_as_trials_alone(tmp_path):
    one = task("one", 64)
    made, kept = session([one], Budget(trials=3))
    made.run()
    strange = [replace(kept[0], choice={"later": 1})]
    second, more = session([one], Budget(trials=4), known=as_records(strange, tmp_path))
    second.run()
    assert second.trials == 4
    assert len({record.choice_text for record in more}) == 3


def test_watching():
    seen = []
    made, _ = session([task("one", 64)], Budget(trials=9))
    made.run(lambda one: seen.append(one.trials))
    assert seen[:9] == list(range(1, 10))


def test_a_space_that_is_exhausted_ends_the_session():
    a = te.placeholder((1, 1))
    func = te.create_prim_func([a, topi.nn.relu(a)])
    space = space_of(func, load_profile("cpu").target())
    # Few values of each knob: a search is through with them sooner.
    sizes = [
        max(at + 1, min(size, 3)) for at, size in zip(space.start[0], space.sizes, strict=True)
    ]
    space.sizes = tuple(sizes)
    legal = sum(space.canonical(point) == point for point in product(*map(range, sizes)))
    made, kept = session([TuningTask("f" * 16, "relu", func, space, 1)], Budget(trials=1000))
    made.run()
    assert made.trials == len({record.choice_text for record in kept}) == legal > 1
    assert np.isfinite([record.typical for record in kept]).all()
