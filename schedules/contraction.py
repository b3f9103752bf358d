"""Contractions: reductions over the same domain as the output.

::

    for k: M[i, j] += A[i, k] * B[k, j]         a work-item owns 7 × 16 elements of O: the sums stay
    O[i, j] = relu(M[i, j] + C[j])         →    in registers from the first product to the store

Matrix products (also batched, with any views of their operands), convolutions of any kind,
poolings, and reductions that keep nothing of the reduced axes. Several reductions of one domain,
such as three projections of one input, are computed in one tile. Which axes run along vector lanes
and along the rows of the tile follows from the strides of all accesses (:mod:`.cost`); lanes may
also run along the reduction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from tvm import s_tir, tirx
from tvm.target import Target

from smartmem_tvm.analysis.reductions import split_updates
from smartmem_tvm.analysis.waves import DEEP, GROUP

from .base import RuleDeclined
from .choice import Choice, described, scheduled
from .choose import cheapest, lane_tiles, reduction_tiles
from .cost import Costs, costs_of
from .emit import WorkItem
from .group_shape import cheapest_shape
from .limits import ScheduleLimits, limits_of
from .tile import Tile

# Vector instructions that are worth a work-group on a processor.
WORTH_A_GROUP = 4096
# Work-groups that keep a device in lock step busy.
GROUPS = 32


class Contraction:
    """Register tiles for reductions whose results are as many as the outputs."""

    name = "Contraction"

    def apply(self, func: tirx.PrimFunc, target: Target, _tunable: bool) -> s_tir.Schedule:
        """Return a schedule; raise RuleDeclined with the reason."""
        limits = limits_of(target)
        costs = reduction_costs(func, limits)
        wide = {d for d, n in enumerate(costs.extents) if n > 1 or costs.symbolic[d]}
        if not any(wide <= work.axes for work in costs.work[:-1]):
            raise RuleDeclined("no reduction has the output's domain")
        tile = cheapest(costs, _tiles(costs, limits), lambda tile: with_order(tile, costs, limits))
        tile = with_group(tile, costs, limits)
        if _is_box(tile, costs, limits):
            return _in_local_memory(tile, costs, limits)
        return scheduled(costs.kernel, Choice(tile))


def _is_box(tile: Tile, costs: Costs, limits: ScheduleLimits) -> bool:
    """Whether a group is a box of work-items that may share what they read."""
    return limits.lock_step and tile.team == 1 and not any(costs.symbolic)


def _in_local_memory(tile: Tile, costs: Costs, limits: ScheduleLimits) -> s_tir.Schedule:
    """Schedule in groups small enough for local memory to hold the windows of their work-items."""
    tile = replace(tile, local_bytes=limits.tile_bytes)
    item = WorkItem(costs.kernel, tile)
    first = schedule = described(item, Choice(tile))
    while item.crowded and tile.shape:
        most = math.prod(n for _, n in tile.shape) // 2
        if most < GROUP:
            return first
        tile = replace(tile, shape=cheapest_shape(tile, costs, replace(limits, max_group=most)))
        item = WorkItem(costs.kernel, tile)
        schedule = described(item, Choice(tile))
    return schedule


def reduction_costs(func: tirx.PrimFunc, limits: ScheduleLimits) -> Costs:
    """Costs of a kernel with reductions, none inside another; RuleDeclined for others."""
    costs = costs_of(func, limits)
    if not costs.kernel.reductions:
        raise RuleDeclined("nothing is reduced")
    if any(work.nested for work in costs.work):
        raise RuleDeclined("a stage is read inside another reduction")
    return costs


def _tiles(costs: Costs, limits: ScheduleLimits) -> Iterator[Tile]:
    # The preferred tile and one step more: 8 rows where 7 are best, for extents that 8 divides.
    rows = max(1, limits.register_tile[0] * 8 // 7 // _results(costs))
    yield from lane_tiles(costs, (), limits, rows)
    yield from reduction_tiles(costs, (), limits)
    yield from team_tiles(costs, (), limits)


def _results(costs: Costs) -> int:
    """Results that a tile keeps for each point, beyond the first."""
    return max(1, sum(len(work.stage.stores) for work in costs.work[:-1]) // 2)


def team_tiles(costs: Costs, inner: tuple[int, ...], limits: ScheduleLimits) -> Iterator[Tile]:
    """Tile computed by a whole work-group, for devices in lock step.

    Where work-items are few, or their reductions lie along memory, one for each row leaves most of
    such a device idle, and neighbours read elements that are a row apart.
    """
    reductions = [work for work in costs.work[:-1] if work.reduced]
    shared = all(split_updates(work.stage) is not None for work in reductions)
    longest = max((work.repeats for work in reductions), default=1)
    team = 1
    while team * 2 <= min(limits.max_group, longest, 256) and team * 16 <= limits.local_bytes:
        team *= 2
    if limits.lock_step and shared and team >= 32:
        yield Tile(inner=inner, team=team)


def with_order(tile: Tile, costs: Costs, limits: ScheduleLimits) -> Tile:
    """Tile whose work-items follow each other so that a cache keeps most of what they read.

    On a processor a work-item runs when the one before it is done: going along rows first reads
    all of the left operand for each panel of the right one, or the other way round. The smaller of
    the two is read again and again. In lock step neighbours share what they fetch at a time.
    """
    if tile.team > 1:
        return tile
    axes = [
        d
        for d, extent in enumerate(costs.extents)
        if d not in tile.inner and extent > tile.size(d) and not costs.symbolic[d]
    ]
    if len(axes) < 2:
        return tile
    if limits.lock_step:
        tiles = [tile, *(replace(tile, fastest=d) for d in axes)]
        return min(tiles, key=costs.by_transactions)
    return replace(tile, fastest=min(axes, key=lambda d: costs.crossed(d, tile)))


def with_group(tile: Tile, costs: Costs, limits: ScheduleLimits) -> Tile:
    """Tile with a work-group size: on processors only as large as makes a group worth starting.

    A driver for processors runs the work-items of a group one after the other, or interleaved,
    which costs more than it gains where each has much to do.
    """
    items = tile.count(costs.extents)
    if _is_box(tile, costs, limits):
        tile = replace(tile, shape=cheapest_shape(tile, costs, limits))
    if limits.lock_step:
        most = min(limits.max_group, GROUP)
        while 2 * most <= limits.max_group and items // (2 * most) >= GROUPS:
            most *= 2
        return replace(tile, group=most, group_rows=max(1, DEEP * most // GROUP))
    most = min(limits.max_group, 16)
    while most > 1 and (items // most < 16 or most * costs.of(tile) > 2 * WORTH_A_GROUP * items):
        most //= 2
    return replace(tile, group=max(1, most))
