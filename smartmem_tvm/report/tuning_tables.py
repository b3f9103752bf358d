"""Tables and plots of a tuning session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..errors import SmartMemError
from ..whole_files import replacing

if TYPE_CHECKING:
    from ..tuning.records import Records
    from ..tuning.session import TaskProgress, TuningSession


def task_row(own: TaskProgress) -> dict[str, Any]:
    """What JSON has of a task."""
    ratio = None if own.start_s is None or own.best_s is None else own.start_s / own.best_s
    return {
        "task": own.task.key,
        "name": own.task.name,
        "calls": own.task.calls,
        "trials": own.trials,
        "outcomes": dict(sorted(own.statuses.items())),
        "untuned_us": None if own.start_s is None else 1e6 * own.start_s,
        "best_us": None if own.best_s is None else 1e6 * own.best_s,
        "speedup": ratio,
    }


def tuning_table(progress: Sequence[TaskProgress]) -> Table:
    """Tasks, those first that take most of an inference."""
    table = Table(title="Tuned kernels")
    table.add_column("kernel")
    for heading in ("calls", "trials", "failed", "untuned µs", "best µs", "faster"):
        table.add_column(heading, justify="right")
    for own in sorted(progress, key=lambda own: -own.weight):
        row = task_row(own)
        failed = own.trials - own.statuses["ok"]
        times = (row["untuned_us"], row["best_us"])
        table.add_row(
            own.task.name,
            str(own.task.calls),
            str(own.trials),
            str(failed) if failed else "",
            *("" if t is None else f"{t:.1f}" for t in times),
            "" if row["speedup"] is None else f"{row['speedup']:.2f}",
        )
    return table


def best_so_far(session: TuningSession, records: Records) -> list[tuple[int, float]]:
    """Milliseconds of all launches of an inference after each trial, by what is on record.

    Before a task has been measured, it counts as the rules schedule it.
    """
    tasks = {own.task.key: own for own in session.progress}
    best = {key: own.start_s for key, own in tasks.items()}
    if any(seconds is None for seconds in best.values()):
        return []
    curve = []
    mine = [r for r in records.records if r.task in tasks and r.profile == session.profile]
    for number, record in enumerate(mine, start=1):
        seconds, known = record.typical, best[record.task]
        if seconds is not None and known is not None:
            best[record.task] = min(known, seconds)
        total = sum(own.task.calls * (best[key] or 0.0) for key, own in tasks.items())
        curve.append((number, 1e3 * total))
    return curve


def plot_tuning(path: Path, session: TuningSession, records: Records) -> None:
    """Draw best-so-far over trials; the file appears whole or not at all."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SmartMemError(
            "--plot needs matplotlib: pip install 'smartmem-tvm[bench]', or leave --plot out."
        ) from error
    curve = best_so_far(session, records)
    if not curve:
        raise SmartMemError(
            f"nothing to draw in '{path}': not every kernel was measured as the rules schedule it."
        )
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    trials, times = zip(*curve, strict=True)
    axes.step(trials, times, where="post", label=f"{session.strategy}, seed {session.seed}")
    untuned = session.seconds(best=False)
    if untuned is not None:
        axes.axhline(1e3 * untuned, linestyle="--", color="grey", label="untuned")
    axes.set_xlabel("trials")
    axes.set_ylabel("kernels of an inference (ms)")
    axes.legend()
    with replacing(path) as partial:
        figure.savefig(partial, format="svg")
