"""Which tensors share a storage: a colouring of the graph of those in use at the same time.

A storage is as large as the largest tensor that is ever in it, and every tensor starts at its
first byte, since a kernel's argument has no offset. Tensors in use at the same time have storages
of their own. What is to be small is the sum of all storages::

    a ████              4 MB        storage 0: a, c     4 MB
    b    ███████        2 MB        storage 1: b        2 MB
    c          ██████   3 MB

To find the least sum is NP-hard for intervals too, so :func:`colour` takes the best of several
plans: tensors in different orders, each into the storage that it makes the least larger, then
rounds in which those that made one larger come earlier (squeaky wheel optimisation). TVM's plan is
among them, hence the sum is never above its. :func:`lower_bound` says how far that can be from the
least; a plan that reaches it ends the search.

Source: TOpLib's memory colouring; squeaky wheels: Joslin and Clements, JAIR 10, 1999.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# TVM takes a free storage of at most so many times the size, or of at least that part of it.
_MATCH_RANGE = 16
# Items that all rounds of the search place together, and the most and fewest rounds.
_EFFORT = 40_000
_ROUNDS = (64, 512)


@dataclass(frozen=True)
class Item:
    """Something to be stored: bytes, and the first and last position at which it is in use.

    ``group`` matters to TVM's plan only, which keeps element types apart.
    """

    bytes: int
    first: int
    last: int
    group: Hashable = None


def total(items: Sequence[Item], storages: Sequence[int]) -> int:
    """Bytes of all storages, where ``storages`` has the number of each item's."""
    largest: dict[int, int] = {}
    for item, storage in zip(items, storages, strict=True):
        largest[storage] = max(item.bytes, largest.get(storage, 0))
    return sum(largest.values())


def live_peak(items: Iterable[Item]) -> int:
    """The most bytes that are in use at one time: no placement at all can take less."""
    return max(_levels(items), default=0)


def _levels(items: Iterable[Item]) -> list[int]:
    events = sorted(
        event
        for item in items
        for event in ((item.first, 0, item.bytes), (item.last, 1, -item.bytes))
    )
    levels, level = [], 0
    for _, _, change in events:
        level += change
        levels.append(level)
    return levels


def lower_bound(items: Sequence[Item]) -> int:
    """The least that storages at offset 0 can take, or less.

    If k items of at least n bytes are in use at one time, the k-th largest storage has n bytes or
    more: that holds for every k, so the sum over k of the largest such n is a bound.
    """
    bound, overlapping = 0, 0
    by_size = sorted(items, key=lambda item: -item.bytes)
    for number, item in enumerate(by_size):
        if number + 1 < len(by_size) and by_size[number + 1].bytes == item.bytes:
            continue
        among = [Item(1, other.first, other.last) for other in by_size[: number + 1]]
        found = live_peak(among)
        bound += (found - overlapping) * item.bytes
        overlapping = found
    return bound


def colour(items: Sequence[Item]) -> list[int]:
    """Number of the storage of each item; numbers count from 0 without gaps.

    The same items give the same plan, in any process.
    """
    if not items:
        return []
    bound = lower_bound(items)
    best = tvm_plan(items)
    for plan in _plans(items):
        if total(items, plan) < total(items, best):
            best = plan
        if total(items, best) <= bound:
            return _renumbered(best)
    return _renumbered(_improved(items, best, bound))


def tvm_plan(items: Sequence[Item]) -> list[int]:
    """What ``relax.transform.StaticPlanBlockMemory`` does with the same items.

    In the order of the program, each takes the smallest free storage of its group that is large
    enough, or else the largest, which grows; but none that is more than sixteen times as large or
    as small.
    """
    storages = [0] * len(items)
    sizes: list[int] = []
    free: dict[Hashable, list[tuple[int, int]]] = {}  # (size, storage), ascending
    running: list[tuple[int, int]] = []  # (last use, item)
    for number in sorted(range(len(items)), key=lambda n: (items[n].first, n)):
        item = items[number]
        while running and running[0][0] < item.first:
            done = heapq.heappop(running)[1]
            entry = (sizes[storages[done]], storages[done])
            insort(free.setdefault(items[done].group, []), entry)
        pool = free.setdefault(item.group, [])
        place = bisect_left(pool, (item.bytes, -1))
        if place == len(pool) or pool[place][0] > item.bytes * _MATCH_RANGE:
            place -= 1
            if place < 0 or pool[place][0] < item.bytes // _MATCH_RANGE:
                place = -1
        if place < 0:
            storages[number] = len(sizes)
            sizes.append(item.bytes)
        else:
            _, storages[number] = pool.pop(place)
            sizes[storages[number]] = max(sizes[storages[number]], item.bytes)
        heapq.heappush(running, (item.last, number))
    return storages


class _Storage:
    """Intervals without overlap, in order."""

    def __init__(self) -> None:
        self.bytes = 0
        self.firsts: list[int] = []
        self.lasts: list[int] = []

    def gap(self, item: Item) -> int | None:
        """Positions for which it is free before the item; None where it is not free for it."""
        place = bisect_right(self.firsts, item.last)
        before = self.lasts[place - 1] if place else -1
        return item.first - before if before < item.first else None

    def add(self, item: Item) -> None:
        place = bisect_right(self.firsts, item.first)
        self.firsts.insert(place, item.first)
        self.lasts.insert(place, item.last)
        self.bytes = max(self.bytes, item.bytes)


# Among the storages that grow least: the first, the one of the nearest size, the one that was in
# use last.
_RULES: tuple[Callable[[int, int, int], tuple[int, ...]], ...] = (
    lambda number, spare, gap: (number,),
    lambda number, spare, gap: (spare, number),
    lambda number, spare, gap: (gap, number),
)


def _place(
    items: Sequence[Item], order: Iterable[int], rule: Callable[[int, int, int], tuple[int, ...]]
) -> tuple[list[int], list[int]]:
    """Each item, in that order, into the storage that it makes the least larger.

    Returns the storages and the items that made one larger.
    """
    storages: list[_Storage] = []
    chosen = [0] * len(items)
    growing = []
    for number in order:
        item = items[number]
        best: tuple[tuple[int, ...], int] | None = None
        for index, storage in enumerate(storages):
            gap = storage.gap(item)
            growth = max(0, item.bytes - storage.bytes)
            if gap is not None and growth < max(1, item.bytes):
                key = (growth, *rule(index, max(0, storage.bytes - item.bytes), gap))
                best = min(best or (key, index), (key, index))
        if best is None:
            best = ((item.bytes,), len(storages))
            storages.append(_Storage())
        if best[0][0]:
            growing.append(number)
        storages[best[1]].add(item)
        chosen[number] = best[1]
    return chosen, growing


def _plans(items: Sequence[Item]) -> Iterable[list[int]]:
    orders: list[Callable[[int], Any]] = [
        lambda n: (-items[n].bytes, items[n].first, n),
        lambda n: (-items[n].bytes, items[n].first - items[n].last, n),
        lambda n: (items[n].first - items[n].last, -items[n].bytes, n),
        lambda n: (items[n].first, -items[n].bytes, n),
    ]
    for order in orders:
        numbers = sorted(range(len(items)), key=order)
        for rule in _RULES:
            yield _place(items, numbers, rule)[0]


def _improved(items: Sequence[Item], best: list[int], bound: int) -> list[int]:
    """The best of rounds that each place earlier what made a storage larger in the last one."""
    random_ = random.Random(0)
    order = sorted(range(len(items)), key=lambda n: (-items[n].bytes, items[n].first, n))
    fewest, most = _ROUNDS
    for number in range(min(most, max(fewest, _EFFORT // len(items)))):
        plan, growing = _place(items, order, _RULES[number % len(_RULES)])
        if total(items, plan) < total(items, best):
            best = plan
        if total(items, best) <= bound:
            break
        rank = {item: float(position) for position, item in enumerate(order)}
        for item in growing:
            rank[item] *= random_.random()
        order.sort(key=rank.__getitem__)
    return best


def _renumbered(storages: Sequence[int]) -> list[int]:
    numbers: dict[int, int] = {}
    return [numbers.setdefault(storage, len(numbers)) for storage in storages]
