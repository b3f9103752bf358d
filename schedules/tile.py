"""How a kernel's output is cut into what one work-item computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tile:
    """The part of the sink's domain that one work-item computes, and how.

    Axes are named by their position in the sink. Axes that are named nowhere are covered one
    point at a time, by as many work-items.

    Attributes
    ----------
    rows : tuple[tuple[int, int], ...]
        Axes of which a work-item computes several points, unrolled, and how many.
    lane, width : int or None, int
        Axis that runs along vector lanes, and the number of lanes.
    inner : tuple[int, ...]
        Axes that a work-item covers as a whole, with loops, after the stages.
    inner_width : int
        Lanes along the last of the inner axes, and along reductions, which then keep a partial
        result for each lane; 1 for none.
    group : int
        Work-items in a work-group, at most.
    group_rows : int
        Work-items of a group along its second axis, at least, where there are as many.
    shape : tuple[tuple[int, int], ...]
        Work-items of a group along axes, up to three, those along x first; where it is empty,
        `group` and `group_rows` decide.
    local_bytes : int
        Local memory for operands that a group fetches together (:mod:`.local_tiles`); 0 for none.
    team : int
        Work-items that compute one tile together: each takes a part of every reduction and of the
        last inner axis, and partial results meet in local memory. 1 for none; else `rows`, `lane`
        and `inner_width` stay unused and the team is the work-group.
    fastest : int or None
        Axis along which neighbouring work-items lie; the lanes' when None.
    repeat : int
        Neighbouring tiles that a work-item computes one after the other.
    innermost : int or None
        Which of a reduction's axes of several points runs innermost, but for lanes of texels; the
        last when None, or where a reduction has fewer.
    unroll : int
        Iterations of a reduction's innermost loop that are written out, at most.
    """

    rows: tuple[tuple[int, int], ...] = ()
    lane: int | None = None
    width: int = 1
    inner: tuple[int, ...] = ()
    inner_width: int = 1
    group: int = 64
    group_rows: int = 1
    shape: tuple[tuple[int, int], ...] = ()
    local_bytes: int = 0
    team: int = 1
    fastest: int | None = None
    repeat: int = 1
    innermost: int | None = None
    unroll: int = 8

    def axes(self) -> list[int]:
        """Axes that are named, in no order, some more than once."""
        named = [axis for axis, _ in (*self.rows, *self.shape)] + [*self.inner]
        return named + [axis for axis in (self.lane, self.fastest) if axis is not None]

    def size(self, axis: int) -> int:
        """Points of an axis that a work-item computes at a time."""
        if axis == self.lane:
            return self.width
        return dict(self.rows).get(axis, 1)

    def count(self, extents: Sequence[int]) -> int:
        """Tiles of a sink whose axes have these extents."""
        return math.prod(
            math.ceil(extent / self.size(axis))
            for axis, extent in enumerate(extents)
            if axis not in self.inner
        )

    def smaller(self) -> Tile | None:
        """Tile of fewer rows or, when it has one, of narrower vectors; None for the smallest."""
        if any(n > 1 for _, n in self.rows):
            halves = tuple((d, n // 2) for d, n in self.rows if n > 3)
            return replace(self, rows=halves)
        if self.width > 2:
            return replace(self, width=self.width // 2)
        if self.width == 2:
            return replace(self, width=1, lane=None)
        if self.inner_width > 1:
            return replace(self, inner_width=self.inner_width // 2)
        return None
