"""Lines of nested loops against an enumeration of every address, and a cache that forgets."""

from __future__ import annotations

from collections import OrderedDict
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmem_tvm.analysis.cache_lines import (
    SHARES,
    every,
    fetched,
    first_of,
    lines_of,
    starts_of,
)

LINE = 64


def _addresses(loops, start=0):
    """Addresses in the order of the loops, the innermost first."""
    places = np.array([start])
    for stride, count in loops:
        places = (np.arange(count)[:, None] * stride + places).reshape(-1)
    return places


def _lines(addresses, itemsize):
    return np.unique([addresses // LINE, (addresses + itemsize - 1) // LINE])


@st.composite
def nests(draw):
    """Loops as tensors have them: each goes over the ones inside, some of them with gaps."""
    itemsize = draw(st.sampled_from([2, 4]))
    loops, size = [], itemsize
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.sampled_from([2, 3, 4, 8, 16]))
        gap = draw(st.sampled_from([1, 1, 2, 16]))
        loops.append((size * gap, count))
        size *= gap * count
    return itemsize, draw(st.permutations(loops))


@settings(deadline=None)
@given(
    nests(), st.lists(st.sampled_from([(16, 4), (64, 8), (4, 16), (4, 3), (100, 5)]), max_size=2)
)
def test_lines_are_counted(nest, grid):
    """Exact where strides are those of lines or smaller; else one line in four may be wrong."""
    itemsize, loops = nest
    starts = _addresses(grid)
    counts = [len(_lines(_addresses(loops, start), itemsize)) for start in starts]
    found = lines_of(loops, itemsize, LINE, starts_of(0, grid, LINE, itemsize))
    assert found == pytest.approx(sum(counts) / len(counts), rel=0.25)
    if not grid and all(stride <= LINE or stride % LINE == 0 for stride, _ in loops):
        assert found == pytest.approx(counts[0])


def test_rows_of_neighbouring_windows_overlap():
    window = [(4, 3), (400, 3)]
    image = [(4, 16), (400, 16)]
    both = len(_lines(_addresses([*window, *image]), 4))
    assert lines_of([*window, *image], 4, LINE, starts_of(0, (), LINE, 4)) == pytest.approx(
        both, rel=0.25
    )
    # A stride over the rows skips none of them as long as windows are as high.
    image[1] = (800, 16)
    both = len(_lines(_addresses([*window, *image]), 4))
    assert lines_of([*window, *image], 4, LINE, starts_of(0, (), LINE, 4)) == pytest.approx(
        both, rel=0.25
    )


def test_no_more_lines_than_there_are():
    starts = starts_of(0, (), LINE, 4)
    assert lines_of([(None, 1000)], 4, LINE, starts, 12) == 12
    assert lines_of([(None, 10)], 4, LINE, starts, inf) == 10


def _misses(addresses, capacity):
    kept, missed = OrderedDict(), 0
    for address in addresses:
        line = address // LINE
        if line in kept:
            kept.move_to_end(line)
            continue
        missed += 1
        kept[line] = None
        if len(kept) > capacity // LINE:
            kept.popitem(last=False)
    return missed


MATRIX = {
    "rows": ((4, 64), (256, 64)),
    "columns": ((256, 64), (4, 64)),
    "columns, twice": ((256, 64), (4, 64), (0, 2)),
    "a row again and again": ((4, 64), (0, 32), (256, 16)),
    "panels of columns": ((4, 16), (256, 64), (64, 4)),
    "pieces of columns": ((256, 8), (4, 64), (2048, 8)),
}


@pytest.mark.parametrize("cache", [1 << 9, 1 << 11, 1 << 13, 1 << 17])
@pytest.mark.parametrize("name", MATRIX)
def test_what_the_cache_lost_is_fetched_again(name, cache):
    loops = MATRIX[name]
    addresses = _addresses(loops).tolist()
    expected = [_misses(addresses, int(cache * share)) for share in SHARES]
    found = fetched(loops, 4, LINE, starts_of(0, (), LINE, 4), cache)
    assert found == pytest.approx(sum(expected) / len(expected), rel=0.1)


def test_the_first_steps_of_an_axis_and_every_fourth():
    blocked = [(4, 16), (6400, 4)]
    assert first_of(blocked, 8) == [(4, 8)]
    assert first_of(blocked, 32) == [(4, 16), (6400, 2)]
    assert first_of(blocked, 1) == []
    assert every(blocked, 4) == [(16, 4), (6400, 4)]
    assert every(blocked, 16) == [(6400, 4)]
    assert every(blocked, 32) == [(12800, 2)]
    assert every([(None, 16)], 4) == [(None, 4)]
