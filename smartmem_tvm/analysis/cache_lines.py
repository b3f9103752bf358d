"""How many cache lines nested loops over a tensor touch, and how many they fetch.

A loop is a stride in bytes and a count; a stride of None leads anywhere. Loops that fill a line
together make pieces, whole lines side by side; the others repeat the piece at other places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Loop = tuple[int | None, int]
# Parts of a cache that one operand may have.
SHARES = (1 / 2, 1 / 8, 1 / 32)
# Places in a line where something may start, and the share of the cases.
Starts = tuple[tuple[int, float], ...]


def starts_of(origin: int, loops: Sequence[Loop], line: int, itemsize: int) -> Starts:
    """Where in a line the pieces start that loops repeat, the first of them at `origin`."""
    return _spread(((origin % line, 1.0),), loops, line, itemsize)


def _spread(starts: Starts, loops: Sequence[Loop], line: int, itemsize: int) -> Starts:
    moves = []
    for stride, count in loops:
        step, count = (itemsize, line) if stride is None else (stride % line, count)
        if step:  # after so many steps the places come again
            moves.append((step, min(count, line // math.gcd(step, line))))
    return _moved(starts, tuple(sorted(moves)), line) if moves else starts


@lru_cache(maxsize=1 << 14)
def _moved(starts: Starts, moves: tuple[tuple[int, int], ...], line: int) -> Starts:
    for stride, count in moves:
        found: dict[int, float] = {}
        for start, share in starts:
            for step in range(count):
                place = (start + step * stride) % line
                found[place] = found.get(place, 0.0) + share / count
        starts = tuple(found.items())
    return starts


def lines_of(
    loops: Sequence[Loop],
    itemsize: int,
    line: int,
    starts: Starts | None,
    limit: float = math.inf,
) -> float:
    """Distinct lines that loops in any order touch, on average over the places where they start.

    They may start anywhere where `starts` is None. No more than `limit`, the lines that there are.
    """
    span, apart, reach = itemsize, 1.0, 0.0
    unit = 0  # stride of the last loop that repeats pieces
    repeating: list[Loop] = []
    for stride, count in sorted((abs(s), n) for s, n in loops if s and n > 1):
        if stride < span + line:  # no line fits into the gap
            span += stride * (count - 1)
        elif unit and stride <= unit * reach:
            # The same places again, as of the rows of neighbouring windows, and some beyond.
            beyond = stride / unit * (count - 1)
            apart, reach = apart / reach * (reach + beyond), reach + beyond
        else:
            apart, unit, reach = apart * count, stride, float(count)
            repeating.append((stride, count))
    anywhere = [(stride, count) for stride, count in loops if stride is None]
    apart *= math.prod(count for _, count in anywhere)
    if starts is None:
        return min(apart * (1 + (span - itemsize) / line), limit)
    starts = _spread(starts, [*repeating, *anywhere], line, itemsize)
    piece = sum(share * ((start + span - 1) // line + 1) for start, share in starts)
    return min(apart * piece, limit)


@lru_cache(maxsize=1 << 14)
def fetched(
    loops: tuple[Loop, ...],
    itemsize: int,
    line: int,
    starts: Starts | None,
    cache: int,
    limit: float = math.inf,
    ways: int = 0,
) -> float:
    """Lines that nested loops fetch, the innermost first, through a cache of limited size.

    A loop that comes again over lines which the cache has lost fetches them again. How much of the
    cache the other operands leave is not known: the result is the mean over :data:`SHARES`. With
    `ways`, lines are lost as well where more than that many share a set.
    """
    before = lines_of((), itemsize, line, starts, limit)
    totals = [before] * len(SHARES)
    for depth, (_, count) in enumerate(loops, start=1):
        whole = lines_of(loops[:depth], itemsize, line, starts, limit)
        for number, share in enumerate(SHARES):
            kept = before * line <= cache * share
            if kept and ways:
                kept = in_one_set(loops[: depth - 1], line, cache // ways) <= max(1, ways * share)
            totals[number] *= whole / before if kept else count
        before = whole
    return sum(totals) / len(totals)


@lru_cache(maxsize=1 << 14)
def in_one_set(loops: tuple[Loop, ...], line: int, period: int) -> int:
    """Most lines of loops that share a set of a cache, whose sets come again after a period."""
    places = np.zeros(1, np.int64)
    for stride, count in loops:
        if stride and count > 1:
            places = np.unique(np.add.outer(places, stride * np.arange(count)))
    sets = np.unique(places // line) % (period // line)
    return int(np.bincount(sets).max())


def first_of(loops: Sequence[Loop], count: int) -> list[Loop]:
    """The loops of the first `count` steps of an axis whose loops are given, innermost first."""
    found = []
    for stride, steps in loops:
        if count < 2:
            break
        found.append((stride, min(steps, count)))
        count = -(-count // steps)
    return found


def every(loops: Sequence[Loop], step: int) -> list[Loop]:
    """The loops of every `step`-th step of an axis whose loops are given, innermost first."""
    found: list[Loop] = []
    for stride, steps in loops:
        if step >= steps:
            step = -(-step // steps)
            continue
        found.append((None if stride is None else stride * step, -(-steps // step)))
        step = 1
    return found
