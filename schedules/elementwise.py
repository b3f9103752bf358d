"""Elementwise functions and copies through index maps: vectors and loops along the best axes.

::

    O[i, j] = x[j, i]        lanes along i, where O is contiguous; a work-item goes along j, where
                             x is: it uses up every cache line that it has fetched

    O[i] = relu(x[i])        64 vectors for each work-item: starting one takes as long as they do

On a processor, where work-items run one after the other, each goes along the axes in which what its
lanes gather is contiguous; the model of transactions says which those are. In lock step neighbours
share what they fetch, and each computes one vector or one element.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

import tvm
from tvm import s_tir, tirx
from tvm.target import Target

from smartmem_tvm.analysis.transactions import START

from .base import RuleDeclined
from .choice import Choice, scheduled
from .choose import cheapest, lane_tiles, moves_bytes, widths
from .contraction import with_group, with_order
from .cost import Costs, costs_of
from .limits import ScheduleLimits, limits_of
from .tile import Tile

# In vector instructions, on a processor: what starting a work-group takes, and what is worth it,
LAUNCH = 800.0
WORTH_A_LAUNCH = 16384.0
# an element that lanes scatter, beyond what one that they gather takes,
SCATTERED = 3.0
# another page, as lines of one follow each other and are fetched ahead,
PAGE = 3.0
# and a vector that is written elsewhere than after the one before.
JUMP = 10.0
# Work-groups that keep a processor busy.
BUSY = 64
# Points of a loop that use up the cache lines they touch, and some more.
LEAST_LOOP = 32


class Elementwise:
    """Vectors, or elements, along loops that use up the cache lines they touch."""

    name = "Elementwise"

    def apply(self, func: tirx.PrimFunc, target: Target, _tunable: bool) -> s_tir.Schedule:
        """Return a schedule; raise RuleDeclined with the reason."""
        limits = limits_of(target)
        costs = costs_of(func, limits)
        if costs.kernel.reductions:
            raise RuleDeclined("it has reductions")
        if limits.lock_step:
            tile = cheapest(costs, lane_tiles(costs, (), limits, 1))
            tile = with_group(with_order(tile, costs, limits), costs, limits)
        else:
            tile = fastest_tile(costs, limits)
        return scheduled(costs.kernel, Choice(tile))


def fastest_tile(costs: Costs, limits: ScheduleLimits) -> Tile:
    """The tile of a processor that costs least, cache lines and starts of work-items counted."""
    simple = cheapest(costs, lane_tiles(costs, (), limits, 1))
    if any(costs.symbolic):
        return with_group(simple, costs, limits)
    tiles = filter(costs.allows, (simple, *_loop_tiles(costs, limits)))
    found = (_in_turn(tile, costs, limits) for tile in tiles)
    return min(found, key=lambda answer: answer[0])[1]


def _loop_tiles(costs: Costs, limits: ScheduleLimits) -> Iterator[Tile]:
    """Tiles whose work-items go along one or two axes, and along that of their lanes or not."""
    axes = [d for d, extent in enumerate(costs.extents) if extent > 1]
    if moves_bytes(costs):
        yield from (Tile(inner=nest) for nest in _nests(axes))
        return
    most = max(limits.vector_width, limits.register_tile[1])
    for lane in axes:
        rest = [d for d in axes if d != lane]
        for width in widths(costs.extents[lane], most)[:2]:
            yield Tile(inner=(lane,), inner_width=width)
            for nest in _nests(rest):
                yield Tile(lane=lane, width=width, inner=nest)
                yield Tile(inner=(*nest, lane), inner_width=width)


def _nests(axes: list[int]) -> Iterator[tuple[int, ...]]:
    for depth in (1, 2):
        yield from permutations(axes, depth)


def _in_turn(tile: Tile, costs: Costs, limits: ScheduleLimits) -> tuple[float, Tile]:
    """Cost of a tile, and the tile with as many in a work-item as make it worth starting."""
    ordered = with_order(tile, costs, limits)
    cost = costs.by_transactions(tile) + _beside(ordered, costs, limits)
    items = tile.count(costs.extents)
    wanted = max(1.0, cost / WORTH_A_LAUNCH)
    if tile.inner and items < wanted:
        tile = _without_outermost(tile, costs, math.ceil(wanted / items))
    else:
        along = _tiles_along(ordered, costs)
        tile = replace(ordered, repeat=_even(along, math.ceil(min(along, items / wanted))))
        cost -= START * items * (1 - 1 / tile.repeat)
    tile = replace(tile, group=1)
    if tile.repeat == 1 and not tile.inner:
        tile = with_group(tile, costs, limits)
    launches = tile.count(costs.extents) / (tile.repeat * tile.group)
    return (cost + LAUNCH * launches) * max(1.0, min(BUSY, wanted) / launches) ** 0.5, tile


def _beside(tile: Tile, costs: Costs, limits: ScheduleLimits) -> float:
    """What a tile costs a processor beside what the model of transactions says."""
    cost, work = 0.0, len(costs.work) - 1
    along = tile.inner[-1] if tile.inner else tile.fastest
    counts = costs.counts(tile)
    first = len(counts) - len(costs.work[work].accesses)
    for number, (count, writes) in enumerate(counts):
        cost += PAGE * count.pages
        if not writes:
            continue
        cost += SCATTERED * (count.gathered + 2 * count.scattered + 2 * count.conditional)
        buffer = costs.work[work].accesses[number - first].buffer
        size = math.prod(map(int, buffer.shape)) * tvm.DataType(buffer.dtype).itemsize
        in_order = along is None or along == tile.lane or tile.inner_width > 1
        if size > limits.memory.second_cache and not in_order:
            step = costs.stride(work, number - first, along, 2)
            cost += JUMP * count.pieces * (step != tile.width)
    return cost


def _without_outermost(tile: Tile, costs: Costs, pieces: int) -> Tile:
    """Tile that goes along one of several long pieces of its outermost axis."""
    first, rest = tile.inner[0], tile.inner[1:]
    whole = tile
    if not rest and tile.inner_width > 1:
        tile = replace(tile, lane=first, width=tile.inner_width, inner_width=1)
    tile = replace(tile, inner=rest, fastest=first)
    along = math.ceil(costs.extents[first] / tile.size(first))
    repeat = _even(along, min(along, max(LEAST_LOOP, math.ceil(along / pieces))))
    return whole if repeat == along else replace(tile, repeat=repeat)


def _even(total: int, most: int) -> int:
    """Size of equal parts, as close below a limit as they are not much smaller."""
    best = max(n for n in range(1, most + 1) if total % n == 0)
    return best if 2 * best > most else most


def _tiles_along(tile: Tile, costs: Costs) -> int:
    """Tiles along the axis of neighbouring work-items, the grid's first."""
    tiles = {
        d: math.ceil(extent / tile.size(d))
        for d, extent in enumerate(costs.extents)
        if d not in tile.inner
    }
    many = [d for d in tiles if tiles[d] > 1]
    first = next((d for d in (tile.fastest, tile.lane, *many[-1:]) if d in many), None)
    return 1 if first is None else tiles[first]
