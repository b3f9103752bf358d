"""Learning curves: how much faster a strategy makes the tasks, by the number of trials."""

from __future__ import annotations

import io
import statistics
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tuning_bench import METASCHEDULE
from tuning_figures import curves, speedup_after
from tuning_pool import write
from tuning_results import Results

_COLOURS = {
    "evolution": "tab:blue",
    "explorer": "tab:orange",
    "random": "0.45",
    "metaschedule": "tab:red",
}


def draw_curves(results: Results, path: Path) -> None:
    """Draw one line for each strategy, the median over seeds, and a band from least to most.

    MetaSchedule has axes of its own below: on one scale with it, ours were one line.
    """
    trials = results.settings["trials"]
    found = curves(results.units, results.comparisons)
    apart = METASCHEDULE in found
    # The same bytes for the same values: no date, and identifiers from a fixed seed.
    with matplotlib.rc_context({"svg.hashsalt": "tuning", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        heights = [3, 1] if apart else [1]
        grid = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
        every = grid.ravel()
        for strategy, seeds in found.items():
            _draw(every[-1 if strategy == METASCHEDULE else 0], strategy, seeds, trials)
        every[0].axhline(1.0, color="0.2", linewidth=0.8)
        every[-1].set_xlabel("trials of a task")
        figure.supylabel("untuned over best so far, geomean over tasks", fontsize="medium")
        for axes in every:
            axes.grid(color="0.92")
            axes.set_axisbelow(True)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8, frameon=False)
        if apart:
            every[-1].set_ylim(bottom=0)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    write(path, text.getvalue())


def _draw(axes: Axes, strategy: str, seeds: dict[int, Any], trials: int) -> None:
    points = _points(seeds, trials)
    if not points:
        return
    steps, values = zip(*points, strict=True)
    tasks = max(map(len, seeds.values()))
    label = f"{strategy}: {tasks} tasks, {len(seeds)} seed{'s'[: len(seeds) != 1]}"
    colour = _COLOURS.get(strategy)
    median = [statistics.median(found) for found in values]
    (line,) = axes.plot(steps, median, drawstyle="steps-post", color=colour, label=label)
    axes.fill_between(
        steps,
        [min(found) for found in values],
        [max(found) for found in values],
        step="post",
        color=line.get_color(),
        alpha=0.18,
        linewidth=0,
    )


def _points(seeds: dict[int, Any], trials: int) -> list[tuple[int, list[float]]]:
    """Speed-ups of all seeds after each trial, from the first at which all have one."""
    found = []
    for trial in range(1, trials + 1):
        values = [speedup_after(tasks, trial) for tasks in seeds.values()]
        shown = [value for value in values if value is not None]
        if len(shown) == len(values):
            found.append((trial, shown))
    return found
