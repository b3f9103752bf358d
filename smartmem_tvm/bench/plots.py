"""Plots of results as SVG files, drawn with matplotlib where it is installed.

Every file ends with a comment that holds a hash of what it shows. A page can so be written and
checked where matplotlib is not installed, and a plot of older results is never shown.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..whole_files import write_text
from .results import Document

MISSING = "'matplotlib' is not installed (pip install 'smartmem-tvm[bench]')"
# The size of the paper's models: others are no basis for a comparison with it.
FULL = "full"
_MARK = "<!-- data "

# Model, and a value for each series or None.
Rows = dict[str, list[float | None]]


class Plot:
    """One plot of one results file.

    Attributes
    ----------
    name : str
        Suffix of the file.
    title, unit : str
        What it shows.
    series : list[str]
        Runners, or the paper's columns.
    rows : dict[str, list[float or None]]
        By model a value for each series.
    """

    def __init__(
        self, name: str, title: str, unit: str, series: Sequence[str], rows: Rows, line: float = 0.0
    ) -> None:
        self.name = name
        self.title = title
        self.unit = unit
        self.series = list(series)
        self.rows = rows
        self.line = line

    @property
    def digest(self) -> str:
        """Hash of what is shown."""
        shown = [self.title, self.unit, self.series, self.rows, self.line]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]

    def path(self, results: Path) -> Path:
        """Where the plot of a results file is."""
        return results.with_name(f"{results.stem}-{self.name}.svg")

    def is_drawn(self, results: Path) -> bool:
        """Whether the file is there and shows these very values."""
        path = self.path(results)
        return path.exists() and path.read_text(encoding="utf-8").rstrip().endswith(
            f"{_MARK}{self.digest} -->"
        )

    def draw(self, results: Path) -> None:
        """Write the file, whole or not at all."""
        write_text(self.path(results), f"{_svg(self)}{_MARK}{self.digest} -->\n")


def plots_of(document: Document, paper: Mapping[str, Any]) -> list[Plot]:
    """Plots for which the results have values."""
    return [plot for plot in (_ratios(document), _kernels(document, paper)) if plot.rows]


def draw_plots(results: Path, document: Document, paper: Mapping[str, Any]) -> str | None:
    """Draw what is not up to date beside a results file.

    Returns
    -------
    str or None
        Why nothing could be drawn; None where everything is.
    """
    stale = [plot for plot in plots_of(document, paper) if not plot.is_drawn(results)]
    if stale and importlib.util.find_spec("matplotlib") is None:
        return MISSING
    for plot in stale:
        plot.draw(results)
    return None


def _ratios(document: Document) -> Plot:
    records = document.records()
    peers = list(dict.fromkeys(record.runner for record in records if record.ratio is not None))
    rows: Rows = {}
    for record in records:
        if record.ratio is not None:
            row = rows.setdefault(f"{record.model}/{record.size}", [None] * len(peers))
            row[peers.index(record.runner)] = round(record.ratio, 4)
    return Plot(
        "ratios",
        "Our latency over each peer's, same device and rounds (below 1, ours is faster)",
        "ratio, logarithmic",
        peers,
        rows,
        line=1.0,
    )


def _kernels(document: Document, paper: Mapping[str, Any]) -> Plot:
    records = [record for record in document.records() if record.kernels is not None]
    runners = list(dict.fromkeys(record.runner for record in records))
    rows: Rows = {}
    for record in records:
        row = rows.setdefault(f"{record.model}/{record.size}", [None] * (len(runners) + 1))
        row[runners.index(record.runner)] = record.kernels
    for name, row in rows.items():
        model, _, size = name.partition("/")
        published = paper["models"].get(model)
        if published is not None and size == FULL:
            row[-1] = published["operators_after"]["SmartMem"]
    return Plot(
        "kernels",
        "Device launches of one inference, and the paper's operators after SmartMem",
        "launches, logarithmic",
        [*runners, "paper: SmartMem"],
        rows,
    )


def _svg(plot: Plot) -> str:
    """Draw one dot per value: a row per model, a colour per series."""
    import matplotlib
    from matplotlib.figure import Figure

    # The same bytes for the same values: no date, and identifiers from a fixed seed.
    with matplotlib.rc_context({"svg.hashsalt": plot.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 1.6 + 0.32 * len(plot.rows)), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(plot.rows))
        for index, name in enumerate(plot.series):
            values = [row[index] for row in plot.rows.values()]
            shown = [(x, y) for x, y in zip(values, places, strict=True) if x]
            marker = "oD^sv<>P*X"[index % 10]
            axes.plot(
                *zip(*shown, strict=True), linestyle="", marker=marker, label=name, alpha=0.85
            ) if shown else None
        if plot.line:
            axes.axvline(plot.line, color="0.5", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlabel(plot.unit)
        axes.set_yticks(list(places), list(plot.rows))
        axes.invert_yaxis()
        axes.grid(axis="both", color="0.9")
        axes.set_axisbelow(True)
        axes.set_title(plot.title, fontsize=10, loc="left")
        figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
