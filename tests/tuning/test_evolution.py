"""The evolutionary search: the protocol, and that it searches better than chance."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_space import SPACES, SyntheticSpace

from smartmem_tvm.tuning.evolution import Evolution
from smartmem_tvm.tuning.random_search import RandomSearch


def search(space, strategy, trials, batch=8):
    """Seconds of what a search proposes, in order."""
    found = []
    seen = set()
    while len(found) < trials:
        points = strategy.propose(min(batch, trials - len(found)))
        if not points:
            break
        assert len(points) <= batch
        assert not seen & set(points)
        assert all(space.canonical(point) == point for point in points)
        seen |= set(points)
        seconds = [space.seconds(point) for point in points]
        strategy.learn(points, seconds)
        found += seconds
    return found


def tiny():
    return SyntheticSpace(
        (3, 2, 4),
        ("split", "fuse", "unroll"),
        [(1, 1, 1)],
        lambda p: None if p == (2, 1, 3) else 1e-3 * (1 + sum(p)),
        lambda p: None if p[0] == 0 and p[1] == 0 else (p[0], p[1], 0 if p[1] == 0 else p[2]),
    )


def test_it_begins_where_it_is_told():
    space = tiny()
    assert Evolution(space, 3).propose(1) == [(1, 1, 1)]


def test_a_small_space_is_searched_until_its_end():
    space = tiny()
    found = search(space, Evolution(space, 0, population=32), 100, batch=4)
    assert len(found) == len(space.everything())


def test_the_same_seed_and_times_give_the_same_search():
    space = SPACES["product"]
    runs = [search(space, Evolution(space, 5, population=32), 40) for _ in range(2)]
    assert runs[0] == runs[1]


def test_what_was_measured_before_is_not_proposed_again():
    space = tiny()
    known = sorted(space.everything())[:7]
    strategy = Evolution(space, 0, population=32)
    strategy.learn(known, [space.seconds(point) for point in known])
    found = []
    while points := strategy.propose(4):
        strategy.learn(points, [space.seconds(point) for point in points])
        found += points
    assert not set(found) & set(known)
    assert set(found) | set(known) == space.everything()


def test_failures_are_learned_from():
    space = SPACES["product"]
    strategy = Evolution(space, 1, population=32)
    points = strategy.propose(8)
    strategy.learn(points, [None] * len(points))
    assert len(strategy.propose(8)) == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SPACES))
def test_better_than_chance(name):
    space = SPACES[name]
    best = {
        make.__name__: np.median(
            [min(s for s in search(space, make(space, seed), 64) if s) for seed in range(7)]
        )
        for make in (Evolution, RandomSearch)
    }
    assert best["Evolution"] < best["RandomSearch"]
