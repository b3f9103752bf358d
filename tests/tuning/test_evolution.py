"""The evolutionary search: the protocol, and that it searches better than chance."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from search_protocol import (
    check_deterministic,
    check_earlier_results,
    check_exhausts,
    check_proposals,
)
from synthetic_space import SPACES, SyntheticSpace, median_best

from smartmem_tvm.tuning.evolution import Evolution
from smartmem_tvm.tuning.random_search import RandomSearch

small = partial(Evolution, population=32)


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


def test_some_of_the_first_are_near_where_it_begins():
    knobs = 20
    start = (4,) * knobs
    space = SyntheticSpace((9,) * knobs, ("split",) * knobs, [start], lambda p: 1e-3)
    found = small(space, 3).propose(12)[1:]
    # Three mutations move six knobs at most; a random point is elsewhere in nearly all of them.
    moved = [sum(a != b for a, b in zip(point, start, strict=True)) for point in found]
    near = sum(count <= 6 for count in moved)
    assert near >= 4
    assert near < len(found)  # and some are not


def test_what_was_fast_is_where_it_goes_on():
    knobs = 20
    far = (0,) * knobs
    space = SyntheticSpace((9,) * knobs, ("split",) * knobs, [(8,) * knobs], lambda p: 1e-3)
    search = small(space, 3)
    search.learn([space.start[0], far], [1.0, 1e-3])
    search.learn([(1,) * knobs, (2,) * knobs], [2e-3, None])
    found = search.propose(8)[1:]
    fast = [far, (1,) * knobs]
    near = [p for p in found if any(sum(map(int.__ne__, p, o)) <= 6 for o in fast)]
    assert len(near) >= 4
    begun = [p for p in found if sum(map(int.__ne__, p, space.start[0])) <= 6]
    assert not begun


def test_a_small_space_is_searched_until_its_end():
    check_exhausts(tiny(), small, 4)


@pytest.mark.parametrize("space", [tiny(), SPACES["product"]], ids=["tiny", "product"])
def test_proposals_are_new_and_canonical(space):
    check_proposals(space, small, [8] * 5)


def test_the_same_seed_and_times_give_the_same_search():
    check_deterministic(SPACES["product"], small, 5)


def test_what_was_measured_before_is_not_proposed_again():
    check_earlier_results(tiny(), small, np.random.default_rng(0))


def test_failures_are_learned_from():
    space = SPACES["product"]
    strategy = small(space, 1)
    points = strategy.propose(8)
    strategy.learn(points, [None] * len(points))
    assert len(strategy.propose(8)) == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SPACES))
def test_better_than_chance(name):
    space = SPACES[name]
    assert median_best(space, Evolution, 7) < median_best(space, RandomSearch, 7)
