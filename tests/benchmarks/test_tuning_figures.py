"""The tuning bench's draw, learning curves and geomeans."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import tuning_drawing
import tuning_figures
from kernel_classes import CLASSES
from tuning_cases import KEY, bench_in, entry, metaschedule, unit, units
from tuning_comparing import UNTUNED
from tuning_drawing import draw_tasks
from tuning_results import Results
from tuning_sessions import improvements, trial_seconds

from smartmem_tvm.tuning.records import Record


def test_a_curve_has_the_trials_that_were_better():
    assert improvements([None, 3.0, 3.5, None, 2.0, 2.0]) == [[2, 3.0], [5, 2.0]]
    assert improvements([None]) == []


def test_a_schedule_that_is_measured_again_is_no_trial():
    def record(choice, *seconds):
        fields = {"task": KEY, "name": "f", "profile": "cpu", "device": "d", "driver": ""}
        fields |= {"error": None, "reason": None, "strategy": "random", "seed": 0, "trial": 0}
        status = "ok" if seconds else "wrong"
        return Record(choice=choice, seconds=seconds, status=status, when="2026-01-31T12:00:00Z",
                      **fields)  # fmt: skip

    again = [record({"width": 4}, 3.0), record({}, 1.0), record({"width": 8})]
    assert trial_seconds(again) == [3.0, 1.0, None]
    again += [record({}, 2.0, 9.0), record({"width": 4})]
    assert trial_seconds(again) == [None, 2.0, None]


def test_curves_are_of_the_tasks_that_all_sessions_of_ours_have():
    own = units(
        unit("a", "random", 0), unit("b", "random", 0), unit("a", "explorer", 1),
        metaschedule("a"),
        metaschedule("b"),
        unit("c", "explorer", 0, []),
    )  # fmt: skip
    found = tuning_figures.curves(own, {})
    assert {name: {s: [*tasks] for s, tasks in seeds.items()} for name, seeds in found.items()} == {
        "explorer": {1: ["a"]},
        "random": {0: ["a"]},
        "metaschedule": {0: ["a"]},
    }
    # MetaSchedule measures nothing untuned: a session of ours did, or better the comparison.
    assert found["metaschedule"][0]["a"]["untuned_s"] == 4.0
    found = tuning_figures.curves(own, {"a": {"times_s": {UNTUNED: [5.0, 6.0, 9.0]}}})
    assert found["metaschedule"][0]["a"]["untuned_s"] == 6.0


def test_speedups_are_geomeans_once_every_task_has_a_candidate():
    tasks = {
        "a": {"untuned_s": 4.0, "curve": [[1, 4.0], [3, 1.0]]},
        "b": {"untuned_s": 9.0, "curve": [[2, 9.0], [4, 1.0]]},
    }
    after = [tuning_figures.speedup_after(tasks, trial) for trial in (1, 2, 3, 4, 9)]
    assert after == [None, *map(pytest.approx, (1.0, 2.0, 6.0, 6.0))]


def test_checkpoints_end_with_the_last_trial():
    assert tuning_figures.checkpoints(64) == [8, 16, 32, 64]
    assert tuning_figures.checkpoints(6) == [6]
    assert tuning_figures.checkpoints(20) == [8, 16, 20]


def test_the_summary_compares_with_the_better_seed_of_metaschedule():
    tasks = [asdict(replace(entry(kind=k), key=k)) for k in ("contraction", "reduction")]
    times = {UNTUNED: [4.0, 4.0, 40.0], "random/0": [2.0], "metaschedule/0": [8.0]}
    comparisons = {
        "contraction": {"times_s": {**times, "metaschedule/1": [1.0]}},
        "reduction": {"times_s": {**times, "random/0": [0.5], "metaschedule/0": []}},
    }
    own = units(
        unit("contraction", "random", 0), unit("contraction", "random", 1, [[1, 4.0], [2, 1.0]]),
        unit("reduction", "random", 2, [], failed="no"),
    )  # fmt: skip
    found = tuning_figures.summary(tasks, own, comparisons, 8)
    assert found["speedup"]["random/0"] == {
        "all": {"ratio": pytest.approx(4.0), "tasks": 2},
        "contraction": {"ratio": pytest.approx(2.0), "tasks": 1},
        "reduction": {"ratio": pytest.approx(8.0), "tasks": 1},
    }
    assert found["speedup"]["metaschedule/0"]["all"] == {"ratio": pytest.approx(0.5), "tasks": 1}
    # Without a time of MetaSchedule's there is nothing to compare with.
    only = {"ratio": pytest.approx(0.5), "tasks": 1}
    assert found["over_metaschedule"]["random/0"] == {"all": only, "contraction": only}
    assert found["wins"] == {"metaschedule/1": 1, "random/0": 1}
    assert found["winner"] == "random"
    assert found["failed_units"] == 1
    spread = found["curves"]["random"]["after"]["8"]
    assert spread == {"median": pytest.approx(3.0), "min": 2.0, "max": 4.0}


# --- the draw


@pytest.fixture
def pools(monkeypatch):
    """Pools of four models; the times of their tasks are the last digits of the keys, in 10 µs."""
    asked = []

    def pool(bench, model, fused, note, redraw):
        asked.append((model.name, fused))
        number = 100 * [m.name for m in bench.models].index(model.name) + 1000 * (not fused)
        kinds = CLASSES[:3] if fused else ("elementwise",)
        found = []
        for kind in kinds:
            size = 2 if kind == "convolution" else 4
            for digit in range(size):
                found.append(entry(number + digit, model.key, kind, fused=fused))
                number += 10
        return found

    class Untuned:
        def __init__(self, bench, note):
            self.measured = []

        def seconds(self, entry):
            seconds = 1e-5 * (int(entry.key, 16) % 10)
            return seconds if seconds >= 2e-5 else None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(tuning_drawing, "_pool", pool)
    monkeypatch.setattr(tuning_drawing, "_Untuned", Untuned)
    return asked


MODELS = ("swin", "vit", "regnet", "resnext")


def test_classes_get_equal_shares_and_models_take_turns(pools, tmp_path):
    bench = bench_in(tmp_path, MODELS, draw=9)
    found = draw_tasks(bench, print)
    kinds = [e.kind for e in found]
    # No convolution takes long enough, so that the others have its share.
    assert {kind: kinds.count(kind) for kind in CLASSES} == {
        "contraction": 3, "convolution": 0, "reduction": 3, "elementwise": 3,
    }  # fmt: skip
    assert all(e.untuned_s >= 2e-5 for e in found)
    for kind in ("contraction", "reduction"):
        assert len({e.model for e in found if e.kind == kind}) == 3
    assert [e.fused for e in found if e.kind == "elementwise"] == [False] * 3
    assert draw_tasks(bench, print) == found
    assert draw_tasks(replace(bench, seed=2), print) != found


def test_models_are_read_without_fusion_only_for_elementwise_tasks(pools, tmp_path):
    draw_tasks(bench_in(tmp_path, MODELS, draw=1), print)
    assert {fused for _, fused in pools} == {True}


def test_fewer_are_drawn_where_there_are_no_more(pools, tmp_path):
    found = draw_tasks(bench_in(tmp_path, MODELS, draw=1000), print)
    assert len(found) == len({e.key for e in found}) == 4 * (2 + 2 + 2)


def test_the_plot_is_the_same_for_the_same_results(tmp_path):
    pytest.importorskip("matplotlib")
    from tuning_plot import draw_curves

    results = Results({"trials": 8}, {}, units=units(unit("a"), unit("a", "explorer", 1)))
    for name in ("one", "two"):
        draw_curves(results, tmp_path / name)
    text = (tmp_path / "one").read_text(encoding="utf-8")
    assert text == (tmp_path / "two").read_text(encoding="utf-8")
    assert "explorer: 1 tasks, 1 seed" in text


def test_metaschedule_has_axes_of_its_own(tmp_path):
    pytest.importorskip("matplotlib")
    from tuning_plot import draw_curves

    own = [unit("a"), unit("a", "explorer", 1)]
    for name, sessions in {"ours": own, "both": [*own, metaschedule("a")]}.items():
        draw_curves(Results({"trials": 8}, {}, units=units(*sessions)), tmp_path / name)
    ours, both = ((tmp_path / name).read_text(encoding="utf-8") for name in ("ours", "both"))
    assert [text.count('<g id="axes_') for text in (ours, both)] == [1, 2]
    assert both.count("metaschedule: 1 tasks, 1 seed") >= 1
