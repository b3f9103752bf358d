"""Storages against an integer programme, against every partition, and against TVM's planner."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmem_tvm.analysis.memory_colouring import (
    Item,
    colour,
    live_peak,
    lower_bound,
    total,
    tvm_plan,
)

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
try:
    from storage_optimum import optimum
finally:
    del sys.path[0]

# The limit that is asked for; what is seen is below 1.04.
NEAR = 1.05


@st.composite
def sets_of_items(draw, most=30):
    """Intervals of three kinds: any, of a chain with shortcuts, and short ones of all sizes."""
    kind = draw(st.sampled_from(["any", "chain", "short"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    items = []
    for number in range(draw(st.integers(1, most))):
        first = int(rng.integers(0, 25)) if kind == "any" else number
        length = int(rng.integers(0, 7))
        if kind == "any" or (kind == "chain" and rng.random() < 0.3):
            length = int(rng.exponential(6.0))
        size = int(rng.integers(0, 100)) if kind == "short" else int(rng.choice([1, 2, 3, 8, 24]))
        items.append(Item(size, first, first + length, str(rng.choice(["float32", "float16"]))))
    return items


def overlap(one, other):
    return one.first <= other.last and other.first <= one.last


def partitions(numbers):
    if not numbers:
        yield []
        return
    for rest in partitions(numbers[1:]):
        yield [[numbers[0]], *rest]
        for place in range(len(rest)):
            yield [*rest[:place], [numbers[0], *rest[place]], *rest[place + 1 :]]


def least(items):
    """Bytes of the best of all partitions into storages without overlap."""
    allowed = (
        parts
        for parts in partitions(list(range(len(items))))
        if not any(
            overlap(items[a], items[b]) for part in parts for a in part for b in part if a < b
        )
    )
    return min(sum(max(items[n].bytes for n in part) for part in parts) for parts in allowed)


@settings(deadline=None, max_examples=80)
@given(sets_of_items())
def test_tensors_in_use_at_one_time_never_share(items):
    for plan in (colour(items), tvm_plan(items)):
        assert not any(
            overlap(one, other)
            for number, one in enumerate(items)
            for one_place, other, other_place in [
                (plan[number], items[n], plan[n]) for n in range(number)
            ]
            if one_place == other_place
        )


@settings(deadline=None, max_examples=80)
@given(sets_of_items())
def test_between_the_bounds_and_tvms_plan(items):
    found = total(items, colour(items))
    assert live_peak(items) <= lower_bound(items) <= found <= total(items, tvm_plan(items))
    assert set(colour(items)) == set(range(len(set(colour(items)))))


@settings(deadline=None, max_examples=40)
@given(sets_of_items(most=7))
def test_the_bound_and_the_programme_against_every_partition(items):
    assert lower_bound(items) <= least(items) == optimum(items, 10.0)


@settings(deadline=None, max_examples=40)
@given(sets_of_items(most=40))
def test_within_five_per_cent_of_the_optimum(items):
    best = optimum(items, 10.0)
    if best is not None:
        assert best <= total(items, colour(items)) <= NEAR * best


def test_levels_of_what_is_in_use():
    items = [Item(4, 0, 2), Item(2, 1, 4), Item(3, 3, 5)]
    assert live_peak(items) == 6
    assert live_peak([*items, Item(1, 2, 3)]) == 7
    # At its last use a tensor is still there: one that begins then has to lie elsewhere.
    assert live_peak([Item(4, 0, 2), Item(4, 2, 3)]) == 8
    assert colour([Item(4, 0, 2), Item(4, 2, 3)]) == [0, 1]
    assert colour([Item(4, 0, 2), Item(4, 3, 3)]) == [0, 0]
    assert (live_peak([]), lower_bound([]), colour([])) == (0, 0, [])


def test_at_offset_0_more_is_needed_than_is_in_use():
    """Two tensors of 2 cannot lie in one storage of 4 side by side."""
    items = [Item(4, 0, 1), Item(2, 2, 3), Item(2, 2, 3)]
    assert live_peak(items) == 4
    assert lower_bound(items) == total(items, colour(items)) == 6


def test_where_tvms_order_wastes_memory():
    """A storage of 2 grows to 8, and tensors of another type get storages of their own."""
    items = [Item(2, 0, 1), Item(8, 1, 2), Item(7, 3, 5), Item(8, 4, 5)]
    items += [Item(2, 6, 7, "float16"), Item(8, 7, 8, "float16")]
    assert total(items, tvm_plan(items)) == 26
    assert total(items, colour(items)) == optimum(items, 10.0) == 15


@pytest.mark.parametrize(
    ("sizes", "storages"),
    [
        ([32, 2], [0, 0]),  # 16 times the size: taken
        ([34, 2], [0, 1]),  # 17 times: not
        ([2, 34], [0, 0]),  # an eighth of 34 rounded down is 2: taken, and made larger
        ([2, 48], [0, 1]),
    ],
)
def test_how_far_tvm_looks(sizes, storages):
    assert tvm_plan([Item(size, 2 * n, 2 * n) for n, size in enumerate(sizes)]) == storages


def test_the_same_plan_every_time():
    rng = np.random.default_rng(3)
    drawn = rng.integers(1, 30, (60, 2)).tolist()
    items = [Item(size, n, n + length) for n, (size, length) in enumerate(drawn)]
    assert total(items, colour(items)) > lower_bound(items)  # all rounds are run
    assert colour(items) == colour(items)
