"""The shape of work-groups whose work-items share what they read.

::

    196 rows in tiles of 7, 576 columns in tiles of 4: 28 × 144 work-items
    group of 16 columns × 14 rows     what 64 columns and 98 rows read, 18 times

A group is a box of up to three of the kernel's axes. Of the shapes that leave enough groups to keep
the device busy, the one is taken whose groups touch the fewest cache lines, added up
(:mod:`smartmem_tvm.analysis.group_traffic`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from smartmem_tvm.analysis.group_traffic import GroupTraffic
from smartmem_tvm.analysis.waves import GROUP

from .cost import Costs
from .limits import ScheduleLimits
from .tile import Tile

# Work-groups that keep a device busy, each of several waves.
GROUPS = 12
# Work-items along x at least, where there are as many: neighbours read what lies side by side.
ALONG_X = 4
# Parts that an axis is cut into evenly, and work-items that divide it, at most.
MOST_PARTS = 16
# Axes of a group.
AXES = 3

Shape = tuple[tuple[int, int], ...]


def cheapest_shape(tile: Tile, costs: Costs, limits: ScheduleLimits) -> Shape:
    """Work-items of a group along axes, those along x first; empty where there is no choice."""
    traffic = costs.traffic(tile)
    counts = {d: traffic.tiles(d) for d in range(len(costs.extents))}
    many = [d for d, count in counts.items() if count > 1]
    items = math.prod(counts.values())
    if len(many) < 2 or items <= GROUP:
        return ()
    first = next(d for d in (tile.fastest, tile.lane, many[-1]) if d in many)
    axes = [first, *(d for d in reversed(many) if d != first)]
    found = list(_shapes(axes, counts, limits.max_group))
    wave = min(GROUP, max(map(_members, found)))
    found = [shape for shape in found if _members(shape) >= wave]
    least = min(GROUPS, max(traffic.groups(dict(shape)) for shape in found))
    found = [shape for shape in found if traffic.groups(dict(shape)) >= least]
    return min(found, key=lambda shape: _cost(shape, traffic, items))


def _members(shape: Shape) -> int:
    """Work-items of a group."""
    return math.prod(n for _, n in shape)


def _cost(shape: Shape, traffic: GroupTraffic, items: int) -> tuple[float, int]:
    """Lines, those of idle work-items as well; of equal shapes the larger group."""
    launched = traffic.groups(dict(shape)) * _members(shape)
    return traffic.lines(dict(shape)) * launched / items, -_members(shape)


def _shapes(axes: list[int], counts: dict[int, int], most: int) -> Iterator[Shape]:
    """Shapes of up to `most` work-items."""
    # Beyond three axes, all but two lie between groups, along z.
    boxes = [axes] if len(axes) <= AXES else [[axes[0], other] for other in axes[1:]]

    def beyond(chosen: Shape, left: list[int], room: int) -> Iterator[Shape]:
        if not left:
            yield tuple((d, n) for d, n in chosen if n > 1 or d == axes[0])
            return
        for n in _sizes(counts[left[0]], room):
            if chosen or n >= min(ALONG_X, counts[left[0]]):
                yield from beyond((*chosen, (left[0], n)), left[1:], room // n)

    for inside in boxes:
        yield from beyond((), inside, most)


def _sizes(count: int, most: int) -> list[int]:
    """Work-items along an axis: powers of two, small divisors, and nearly even parts."""
    even = {math.ceil(count / parts) for parts in range(1, min(count, MOST_PARTS) + 1)}
    powers = {1 << bit for bit in range(count.bit_length())}
    divisors = {n for n in range(1, MOST_PARTS + 1) if count % n == 0}
    return sorted(n for n in even | powers | divisors if n <= min(most, count))
