from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_protocol import (
    check_deterministic,
    check_earlier_results,
    check_exhausts,
    check_proposals,
    small_spaces,
)
from synthetic_space import SPACES, SyntheticSpace, median_best

from smartmem_tvm.tuning import explorer
from smartmem_tvm.tuning.explorer import Explorer, Settings
from smartmem_tvm.tuning.random_search import RandomSearch


def without_learning(space, seed):
    """The control: the same search with random directions."""
    return Explorer(space, seed, Settings(learning=False))


@settings(max_examples=30, deadline=None)
@given(small_spaces(), st.lists(st.integers(0, 9), max_size=10))
def test_proposals_are_new_and_canonical(space, counts):
    check_proposals(space, Explorer, counts)


@settings(max_examples=15, deadline=None)
@given(small_spaces(), st.integers(4, 20))
def test_a_small_space_is_exhausted(space, count):
    check_exhausts(space, Explorer, count)


@settings(max_examples=20, deadline=None)
@given(small_spaces(), st.integers(0, 5))
def test_a_seed_decides_everything(space, seed):
    check_deterministic(space, Explorer, seed)


@settings(max_examples=15, deadline=None)
@given(small_spaces(), st.integers(0, 100))
def test_earlier_results_are_not_proposed_again(space, seed):
    check_earlier_results(space, Explorer, np.random.default_rng(seed))


@settings(max_examples=30, deadline=None)
@given(small_spaces())
def test_all_starts_come_first(space):
    starts = list(dict.fromkeys(space.start))
    assert Explorer(space, 3).propose(len(starts)) == starts


def test_seeds_differ():
    space = SPACES["product"]
    assert Explorer(space, 0).propose(9) != Explorer(space, 1).propose(9)


def test_proposals_without_results_do_not_stall():
    one = Explorer(SPACES["product"], 0)
    assert len({p for _ in range(10) for p in one.propose(20)}) == 200


def test_a_space_where_everything_fails_is_gone_through():
    space = SyntheticSpace((3, 4, 2), ("split", "split", "fuse"), ((1, 1, 0),), lambda p: None)
    check_exhausts(space, Explorer, 5)


def test_directions_are_a_step_and_for_many_values_a_longer_one():
    assert explorer._directions((1, 2, 12)) == [(1, 1), (1, -1), (2, 1), (2, -1), (2, 4), (2, -4)]


def test_illegal_directions_and_those_that_mean_the_same_are_not_taken():
    # Where the first knob is 0, the second means nothing; (1, 2) is illegal.
    def stands_for(point):
        if point == (1, 2):
            return None
        return (0, 0) if point[0] == 0 else point

    space = SyntheticSpace((2, 4), ("fuse", "split"), ((0, 0),), lambda p: 1.0, stands_for)
    one = Explorer(space, 0)
    assert one._around((0, 0)) == [(1, 0), None, None, None]
    assert one._around((1, 1)) == [None, (0, 0), None, (1, 0)]


def test_annealing_starts_from_points_as_often_as_their_performance_says():
    space = SyntheticSpace((4,), ("split",), ((0,),), lambda p: 1.0)
    one = Explorer(space, 0, Settings(gamma=2.0))
    one.learn([(0,), (1,), (2,), (3,)], [1.0, 2.0, 4.0, None])
    draws = [one._starting_point() for _ in range(6000)]
    chances = np.exp(-2.0 * np.array([0.0, 0.5, 0.75]))
    expected = 6000 * chances / chances.sum()
    assert [draws.count((value,)) for value in range(3)] == pytest.approx(expected, rel=0.1)
    assert (3,) not in draws


def test_the_network_learns_which_way_is_better():
    """After a slope up in one knob and down in another, values say so where nothing was tried."""
    space = SyntheticSpace(
        (9, 9), ("split", "split"), ((4, 4),), lambda p: 1e-3 * 1.2 ** (p[0] - p[1])
    )
    one = Explorer(space, 0)
    known = [(i, j) for i in range(9) for j in range(9) if (i + j) % 4]
    for _ in range(5):
        one.learn(known, [space.seconds(p) for p in known])
    values = one._network.values(one._rows([(2, 6), (6, 2)]))
    better, worse = (one._directions.index(d) for d in ((0, -1), (0, 1)))
    assert (values[:, better] > values[:, worse] + 0.1).all()
    better, worse = (one._directions.index(d) for d in ((1, 1), (1, -1)))
    assert (values[:, better] > values[:, worse] + 0.1).all()


def test_steps_are_worth_what_comes_after_as_well():
    """Twice as fast with each step up, and one too many fails."""
    space = SyntheticSpace((5,), ("split",), ((0,),), lambda p: None)
    one = Explorer(space, 0, Settings(discount=0.5))
    for _ in range(40):
        one.learn([(value,) for value in range(5)], [8.0, 4.0, 2.0, 1.0, None])
        one._train()
    up, down = np.array([one._network.values(one._rows([(v,)]))[0] for v in range(4)]).T
    assert up == pytest.approx([1.75, 1.5, 1.0, -1.0], abs=0.1)
    # Nothing ahead is worth less than staying; half as fast, then 1.75, 1.5 or 1.0 ahead.
    assert down[1:] == pytest.approx([-0.5 + 0.875, -0.5 + 0.75, -0.5 + 0.5], abs=0.1)


def test_a_step_to_a_failing_point_is_worth_least():
    space = SyntheticSpace((3,), ("split",), ((1,),), lambda p: 1.0)
    one = Explorer(space, 0)
    one.learn([(0,), (1,), (2,)], [9.0, 1.0, None])
    assert one._gain((1,), (2,)) == -1
    assert -1 < one._gain((1,), (0,)) < 0
    assert one._gain((0,), (1,)) == 1  # eight times better counts as twice


def test_earlier_results_are_where_walks_start():
    space = SPACES["product"]
    good = (5, 5, 4, 4, 3, 3, 0, 2)
    assert space.canonical(good) == good
    one = Explorer(space, 0, Settings(fresh=0.0))
    one.learn([*space.start, good], [1.0, 1e-3])
    changed = [sum(np.not_equal(point, good)) for point in one.propose(8)]
    assert max(changed) <= 3


@pytest.mark.parametrize(
    "name",
    [
        "product",
        pytest.param("odd product", marks=pytest.mark.slow),
        pytest.param("landscape", marks=pytest.mark.slow),
    ],
)
def test_it_beats_random_search(name):
    space = SPACES[name]
    assert median_best(space, Explorer) < 0.9 * median_best(space, RandomSearch)


@pytest.mark.parametrize("name", SPACES)
def test_annealing_alone_beats_random_search(name):
    space = SPACES[name]
    assert median_best(space, without_learning) < 0.95 * median_best(space, RandomSearch)


@pytest.mark.slow
def test_learning_helps_where_knobs_have_a_trend():
    """By 17 % here; on spaces without a trend it is a few per cent, within what seeds differ by."""
    space = SPACES["product"]
    assert median_best(space, Explorer) < 0.95 * median_best(space, without_learning)
