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
        ((192, 17), DEEP, (21, 3)),
        ((8, 100), DEEP, (8, 8)),
        ((192, 1), DEEP, (64, 1)),
        ((1, 192), DEEP, (1, 64)),
        ((192, 25), 1, (64, 1)),
    ],
)
def test_shapes(tiles, deep, shape):
    assert group_shape(*tiles, 64, deep) == shape


def test_neighbours_follow_the_fastest_axis_then_the_lanes():
    assert thread_axes([0, 1, 2], None, [], None) == (2, 1)
    assert thread_axes([0, 1, 2], None, [0], 1) == (1, 0)
    assert thread_axes([0, 1, 2], 0, [], 1) == (0, 1)
    assert thread_axes([0, 2], 1, [1], 1) == (2, 0)
    assert thread_axes([1], None, [], None) == (1, None)
    assert thread_axes([], 0, [0], 0) == (None, None)
