"""How tensors lie in memory and are read, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from .tables import kib, plain_table, shape_text

if TYPE_CHECKING:
    from ..analysis.tensor_layouts import Reading, TensorLayout

# Rows of a table for a terminal; JSON has all.
MOST_ROWS = 20


def layout_table(tensors: Sequence[TensorLayout], most: int = MOST_ROWS) -> Table:
    """Layout and reason of every tensor.

    First those that do not lie row by row, then those that had to, then the rest, then constants;
    the largest of each first.
    """
    table = plain_table(
        "Tensors",
        [
            ("tensor", "left"),
            ("shape", "left"),
            ("layout", "left"),
            ("KiB", "right"),
            ("read", "left"),
            ("why so", "left"),
            ("next best", "left"),
        ],
    )
    ordered = sorted(
        tensors, key=lambda t: (t.constant, t.row_by_row, not t.forced, -(t.bytes or 0))
    )
    for tensor in ordered[:most]:
        table.add_row(
            escape(tensor.name),
            escape(shape_text(tensor.shape)),
            escape(tensor.layout),
            "symbolic" if tensor.bytes is None else kib(tensor.bytes),
            "\n".join(dict.fromkeys(_how(reading) for reading in tensor.readings)),
            escape(tensor.reason),
            _next_best(tensor),
        )
    _say_what_is_left_out(table, len(tensors), most)
    return table


def against_the_grain_tables(tensors: Sequence[TensorLayout], most: int = MOST_ROWS) -> list[Table]:
    """Operands along a reduced axis that are not read with stride one, and why; none, no table."""
    from ..analysis.tensor_layouts import STRIDE_ONE

    rows = [
        (tensor, reading)
        for tensor in tensors
        for reading in tensor.readings
        if reading.reduced and (reading.scheduled or reading.how) not in STRIDE_ONE
    ]
    if not rows:
        return []
    table = plain_table(
        "Operands that no reduction reads with stride one, and why",
        [("tensor", "left"), ("kernel", "left"), ("read", "left"), ("reason", "left")],
    )
    for tensor, reading in rows[:most]:
        table.add_row(
            escape(tensor.name), escape(reading.kernel), _how(reading), escape(reading.reason)
        )
    _say_what_is_left_out(table, len(rows), most)
    return [table]


def _how(reading: Reading) -> str:
    return reading.scheduled or reading.how


def _next_best(tensor: TensorLayout) -> str:
    best = tensor.next_best
    return "" if best is None else escape(f"{best.layout} {best.ratio - 1:+.1%}")


def _say_what_is_left_out(table: Table, rows: int, most: int) -> None:
    if rows > most:
        table.caption = f"and {rows - most} more: --json has all"
