"""The schedules that a kernel may have: what a search varies.

::

    matmul   rows_1   none, i, j                  unroll   1, 2, 4, 8, 16
             size_1   1, 2, 3, … 16               group    1, 2, 4, 8, 16
             lane     none, i, j                  fastest  none, i, j
             width    2, 4, 8, 16                 …

A point has one value for each knob. What cannot be is left out beforehand, by what the kernel and
the profile say: a lane along an axis that is too short, groups larger than the device takes, tiles
that no registers hold, vectors that would write parts of texels. Points that mean the same, because
a knob has no effect there, are one canonical point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.target import Target

from smartmem_tvm.analysis.fused_kernel import NotAKernel, read_kernel
from smartmem_tvm.analysis.loop_orders import loop_orders
from smartmem_tvm.analysis.reductions import split_updates
from smartmem_tvm.analysis.waves import GROUP

from .base import RuleDeclined
from .choice import Choice, choice_of, kernel_in_order
from .choose import moves_bytes
from .cost import Costs
from .group_shape import cheapest_shape
from .limits import ScheduleLimits, limits_of
from .row_reduction import rows_of
from .space_features import NAMES, features_of
from .space_knobs import ROWS, Knob, knobs_of, values_of
from .tile import Tile

# A work-item keeps at most this many times the elements of the profile's register tile.
REGISTER_TILES = 4


class ScheduleSpace:
    """Schedules of one kernel for one target.

    Parameters
    ----------
    func : tirx.PrimFunc
        A function that has no schedule yet, of static shapes.
    target : Target
        Its profile's limits hold.
    start : Sequence[Choice]
        Schedules to begin with, such as the rules' own; those outside of the space are dropped.

    Raises
    ------
    RuleDeclined
        If the function is no kernel that the templates know, with the reason.
    """

    def __init__(self, func: tirx.PrimFunc, target: Target, start: Sequence[Choice] = ()) -> None:
        self.limits = limits_of(target)
        try:
            kernel = read_kernel(func)
        except NotAKernel as reason:
            raise RuleDeclined(str(reason)) from reason
        self._variants: dict[tuple[int, bool], Costs] = {}
        for order in range(len(loop_orders(kernel))):
            for fused in (True, False):
                one = kernel_in_order(func, order, fused)
                self._variants[order, fused] = Costs(one, self.limits)
        if any(any(costs.symbolic) for costs in self._variants.values()):
            raise RuleDeclined("shapes are symbolic: a schedule is measured at one shape")
        self.knobs = tuple(
            Knob(name, kind, tuple(dict.fromkeys(values)))
            for name, kind, values in knobs_of(self._variants, self.limits, start)
        )
        self.sizes = tuple(len(knob.values) for knob in self.knobs)
        self.kinds = tuple(knob.kind for knob in self.knobs)
        points = [self.point(choice) for choice in start]
        self.start = tuple(dict.fromkeys(p for p in points if p is not None)) or (self._any(),)

    def canonical(self, point: tuple[int, ...]) -> tuple[int, ...] | None:
        """The point that stands for all of the same schedule; None where there is no such one."""
        values = {knob.name: knob.values[at] for knob, at in zip(self.knobs, point, strict=True)}
        normal = self._normal(values)
        return None if normal is None else self._index(normal)

    def choice(self, point: tuple[int, ...]) -> Choice:
        """Schedule of a canonical point."""
        values = {knob.name: knob.values[at] for knob, at in zip(self.knobs, point, strict=True)}
        costs = self._variants[values["order"], values["fused"]]
        tile = _tile(values, costs)
        if values["box"] is True:
            tile = replace(tile, shape=self._box(tile, costs))
        return Choice(tile, values["order"], values["fused"], values["row_bytes"])

    def features(self, points: Sequence[tuple[int, ...]]) -> NDArray[np.float32]:
        """Figures of points for a cost model, a row each."""
        rows = []
        for point in points:
            choice = self.choice(point)
            costs = self._variants[choice.order, choice.fused]
            knobs = [at / max(size - 1, 1) for at, size in zip(point, self.sizes, strict=True)]
            rows.append([*knobs, *features_of(costs, choice.tile)])
        width = len(self.knobs) + len(NAMES)
        return np.array(rows, dtype="float32").reshape(len(rows), width)

    def _normal(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """Values that mean the same, those without effect at their defaults; None if illegal."""
        costs = self._variants.get((values["order"], values["fused"]))
        if costs is None:
            return None
        v = dict(values)
        extents, inner = costs.extents, _inner(v, costs)
        if inner is None:
            return None
        if v["team"] > 1:
            v |= {"rows_1": None, "rows_2": None, "lane": None, "inner_width": 1, "box": False}
            v |= {"repeat": 1, "fastest": None, "local": 0, "group": self.knob("group").values[0]}
            if not _team_fits(costs, v["team"], self.limits):
                return None
        if v["lane"] is None or v["width"] == 1:
            v |= {"lane": None, "width": 1}
        else:
            v["inner_width"] = 1
            if v["lane"] in inner or v["lane"] >= len(extents):
                return None
            if v["width"] > extents[v["lane"]]:
                return None
        for axis, size in (("rows_1", "size_1"), ("rows_2", "size_2")):
            if v[axis] is None or v[size] == 1:
                v |= {axis: None, size: 1}
            elif v[axis] >= len(extents) or v[size] > extents[v[axis]] or v[axis] in inner:
                return None
        first, second = (v["rows_1"], v["size_1"]), (v["rows_2"], v["size_2"])
        if first[0] is None or (second[0] is not None and second[0] < first[0]):
            first, second = second, first
        v |= dict(zip(("rows_1", "size_1", "rows_2", "size_2"), (*first, *second), strict=True))
        rows = [axis for axis in (first[0], second[0]) if axis is not None]
        if len(set(rows)) < len(rows) or v["lane"] in rows or (rows and inner):
            return None
        return self._checked(v, costs)

    def _checked(self, v: dict[str, Any], costs: Costs) -> dict[str, Any] | None:
        """Values whose tile fits the kernel and the device; None if it does not."""
        tile = _tile(v, costs)
        if moves_bytes(costs) and (tile.lane is not None or tile.inner_width > 1):
            return None
        if not costs.allows(tile) or _registers(tile, costs) > _most_registers(costs, self.limits):
            return None
        many = [d for d, n in enumerate(costs.extents) if d not in tile.inner and n > tile.size(d)]
        if v["fastest"] is not None and v["fastest"] not in many:
            return None
        if len(many) < 2 or v["fastest"] == _first(tile, many):
            v["fastest"] = None
        if not many:
            v["repeat"] = 1
        if v["box"] is True and (len(many) < 2 or tile.count(costs.extents) <= GROUP):
            v["box"] = False
        if v["box"] is not False:
            v |= {"repeat": 1, "group_rows": self.knob("group_rows").values[0]}
        if isinstance(v["box"], tuple):
            v |= {"fastest": None, "group": self.knob("group").values[0]}
            if not _box_fits(v["box"], tile, costs, self.limits):
                return None
        if tile.inner_width > 1:
            last = costs.extents[tile.inner[-1]] if tile.inner else None
            if last is not None and last < tile.inner_width:
                return None
            if last is None and not costs.kernel.reductions:
                v["inner_width"] = 1
        if not costs.kernel.reductions:
            v |= {"unroll": 8, "innermost": None, "row_bytes": 0, "local": 0}
        return v

    def _box(self, tile: Tile, costs: Costs) -> tuple[tuple[int, int], ...]:
        """Shape of groups of up to as many work-items as the tile says that reads least."""
        return cheapest_shape(tile, costs, replace(self.limits, max_group=tile.group))

    def knob(self, name: str) -> Knob:
        """Knob of a name."""
        return next(knob for knob in self.knobs if knob.name == name)

    def _index(self, values: dict[str, Any]) -> tuple[int, ...] | None:
        try:
            return tuple(knob.values.index(values[knob.name]) for knob in self.knobs)
        except ValueError:  # a default that this kernel's knob does not have
            return None

    def point(self, choice: Choice) -> tuple[int, ...] | None:
        """Canonical point of a schedule; None where it is outside of the space."""
        values = values_of(choice)
        costs = self._variants.get((choice.order, choice.fused))
        if values is None or costs is None:
            return None
        if costs.kernel.reductions and values["inner"] == rows_of(costs):
            values["inner"] = ROWS
        tile = choice.tile
        if tile.shape and max(tile.axes(), default=0) < len(costs.extents):
            values["box"] = True if self._box(tile, costs) == tile.shape else tile.shape
        normal = self._normal(values)
        return None if normal is None else self._index(normal)

    def _any(self) -> tuple[int, ...]:
        """A legal point, where no start is known."""
        rng = np.random.default_rng(0)
        for _ in range(100_000):
            point = self.canonical(tuple(int(rng.integers(size)) for size in self.sizes))
            if point is not None:
                return point
        raise RuleDeclined("no schedule of the space is legal")


def rules_choice(scheduled: tirx.PrimFunc) -> list[Choice]:
    """Schedules to begin a search with: what a rule chose for a function, if it says so."""
    choice = choice_of(scheduled)
    return [] if choice is None else [choice]


def _inner(values: dict[str, Any], costs: Costs) -> tuple[int, ...] | None:
    """Axes of a work-item's loops; None where the kernel has no such axes."""
    inner = rows_of(costs) if values["inner"] == ROWS else values["inner"]
    return None if any(d >= len(costs.extents) for d in inner) else inner


def _tile(v: dict[str, Any], costs: Costs) -> Tile:
    rows = tuple(
        (v[axis], v[size])
        for axis, size in (("rows_1", "size_1"), ("rows_2", "size_2"))
        if v[axis] is not None
    )
    inner = _inner(v, costs)
    return Tile(
        rows,
        v["lane"],
        v["width"],
        () if inner is None else inner,
        v["inner_width"],
        v["group"],
        v["group_rows"],
        shape=v["box"] if isinstance(v["box"], tuple) else (),
        local_bytes=v["local"],
        team=v["team"],
        fastest=v["fastest"],
        repeat=v["repeat"],
        innermost=v["innermost"],
        unroll=v["unroll"],
    )


def _box_fits(
    shape: tuple[tuple[int, int], ...], tile: Tile, costs: Costs, limits: ScheduleLimits
) -> bool:
    """Whether groups of a shape lie inside the kernel's tiles and the device's limits."""
    for d, items in shape:
        tiles = -(-costs.extents[d] // tile.size(d)) if d < len(costs.extents) else 0
        if d in tile.inner or items > tiles:
            return False
    return math.prod(n for _, n in shape) <= limits.max_group


def _first(tile: Tile, many: list[int]) -> int:
    """Axis along which neighbours lie when none is named."""
    return tile.lane if tile.lane in many else many[-1]  # type: ignore[return-value]


def _registers(tile: Tile, costs: Costs) -> int:
    """Elements that a work-item keeps for its results."""
    results = sum(len(work.stage.stores) for work in costs.work[:-1]) or 1
    points = max(tile.width, tile.inner_width)
    for _, size in tile.rows:
        points *= size
    return points * results


def _most_registers(costs: Costs, limits: ScheduleLimits) -> int:
    rows, columns = limits.register_tile
    least = max(limits.vector_width, 1) * sum(len(w.stage.stores) for w in costs.work)
    return max(REGISTER_TILES * rows * columns, least)


def _team_fits(costs: Costs, team: int, limits: ScheduleLimits) -> bool:
    reductions = [work for work in costs.work[:-1] if work.reduced]
    longest = max((work.repeats for work in reductions), default=1)
    fits = team <= min(limits.max_group, longest) and 16 * team <= limits.local_bytes
    return fits and all(split_updates(work.stage) is not None for work in reductions)
