"""Results as tables for a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from .results import Document, Record, geomean_ratios

_UNITS = {"numpy-gemm": "GFLOP/s", "copy-bandwidth": "GB/s"}


def result_tables(document: Document, records: list[Record]) -> list[Table | str]:
    """All that a run says: measurements, geometric means, the machine, what was left out."""
    shown: list[Table | str] = [_measurements(records)]
    means = geomean_ratios(records)
    if means:
        shown.append(_means(means))
    for name, probe in document.probes.items():
        if probe["rate"] is not None:
            shown.append(f"{name}: {probe['rate'] / 1e9:.1f} {_UNITS[name]}")
    shown += [
        escape(f"skipped: {entry['runner']}: {entry['reason']}") for entry in document.skipped
    ]
    shown += [
        escape(f"{record.model}/{record.size} on {record.runner}: {record.failed}")
        for record in records
        if record.failed is not None
    ]
    return shown


def _measurements(records: list[Record]) -> Table:
    table = Table(title="Latency in ms, one inference", title_justify="left")
    for name in ("model", "size", "runner"):
        table.add_column(name)
    for name in (
        *("median", "min", "max", "n", "kernels", "layout"),
        *("traffic MiB", "max. error", "smartmem ÷ it"),
    ):
        table.add_column(name, justify="right")
    previous = None
    for record in records:
        if previous not in (None, (record.model, record.size)):
            table.add_section()
        previous = (record.model, record.size)
        table.add_row(
            escape(record.model),
            record.size,
            escape(record.runner),
            *_latency(record),
            _count(record.kernels),
            _count(record.layout_kernels),
            _mebibytes(record.footprint_bytes),
            _error(record),
            _verdict(record),
        )
    return table


def _means(means: dict[str, dict[str, float]]) -> Table:
    table = Table(
        title="Our latency over a peer's: geometric mean, below 1 is faster", title_justify="left"
    )
    table.add_column("runner")
    table.add_column("ratio", justify="right")
    table.add_column("models", justify="right")
    for runner, mean in means.items():
        table.add_row(escape(runner), f"{mean['ratio']:.3f}", f"{mean['models']:.0f}")
    return table


def _latency(record: Record) -> tuple[str, str, str, str]:
    if record.latency_ms is None:
        return ("–", "–", "–", "–")
    figures = record.latency_ms
    digits = 3 if figures["median"] < 10 else 1
    middle, low, high = (f"{figures[name]:.{digits}f}" for name in ("median", "min", "max"))
    return middle, low, high, f"{figures['n']:.0f}"


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)


def _mebibytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:.1f}"


def _error(record: Record) -> str:
    return "–" if record.max_rel_error is None else f"{record.max_rel_error:.1e}"


def _verdict(record: Record) -> str:
    if record.status == "wrong":
        return "wrong"
    if record.failed is not None:
        return f"failed: {record.failed.partition(':')[0]}"
    return "" if record.ratio is None else f"{record.ratio:.3f}"
