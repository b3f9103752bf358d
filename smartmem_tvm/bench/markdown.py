"""Cells and tables of the results page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .results import Record

NONE = "–"
MARKS = {"ok": "", "wrong": " **wrong**", "failed": "**failed**"}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; the first column is left-aligned."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def latency(record: Record | None) -> str:
    """Median with the spread, marked where it does not count."""
    if record is None:
        return NONE
    mark = MARKS[record.status]
    if record.latency_ms is None:
        return mark.strip() or NONE
    low, middle, high = (record.latency_ms[name] for name in ("min", "median", "max"))
    digits = 2 if middle < 100 else 0
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{mark}"


def ratio(record: Record | None) -> str:
    """Our latency over the runner's."""
    return NONE if record is None or record.ratio is None else f"{record.ratio:.3f}"


def fraction(record: Record | None, least_ms: float | None) -> str:
    """Roofline fraction; what is wrong has none."""
    if record is None or record.status != "ok" or record.latency_ms is None or least_ms is None:
        return NONE
    return f"{least_ms / record.latency_ms['median']:.1%}"


def launches(record: Record | None) -> str:
    """Kernels, and those of them that only move data."""
    if record is None or record.kernels is None:
        return NONE
    layout = "?" if record.layout_kernels is None else str(record.layout_kernels)
    return f"{record.kernels}, {layout}{MARKS[record.status]}"


def mebibytes(count: float | None) -> str:
    """MiB with one decimal."""
    return NONE if count is None else f"{count / 2**20:.1f}"
