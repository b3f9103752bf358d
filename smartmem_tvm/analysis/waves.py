"""Which work-items lie side by side in a work-group, and so in a wave that runs in lock step.

::

    tiles: columns 192, rows 25        16 along columns, 4 along rows: what a wave reads of a matrix
                                       product's operands is small on both sides

Of a tile's axes one runs along x, one along y; all others lie between groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Axis = TypeVar("Axis")
# Work-items along y at least, where there are as many and a group is to be square.
DEEP = 4
# Work-items of a group on devices in lock step.
GROUP = 64
# One in so many work-items may be idle in the last group along an axis.
FEW = 8


def thread_axes(
    many: Sequence[Axis], fastest: Axis | None, rows: Sequence[Axis], lane: Axis | None
) -> tuple[Axis | None, Axis | None]:
    """Axes along x and y, None for none.

    Parameters
    ----------
    many
        Axes with several tiles, the innermost last.
    fastest, rows, lane
        The axis that neighbours shall follow, those of a tile's rows, and that of its lanes.
    """
    x = next((axis for axis in (fastest, lane, *many[-1:]) if axis in many), None)
    left = [axis for axis in many if axis != x]
    y = next((axis for axis in (*rows, lane, *left[-1:]) if axis in left), None)
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
    along_x = _few_idle(x, most // _few_idle(y, min(deep, most)))
    return along_x, _few_idle(y, most // along_x)


def _few_idle(total: int | None, most: int) -> int:
    """Work-items along one axis of which the last group leaves few idle."""
    if total is None or total <= most:
        return most if total is None else total
    idle = {n: -(-total // n) * n - total for n in range(-(-most // 2), most + 1)}
    few = [n for n in idle if FEW * idle[n] <= total]
    return max(few) if few else min(idle, key=lambda n: (idle[n], -n))


def threads_along(total: int | None, most: int) -> int:
    """Work-items of a group along one axis: a divisor of the total when a good one exists."""
    if total is None or total <= most:
        return most if total is None else total
    best = max(n for n in range(1, most + 1) if total % n == 0)
    return best if 4 * best >= most else most
