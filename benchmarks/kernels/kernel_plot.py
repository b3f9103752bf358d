"""The measured kernels against the roofline of the machine."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from kernel_classes import CLASSES
from kernel_figures import Machine
from matplotlib.figure import Figure

from smartmem_tvm.whole_files import write_text

_COLOURS = dict(zip(CLASSES, ("tab:blue", "tab:orange", "tab:green", "tab:red"), strict=True))
_MARKERS = {"ours": "o", "tvm": "x"}
_TITLES = {"ours": "", "tvm": ", TVM"}


def draw_roofline(kernels: list[dict[str, Any]], machine: Machine, title: str, path: Path) -> None:
    """Draw arithmetic intensity against GFLOP/s; kernels that compute nothing have no place."""
    shown = [kernel for kernel in kernels if kernel["flop"]]
    # The same bytes for the same values: no date, and identifiers from a fixed seed.
    with matplotlib.rc_context({"svg.hashsalt": "roofline", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 6.5), layout="constrained")
        axes = figure.add_subplot()
        for version, marker in _MARKERS.items():
            for kind in CLASSES:
                points = [
                    (_intensity(k), k["flop"] / k["seconds"][version] / 1e9)
                    for k in shown
                    if k["kind"] == kind and k["seconds"].get(version)
                ]
                if points:
                    axes.plot(
                        *zip(*points, strict=True),
                        linestyle="",
                        marker=marker,
                        color=_COLOURS[kind],
                        markersize=5,
                        alpha=0.75 if version == "ours" else 0.45,
                        label=f"{kind}{_TITLES[version]}",
                    )
        if shown:
            _draw_roofs(axes, [_intensity(kernel) for kernel in shown], machine)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("arithmetic intensity, FLOP for each compulsory byte")
        axes.set_ylabel("GFLOP/s")
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.set_title(title, fontsize=10, loc="left")
        figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    write_text(path, text.getvalue())


def _draw_roofs(axes: Any, intensities: list[float], machine: Machine) -> None:
    ridge = machine.peak / machine.bandwidth
    least, most = min(*intensities, ridge) / 1.5, max(*intensities, ridge) * 1.5
    peak, bandwidth = machine.peak / 1e9, machine.bandwidth / 1e9
    label = f"copy {bandwidth:.1f} GB/s, NumPy {peak:.0f} GFLOP/s"
    axes.plot(
        [least, ridge, most], [least * bandwidth, peak, peak], color="0.2", lw=1.2, label=label
    )


def _intensity(kernel: dict[str, Any]) -> float:
    return float(kernel["flop"] / (kernel["read"] + kernel["written"]))
