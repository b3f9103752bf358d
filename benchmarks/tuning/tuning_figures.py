"""Figures of a run: geometric means over tasks, and learning curves.

A curve takes the best of many noisy times, which is too good; the speed-ups of the comparison are
from medians of schedules timed in turns, and are what counts.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from kernel_classes import CLASSES
from tuning_bench import METASCHEDULE
from tuning_comparing import UNTUNED

CHECKPOINTS = (8, 16, 32, 64)
ALL = "all"

Fields = Mapping[str, Any]


def geomean(values: Iterable[float]) -> float | None:
    """Geometric mean; None of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logs)) if logs else None


def medians(comparison: Fields) -> dict[str, float]:
    """Median seconds of each version that was timed."""
    return {name: statistics.median(t) for name, t in comparison["times_s"].items() if t}


def best_after(curve: Iterable[Iterable[float]], trial: int) -> float | None:
    """Best seconds after so many trials; None where none was right until then."""
    return min((seconds for number, seconds in curve if number <= trial), default=None)


def checkpoints(trials: int) -> list[int]:
    """Trials after which a curve is looked at."""
    return [*(number for number in CHECKPOINTS if number < trials), trials]


def curves(units: Mapping[str, Fields], comparisons: Mapping[str, Fields]) -> dict[str, Any]:
    """What learning curves are drawn from.

    Returns
    -------
    dict
        By strategy and seed, for each task the seconds untuned and the curve. Strategies of ours
        have the tasks that all of their sessions have; MetaSchedule those of them that it has.
    """
    sessions: dict[tuple[str, int], dict[str, Fields]] = {}
    for unit in units.values():
        if unit.get("improvements"):
            sessions.setdefault((unit["strategy"], unit["seed"]), {})[unit["task"]] = unit
    ours = [found for (strategy, _), found in sessions.items() if strategy != METASCHEDULE]
    common = set.intersection(*map(set, ours)) if ours else set()
    result: dict[str, Any] = {}
    for (strategy, seed), found in sorted(sessions.items()):
        shown = {}
        for task in sorted(common & found.keys()):
            untuned = found[task].get("untuned_s") or _untuned(task, units, comparisons)
            if untuned is not None:
                shown[task] = {"untuned_s": untuned, "curve": found[task]["improvements"]}
        if shown:
            result.setdefault(strategy, {})[seed] = shown
    return result


def _untuned(
    task: str, units: Mapping[str, Fields], comparisons: Mapping[str, Fields]
) -> float | None:
    """Seconds of a task untuned, where a session did not measure it: MetaSchedule's does not."""
    if task in comparisons and UNTUNED in (found := medians(comparisons[task])):
        return found[UNTUNED]
    times = [unit.get("untuned_s") for unit in units.values() if unit["task"] == task]
    return next((seconds for seconds in times if seconds), None)


def speedup_after(tasks: Mapping[str, Fields], trial: int) -> float | None:
    """Geomean of untuned over best; None while a task has no right candidate."""
    best = {task: best_after(found["curve"], trial) for task, found in tasks.items()}
    if not best or None in best.values():
        return None
    return geomean(tasks[task]["untuned_s"] / seconds for task, seconds in best.items() if seconds)


def summary(
    tasks: list[dict[str, Any]],
    units: Mapping[str, Fields],
    comparisons: Mapping[str, Fields],
    trials: int,
) -> dict[str, Any]:
    """What the results say.

    Returns
    -------
    dict
        ``speedup``, ``over_metaschedule`` (:func:`_ratios`), ``curves`` (by strategy and number of
        trials ``median``, ``min`` and ``max`` over seeds), ``wins`` (tasks of which each version
        is the fastest), ``winner`` (the strategy of the largest median after all trials) and
        ``failed_units``.
    """
    found = curves(units, comparisons)
    learning: dict[str, Any] = {
        strategy: {
            "tasks": max(map(len, seeds.values())),
            "after": {str(t): _spread(seeds, t) for t in checkpoints(trials)},
        }
        for strategy, seeds in found.items()
    }
    ours = {
        strategy: last["median"]
        for strategy, of_it in learning.items()
        if strategy != METASCHEDULE and (last := of_it["after"][str(trials)]) is not None
    }
    kinds = {task["key"]: task["kind"] for task in tasks}
    times = {key: medians(comparison) for key, comparison in comparisons.items()}
    fastest = [min(found, key=lambda name: found[name]) for found in times.values() if found]
    return {
        "speedup": _ratios(times, kinds, lambda _: UNTUNED),
        "over_metaschedule": _ratios(times, kinds, _peer_of),
        "curves": learning,
        "wins": dict(Counter(fastest)),
        "winner": max(ours, key=lambda name: ours[name], default=None),
        "failed_units": sum(unit.get("failed") is not None for unit in units.values()),
    }


def _spread(seeds: Mapping[int, Mapping[str, Fields]], trial: int) -> dict[str, float] | None:
    values = [value for s in seeds.values() if (value := speedup_after(s, trial)) is not None]
    if len(values) < len(seeds):
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _peer_of(times: Fields) -> str | None:
    """MetaSchedule's version with the fewest seconds: the most is asked of ours."""
    names = [name for name in times if name.startswith(f"{METASCHEDULE}/")]
    return min(names, key=lambda name: times[name], default=None)


def _ratios(times: Mapping[str, Fields], kinds: Mapping[str, str], over: Any) -> dict[str, Any]:
    """Geomeans of another version's time over that of each, of all tasks and of each class.

    Returns
    -------
    dict
        By version and class ``ratio`` and the number of ``tasks``.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for key, own in times.items():
        other = over(own)
        if other not in own:
            continue
        for name, seconds in own.items():
            if name != other:
                of_it = found.setdefault(name, {})
                for kind in (ALL, kinds[key]):
                    of_it.setdefault(kind, []).append(own[other] / seconds)
    order = (ALL, *CLASSES)
    return {
        name: {k: {"ratio": geomean(of_it[k]), "tasks": len(of_it[k])} for k in order if k in of_it}
        for name, of_it in sorted(found.items())
    }
