"""Tables of the tuning bench."""

from __future__ import annotations

from typing import Any

from kernel_classes import CLASSES
from rich.console import Console
from rich.table import Table
from tuning_comparing import UNTUNED
from tuning_figures import ALL, checkpoints, medians
from tuning_results import Results

_NONE = "–"


def print_results(results: Results, console: Console) -> None:
    """Print what there is: tasks, geomeans, learning curves, and what failed."""
    found = results.summary
    failed = {name: unit["failed"] for name, unit in results.units.items() if unit.get("failed")}
    console.print(
        f"{len(results.tasks)} tasks, {len(results.units)} sessions of "
        f"{results.settings['trials']} trials, {len(results.comparisons)} tasks compared; "
        f"{len(failed)} sessions failed"
    )
    if results.comparisons:
        console.print(_tasks(results))
        for name, title in (("speedup", "untuned"), ("over_metaschedule", "MetaSchedule's best")):
            console.print(_geomeans(found[name], f"Geomean of {title} over each best"))
    if found.get("curves"):
        console.print(_curves(found["curves"], results.settings["trials"]))
        fastest = ", ".join(f"{name} {count}" for name, count in sorted(found["wins"].items()))
        console.print(
            f"best of ours after all trials, by the median over seeds: {found['winner']}"
            + (f"; fastest in the comparison: {fastest}" if fastest else "")
        )
    titles = {entry.key: entry.title for entry in results.entries()}
    for name, reason in failed.items():
        key, _, version = name.partition("/")
        console.print(f"{titles.get(key, key)}, {version}: {reason}", highlight=False)
    for key, comparison in results.comparisons.items():
        for version, reason in comparison["failed"].items():
            console.print(f"{titles[key]}, {version}, compared: {reason}", highlight=False)
    commits = {unit["commit"] for unit in results.units.values()}
    if len(commits) > 1:
        console.print(f"the sessions are of {len(commits)} commits: {', '.join(map(str, commits))}")
    loads = [load for unit in results.units.values() for load in unit["load"]]
    if loads:
        console.print(f"load average while tuning: {min(loads):.1f} to {max(loads):.1f}")


def _tasks(results: Results) -> Table:
    names = sorted({name for found in results.comparisons.values() for name in found["versions"]})
    names.remove(UNTUNED)
    table = Table(title="Milliseconds untuned, and how many times faster each best is")
    for column in ("task", "class", "calls", "ms"):
        table.add_column(column, overflow="fold", justify="right" if column == "ms" else "left")
    for name in names:
        table.add_column(name.replace("/", "\n"), justify="right")
    for entry in results.entries():
        if entry.key in results.comparisons:
            times = medians(results.comparisons[entry.key])
            untuned = times.get(UNTUNED)
            cells = [
                f"{untuned / times[name]:.2f}" if untuned and name in times else _NONE
                for name in names
            ]
            ms = _NONE if untuned is None else f"{untuned * 1e3:.4g}"
            table.add_row(entry.title, entry.kind, str(entry.calls), ms, *cells)
    return table


def _geomeans(found: dict[str, Any], title: str) -> Table:
    table = Table(title=f"{title} (number of tasks)")
    table.add_column("strategy/seed")
    kinds = (ALL, *CLASSES)
    for kind in kinds:
        table.add_column(kind, justify="right")
    for name, of_it in found.items():
        cells = [
            f"{of_it[kind]['ratio']:.3f} ({of_it[kind]['tasks']})" if kind in of_it else _NONE
            for kind in kinds
        ]
        table.add_row(name, *cells)
    return table


def _curves(found: dict[str, Any], trials: int) -> Table:
    table = Table(title="Geomean of untuned over best so far: median over seeds (least, most)")
    table.add_column("strategy")
    table.add_column("tasks", justify="right")
    for number in checkpoints(trials):
        table.add_column(f"{number} trials", justify="right")
    for strategy, of_it in found.items():
        cells = [_spread(of_it["after"][str(number)]) for number in checkpoints(trials)]
        table.add_row(strategy, str(of_it["tasks"]), *cells)
    return table


def _spread(value: dict[str, float] | None) -> str:
    if value is None:
        return _NONE
    return f"{value['median']:.3f} ({value['min']:.3f}, {value['max']:.3f})"
