"""Which work-items lie side by side in a work-group, and so in a wave that runs in lock step.

::

    tiles: columns 192, rows 25        16 along columns, 4 along rows: what a wave reads of a matrix
                                       product's operands is small on both sides

Of a tile's axes one runs along x, one along y, or several where they are short; all others lie
between groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TypeVar

Axis = TypeVar("Axis")
# Work-items along y at least, where there are as many and a group is to be square.
DEEP = 4
# Work-items of a group on devices in lock step.
GROUP = 64
# Tiles along one side that are enough for groups of any size.
LONG = 16


def thread_axes(
    counts: Mapping[Axis, int | None],
    fastest: Axis | None,
    rows: Sequence[Axis],
    lane: Axis | None,
    deep: int,
) -> tuple[list[Axis], list[Axis]]:
    """Axes along x and along y, the innermost last.

    Parameters
    ----------
    counts
        Tiles along each axis, the innermost last; None for an open number.
    fastest, rows, lane
        The axis that neighbours shall follow, those of a tile's rows, and that of its lanes.
    deep
        As for :func:`group_shape`: with 1 a single axis runs along each, else as many as it takes.
    """
    many = [axis for axis, count in counts.items() if count != 1]
    x = [axis for axis in (fastest, lane, *many[-1:]) if axis in many][:1]
    left = [axis for axis in many if axis not in x]
    y = [axis for axis in (*rows, lane, *left[-1:]) if axis in left][:1]
    left = [axis for axis in left if axis not in y]
    for axes in (y, x) if deep > 1 else ():
        while left and prod(counts[axis] or LONG for axis in axes) < LONG:
            axes.insert(0, left.pop())
    return x, y


def group_shape(x: int | None, y: int | None, most: int, deep: int) -> tuple[int, int]:
    """Work-items of a group along x and y.

    Parameters
    ----------
    x, y
        Tiles along each; None for an open number.
    most
        Work-items of a group.
    deep
        Work-items along y that a group shall have, where there are as many tiles; 1 for a group
        that is as long as possible.
    """
    if deep == 1:
        along_x = threads_along(x, most)
        return along_x, threads_along(y, most // along_x)
    along_x = _even(x, most // _even(y, min(deep, most)))
    return along_x, _even(y, most // along_x)


def _even(total: int | None, most: int) -> int:
    """Work-items along one axis: as few groups as possible, and few idle in the last one."""
    if total is None or total <= most:
        return most if total is None else total
    groups = -(-total // most)
    return -(-total // groups)


def threads_along(total: int | None, most: int) -> int:
    """Work-items of a group along one axis: a divisor of the total when a good one exists."""
    if total is None or total <= most:
        return most if total is None else total
    best = max(n for n in range(1, most + 1) if total % n == 0)
    return best if 4 * best >= most else most
