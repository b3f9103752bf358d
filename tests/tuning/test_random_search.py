from __future__ import annotations

from collections import Counter
from itertools import islice, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from search_protocol import (
    check_deterministic,
    check_earlier_results,
    check_exhausts,
    check_proposals,
    small_spaces,
)
from synthetic_space import SPACES, SyntheticSpace

from smartmem_tvm.tuning.random_search import RandomSearch


@settings(max_examples=40, deadline=None)
@given(small_spaces(), st.lists(st.integers(0, 9), max_size=10))
def test_proposals_are_new_and_canonical(space, counts):
    check_proposals(space, RandomSearch, counts)


@settings(max_examples=40, deadline=None)
@given(small_spaces(), st.integers(1, 20))
def test_a_small_space_is_exhausted(space, count):
    check_exhausts(space, RandomSearch, count)


@settings(max_examples=40, deadline=None)
@given(small_spaces(), st.integers(0, 5))
def test_a_seed_decides_everything(space, seed):
    check_deterministic(space, RandomSearch, seed)


@settings(max_examples=40, deadline=None)
@given(small_spaces(), st.integers(0, 100))
def test_earlier_results_are_not_proposed_again(space, seed):
    check_earlier_results(space, RandomSearch, np.random.default_rng(seed))


@settings(max_examples=40, deadline=None)
@given(small_spaces())
def test_the_first_start_comes_first(space):
    assert RandomSearch(space, 3).propose(1) == [space.start[0]]


def test_a_known_start_is_not_tried_again():
    space = SPACES["landscape"]
    search = RandomSearch(space, 0)
    search.learn(space.start, [1.0])
    assert space.start[0] not in search.propose(200)


def test_seeds_differ():
    space = SPACES["product"]
    assert RandomSearch(space, 0).propose(9) != RandomSearch(space, 1).propose(9)


def test_points_are_equally_likely_whatever_they_stand_for():
    # (0, anything) all mean (0, 0): six raw points of twelve.
    space = SyntheticSpace(
        (2, 6), ("split", "unroll"), ((0, 0),), lambda p: 1.0, lambda p: (p[0], p[0] * p[1])
    )
    seconds = Counter(RandomSearch(space, seed).propose(2)[1] for seed in range(1200))
    assert set(seconds) == {(1, value) for value in range(6)}
    assert all(150 < number < 250 for number in seconds.values())
    space.start = ((1, 5),)
    seconds = Counter(RandomSearch(space, seed).propose(2)[1] for seed in range(1200))
    assert set(seconds) == {(0, 0), *((1, value) for value in range(5))}
    assert all(150 < number < 250 for number in seconds.values())


def test_points_that_many_others_mean_are_met():
    # All knobs but the first two have no effect: one raw point of 12^5 is its own stand-in.
    space = SyntheticSpace(
        (12,) * 7, ("split",) * 7, ((0,) * 7,), lambda p: 1.0, lambda p: (*p[:2], 0, 0, 0, 0, 0)
    )
    found = RandomSearch(space, 0).propose(100)
    assert len(set(found)) == 100


def test_a_large_space_with_few_legal_points_ends():
    legal = set(islice(product(range(2), repeat=7), 5))
    space = SyntheticSpace(
        (12,) * 7, ("split",) * 7, (min(legal),), lambda p: 1.0, lambda p: p if p in legal else None
    )
    found = RandomSearch(space, 0).propose(10)
    assert found[0] == min(legal)
    assert set(found) <= legal


def test_a_space_of_one_point():
    space = SyntheticSpace((), (), ((),), lambda p: 1.0)
    search = RandomSearch(space, 0)
    assert search.propose(4) == [()]
    assert search.propose(4) == []
