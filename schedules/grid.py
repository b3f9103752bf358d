"""Work-items for the points of a domain: which computes what, and which of it is new.

::

    axis of 197 points in tiles of 7, tile 28:     first = min(28 * 7, 197 - 7) = 190
    points 190 … 195 belong to tile 27             only the last point is stored: t >= 6

The last tile of an axis that the tile size does not divide is moved back inside the axis, so that
loops over a tile have constant extents and no conditions; what it shares with the tile before is
computed twice and stored once. An axis with a symbolic extent may be shorter than a tile: its
points are clamped instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import tvm
from tvm import sym, tirx

from smartmem_tvm.analysis.computation import Axis
from smartmem_tvm.analysis.expressions import const, dtype_of, static, substitute, uses
from smartmem_tvm.analysis.waves import group_shape, thread_axes, threads_along

from .statements import bound, loop, sequence, when
from .tile import Tile


class Grid:
    """Thread axes of a tile, and the sink's axes as expressions of them.

    Parameters
    ----------
    axes, tile, analyzer, straight
        The sink's axes, how they are cut, what knows the variables' bounds, and the axes that are
        several taken together.
    least : int
        Work-items of a launch that needs only one; the others do nothing.

    Attributes
    ----------
    values : dict
        Expression of each covered sink axis; of tiled axes, with the variable in `points`.
    points : dict[int, tvm.ir.Var]
        Variable that runs inside the tile, for every axis with more than one point in it.
    member : tvm.ir.Var or None
        Number of the work-item in its team.
    items : list of (variable, extent)
        Places of the work-item in its group, along x and along y.
    condition : expression or None
        Whether the work-item has work of its own.
    atoms : list of (variable, value)
        Variables that stand for the first point of a tile along an axis of several taken
        together. Their value must stay hidden from simplification, which would take apart the
        quotients and remainders that add up to the axis again.
    fresh : dict[int, expression]
        Condition under which a point of the tile is this work-item's to store, where it is not
        always.
    """

    def __init__(
        self,
        axes: tuple[Axis, ...],
        tile: Tile,
        analyzer: sym.Analyzer,
        straight: frozenset[Any] = frozenset(),
        least: int = 1,
    ) -> None:
        self.values: dict[Any, Any] = {}
        self.points: dict[int, Any] = {}
        self.fresh: dict[int, Any] = {}
        self._analyzer = analyzer
        self._tile = tile
        self._least = least if tile.team == 1 else 1
        self._lets: list[tuple[Any, Any]] = []
        self._straight = straight
        self.atoms: list[tuple[Any, Any]] = []
        self.member: Any = None
        self.items: list[tuple[Any, int]] = []
        outer = [d for d in range(len(axes)) if d not in tile.inner]
        self._dtype = "int64" if any(dtype_of(a.var) == "int64" for a in axes) else "int32"
        counts = {d: self._tiles(axes[d], tile.size(d)) for d in outer}
        self._plan(outer, counts)
        for d in outer:
            self._place(d, axes[d], tile.size(d))

    def _tiles(self, axis: Axis, size: int) -> Any:
        extent = static(axis.extent)
        if extent is not None:
            return tirx.IntImm(self._dtype, math.ceil(extent / size))
        return self._cast((axis.extent + const(size - 1, axis.extent)) // const(size, axis.extent))

    def _cast(self, expr: Any, dtype: str | None = None) -> Any:
        dtype = dtype or self._dtype
        return expr if dtype_of(expr) == dtype else tirx.Cast(dtype, expr)

    def _plan(self, outer: list[int], counts: dict[int, Any]) -> None:
        """Thread axes: the fastest axis, lanes or the last along x, rows along y, the rest z."""
        tile = self._tile
        known = {d: static(counts[d]) for d in outer}
        many = [d for d in outer if known[d] != 1]
        self._axes: list[tuple[str, Any, Any, int]] = []
        self.position: dict[int, Any] = {}
        self.condition: Any = None
        self._repeated: tuple[Any, Any, Any] | None = None
        budget = tile.group if tile.team == 1 else 1
        for name, members, threads in zip("xyz", *self._sides(known, many, budget), strict=False):
            if not members and name != "x":
                continue
            total: Any = tirx.IntImm(self._dtype, 1)
            for d in members:
                total = total * counts[d]
            total = self._analyzer.simplify(total)
            repeat = min(tile.repeat, static(total) or 1) if name == "x" else 1
            tiles, total = total, self._over(total, repeat)
            if repeat > 1:
                threads = threads_along(static(total), budget)
            if len(many) < 2 and static(total) == 1:
                threads = self._least
            linear = self._thread_pair(name, total, threads)
            if repeat > 1:
                linear = self._repeat(linear, repeat, tiles)
            for d in reversed(members):
                rest = linear // counts[d] if d is not members[0] else None
                at = linear if rest is None else linear % counts[d]
                self.position[d] = self._let(f"tile_{d}", at, counts[d]) if len(members) > 1 else at
                linear = rest if rest is not None else linear
        if tile.team > 1:
            self.member = tirx.Var("member", self._dtype)
            size = tirx.IntImm(self._dtype, tile.team)
            self._bind(self.member, size)
            self._axes.append(("threadIdx.x", self.member, size, tile.team))
        for d in outer:
            self.position.setdefault(d, tirx.IntImm(self._dtype, 0))

    def _sides(
        self, counts: dict[int, int | None], many: list[int], most: int
    ) -> tuple[list[list[int]], list[int]]:
        """Axes along x, y and z, and the work-items of a group along each."""
        tile = self._tile
        if tile.shape:
            x_y_z = [[d] for d, _ in tile.shape]
            left = [d for d in many if d not in dict(tile.shape)]
            threads = [n for _, n in tile.shape]
            return [*x_y_z, left], [*threads, 1]
        rows = [d for d, _ in tile.rows]
        x, y = thread_axes(counts, tile.fastest, rows, tile.lane, tile.group_rows)
        totals = [_product(counts[d] for d in members) for members in (x, y)]
        left = [d for d in many if d not in (*x, *y)]
        return [x, y, left], [*group_shape(totals[0], totals[1], most, tile.group_rows), 1]

    def _thread_pair(self, name: str, total: Any, threads: int) -> Any:
        group = tirx.Var(f"group_{name}", self._dtype)
        extent = static(total)
        one = tirx.IntImm(self._dtype, threads)
        if extent is not None:
            groups: Any = tirx.IntImm(self._dtype, math.ceil(extent / threads))
        else:
            groups = (
                (total + tirx.IntImm(self._dtype, threads - 1)) // one if threads > 1 else total
            )
        self._bind(group, groups)
        self._axes.append((f"blockIdx.{name}", group, groups, threads))
        if threads == 1:
            return group
        item = tirx.Var(f"item_{name}", self._dtype)
        self._bind(item, one)
        self._axes.append((f"threadIdx.{name}", item, one, threads))
        self.items.append((item, threads))
        linear = group * one + item
        if extent is not None and extent > threads and extent % threads and self._tile.local_bytes:
            # All take part: the last group is moved back, and stores only what is new.
            first = tirx.min(group * one, const(extent - threads, group))
            inside = group * one <= first + item
            linear = first + item
        elif extent is None or extent % threads:
            inside = linear < total
            if self._tile.local_bytes:
                linear = tirx.min(linear, const(int(total) - 1, linear))
        else:
            return linear
        self.condition = inside if self.condition is None else tirx.And(self.condition, inside)
        return self._let(f"linear_{name}", linear, total)

    def _over(self, total: Any, repeat: int) -> Any:
        """Work-items that are left when each computes several tiles; symbolic ones stay."""
        return total if repeat == 1 else tirx.IntImm(self._dtype, math.ceil(int(total) / repeat))

    def _repeat(self, linear: Any, repeat: int, tiles: Any) -> Any:
        """Number of a tile, one of those that a work-item computes in turn."""
        step = tirx.Var("repeat", self._dtype)
        self._bind(step, tirx.IntImm(self._dtype, repeat))
        tile = linear * tirx.IntImm(self._dtype, repeat) + step
        whole = int(tiles) % repeat == 0
        self._repeated = (step, repeat, None if whole else tile < tiles)
        return tile if whole else self._let("tile", tile, tiles)

    def _bind(self, var: Any, extent: Any) -> None:
        self._analyzer.bind(var, tvm.ir.Range(const(0, var), extent))

    def _let(self, name: str, value: Any, extent: Any) -> Any:
        """Name a value inside the work-item; it lies below `extent`."""
        var = tirx.Var(name, self._dtype)
        self._bind(var, extent)
        self._lets.append((var, value))
        return var

    def _place(self, d: int, axis: Axis, size: int) -> None:
        at = self.position[d]
        dtype = dtype_of(axis.var)
        extent = static(axis.extent)
        if size == 1:
            self.values[axis.var] = self._cast(at, dtype)
            if axis.var in self._straight and not isinstance(at, tvm.ir.Var):
                first = tirx.Var(f"first_{d}", dtype)
                self._bind(first, axis.extent)
                self.atoms.append((first, self.values[axis.var]))
                self.values[axis.var] = first
            return
        point = tirx.Var(f"point_{d}", dtype)
        self.points[d] = point
        self._analyzer.bind(point, tvm.ir.Range(const(0, point), const(size, point)))
        begin = self._cast(at * tirx.IntImm(self._dtype, size), dtype)
        if axis.var in self._straight:
            whole = extent % size == 0
            first = tirx.Var(f"first_{d}", dtype)
            self._bind(first, const(extent - size + 1, first))
            self.atoms.append(
                (first, begin if whole else tirx.min(begin, const(extent - size, first)))
            )
            self.values[axis.var] = first + point
            if not whole:
                self.fresh[d] = begin <= first + point
        elif extent is None:
            last = axis.extent - const(1, axis.extent)
            self.values[axis.var] = tirx.min(begin + point, last)
            self.fresh[d] = begin + point < axis.extent
        elif extent % size == 0:
            self.values[axis.var] = begin + point
        else:
            first = self._let(
                f"first_{d}",
                tirx.min(
                    at * tirx.IntImm(self._dtype, size), tirx.IntImm(self._dtype, extent - size)
                ),
                tirx.IntImm(self._dtype, extent - size + 1),
            )
            self.values[axis.var] = self._cast(first, dtype) + point
            self.fresh[d] = begin <= self._cast(first, dtype) + point

    def whole(self, d: int) -> Any:
        """Condition under which all points of the tile along an axis are fresh."""
        fresh = self.fresh[d]
        zero = const(0, self.points[d])
        return self._analyzer.simplify(substitute(fresh, {self.points[d]: zero}))

    def unfolded(self, expr: Any) -> Any:
        """Expression of the work-item's places in its group, all names between replaced."""
        for var, value in (*self.atoms, *reversed(self._lets)):
            expr = substitute(expr, {var: value})
        return expr

    def number(self) -> Any:
        """Number of the work-item in its group."""
        number: Any = tirx.IntImm(self._dtype, 0)
        for var, threads in reversed(self.items):
            number = number * const(threads, var) + var
        return self._analyzer.simplify(number)

    def launch(self, work_item: Any) -> Any:
        """Thread axes around the block of one work-item."""
        body = work_item
        for tag, var, extent, _ in reversed(self._axes):
            body = bound(var, extent, tag, body)
        return body

    def inside(self, statements: list[Any]) -> Any:
        """Statements of a work-item, under the condition that it has work."""
        lets = [tirx.Bind(var, value) for var, value in self._lets]
        if self._tile.local_bytes:
            return sequence([*lets, *statements])
        if self._repeated is None:
            return when(self.condition, sequence([*lets, *statements]))
        step, repeat, inside = self._repeated
        asked = [inside is not None and uses(inside, let.var) for let in lets]
        ahead = [let for let, before in zip(lets, asked, strict=True) if before]
        rest = [let for let, before in zip(lets, asked, strict=True) if not before]
        body = sequence([*ahead, when(inside, sequence([*rest, *statements]))])
        return when(self.condition, loop(step, const(repeat, step), body))


def _product(counts: Iterable[int | None]) -> int | None:
    """Product of numbers; None where one is open."""
    total = 1
    for count in counts:
        if count is None:
            return None
        total *= count
    return total
