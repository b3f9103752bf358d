"""Which work-items lie side by side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmem_tvm.analysis.waves import DEEP, group_shape, thread_axes

TILES = st.one_of(st.none(), st.integers(1, 2000))


@given(TILES, TILES, st.sampled_from([1, 16, 64, 256]), st.sampled_from([1, DEEP, 16]))
def test_groups_keep_to_their_limit_and_to_what_there_is(x, y, most, deep):
    shape = group_shape(x, y, most, deep)
    assert 1 <= shape[0] * shape[1] <= most
    for threads, tiles in zip(shape, (x, y), strict=True):
        assert threads >= 1
        assert tiles is None or threads <= tiles


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_half_of_a_square_group_has_work(x, y):
    along_x, along_y = group_shape(x, y, 64, DEEP)
    groups = -(-x // along_x) * -(-y // along_y)
    assert 2 * x * y >= groups * along_x * along_y


@pytest.mark.parametrize(
    ("tiles", "deep", "shape"),
    [
        ((192, 25), DEEP, (16, 4)),
        ((192, 17), DEEP, (16, 4)),
        ((8, 100), DEEP, (8, 8)),
        ((36, 28), DEEP, (12, 5)),
        ((192, 1), DEEP, (64, 1)),
        ((1, 192), DEEP, (1, 64)),
        ((192, 25), 1, (64, 1)),
    ],
)
def test_shapes(tiles, deep, shape):
    assert group_shape(*tiles, 64, deep) == shape


def test_neighbours_follow_the_fastest_axis_then_the_lanes():
    counts = {0: 20, 1: 20, 2: 20}
    assert thread_axes(counts, None, [], None, DEEP) == ([2], [1])
    assert thread_axes(counts, None, [0], 1, DEEP) == ([1], [0])
    assert thread_axes(counts, 0, [], 1, DEEP) == ([0], [1])
    assert thread_axes({0: 20, 1: 1, 2: 20}, 1, [1], 1, DEEP) == ([2], [0])
    assert thread_axes({1: 20}, None, [], None, DEEP) == ([1], [])
    assert thread_axes({}, 0, [0], 0, DEEP) == ([], [])


def test_short_axes_lie_together():
    counts = {0: 3, 1: 14, 2: 2, 3: 36}
    assert thread_axes(counts, 3, [2], None, DEEP) == ([3], [1, 2])
    assert thread_axes(counts | {1: 5}, 3, [2], None, DEEP) == ([3], [0, 1, 2])
    assert thread_axes(counts, 3, [2], None, 1) == ([3], [2])
    assert thread_axes(counts | {2: None}, 3, [2], None, DEEP) == ([3], [2])
    assert thread_axes({0: 64, 1: 7, 2: 7}, 2, [0], None, DEEP) == ([1, 2], [0])
