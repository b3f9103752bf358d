"""The knobs of a kernel's schedules, and the values that they may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from .choice import Choice
from .cost import Costs
from .limits import ScheduleLimits
from .row_reduction import rows_of

# Sizes of a tile along an axis of its rows.
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
WIDTHS = (1, 2, 4, 8, 16)
REPEATS = (1, 2, 4, 8, 16, 32)
UNROLLS = (1, 2, 4, 8, 16)
TEAMS = (1, 32, 64, 128, 256)
# Stands for the loops over a row, whatever axes they have in an order.
ROWS = "rows"
# Axes that an elementwise kernel's loops are permuted over, at most.
MOST_NESTED = 4


@dataclass(frozen=True)
class Knob:
    """One decision.

    Attributes
    ----------
    name, kind : str
        What it decides, and in which of FlexTensor's ways: split, reorder, fuse or unroll.
    values : tuple
        What it may be; values beside each other are alike.
    """

    name: str
    kind: str
    values: tuple[Any, ...]


def knobs_of(
    variants: dict[tuple[int, bool], Costs], limits: ScheduleLimits, start: Sequence[Choice]
) -> list[tuple[str, str, list[Any]]]:
    """Names, kinds and values of all knobs; those of the schedules to begin with are in."""
    most = max(len(costs.extents) for costs in variants.values())
    every = list(variants.values())
    axes = [None, *(d for d in range(most) if any(_is_free(c, d) for c in every))]
    # A work-item that loops over rows has none in registers.
    in_registers = any(not _loops(c) for c in every)
    row_axes, row_sizes = (axes, SIZES) if in_registers else ([None], (1,))
    kernel = every[0].kernel
    reductions = bool(kernel.reductions)
    simt = limits.lock_step
    group = [1 << bit for bit in range(limits.max_group.bit_length())]
    group = [n for n in group if n <= limits.max_group and (n >= 16 if simt else n <= 64)]
    widest = max(limits.vector_width, limits.register_tile[1])
    widths = [n for n in WIDTHS if n <= widest]
    row_bytes = [0, limits.row_bytes] if reductions else [0]
    deepest = max((_reduced(work) for c in every for work in c.work), default=0)
    boxes = [choice.tile.shape for choice in start if choice.tile.shape]
    given = [values for choice in start if (values := values_of(choice)) is not None]

    def known(name: str, values: Sequence[Any]) -> list[Any]:
        both = dict.fromkeys([*values, *(each[name] for each in given)])
        return sorted(both, key=lambda n: (n is not None, n if n is not None else 0))

    return [
        ("order", "reorder", known("order", sorted({order for order, _ in variants}))),
        ("fused", "fuse", [True, False]),
        ("rows_1", "split", row_axes),
        ("size_1", "split", known("size_1", row_sizes)),
        ("rows_2", "split", row_axes),
        ("size_2", "split", known("size_2", row_sizes)),
        ("lane", "split", axes),
        ("width", "split", known("width", widths)),
        ("inner", "reorder", _nests(variants, [*(each["inner"] for each in given)])),
        ("inner_width", "split", known("inner_width", widths)),
        ("fastest", "reorder", axes),
        ("group", "split", known("group", group)),
        ("box", "split", [False, *([True, *boxes] if simt else [])]),
        ("group_rows", "split", known("group_rows", (1, 4) if simt else (1,))),
        ("local", "split", known("local", (0, limits.tile_bytes) if simt else (0,))),
        ("team", "split", known("team", TEAMS if simt and reductions else (1,))),
        ("repeat", "split", known("repeat", (1,) if simt else REPEATS)),
        ("innermost", "reorder", [None, *range(max(deepest, 0))] if deepest > 1 else [None]),
        ("unroll", "unroll", known("unroll", UNROLLS if reductions else (8,))),
        ("row_bytes", "fuse", known("row_bytes", row_bytes)),
    ]


def _nests(variants: dict[tuple[int, bool], Costs], given: list[Any]) -> list[Any]:
    """Loops of a work-item after its stages: the rows', or those of an elementwise kernel."""
    costs = next(iter(variants.values()))
    if costs.kernel.reductions:
        return [ROWS]
    axes = [d for d, n in enumerate(costs.extents) if n > 1]
    found: list[Any] = [(), *((d,) for d in axes)]
    if len(axes) <= MOST_NESTED:
        found += permutations(axes, 2)
    return [*found, *(nest for nest in given if nest not in found)]


def values_of(choice: Choice) -> dict[str, Any] | None:
    """Values of a schedule's knobs; None where it has rows along more than two axes."""
    tile = choice.tile
    if len(tile.rows) > 2:
        return None
    (one, n), (two, m) = [*tile.rows, (None, 1), (None, 1)][:2]
    return {
        "order": choice.order,
        "fused": choice.fused,
        "rows_1": one,
        "size_1": n,
        "rows_2": two,
        "size_2": m,
        "lane": tile.lane,
        "width": tile.width,
        "inner": tile.inner,
        "inner_width": tile.inner_width,
        "fastest": tile.fastest,
        "group": tile.group,
        "box": False,
        "group_rows": tile.group_rows,
        "local": tile.local_bytes,
        "team": tile.team,
        "repeat": tile.repeat,
        "innermost": tile.innermost,
        "unroll": tile.unroll,
        "row_bytes": choice.row_bytes,
    }


def _loops(costs: Costs) -> tuple[int, ...]:
    """Axes that a work-item of a kernel with reductions goes through by itself."""
    return rows_of(costs) if costs.kernel.reductions else ()


def _is_free(costs: Costs, axis: int) -> bool:
    """Whether work-items may lie along an axis."""
    return axis < len(costs.extents) and costs.extents[axis] > 1 and axis not in _loops(costs)


def _reduced(work: Any) -> int:
    """Reduced axes of several points."""
    return sum(extent > 1 for _, extent in work.reduced)
