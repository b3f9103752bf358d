"""Sampled accesses: strides, the loops that an axis amounts to, conditions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import te, topi

from smartmem_tvm.analysis.fused_kernel import read_kernel
from smartmem_tvm.analysis.kernel_samples import LONGEST, sample, split_digits
from smartmem_tvm.analysis.layouts import Layout, innermost, row_major


def _samples(body, *shapes, dtypes=()):
    """Samples of all accesses of a function, by buffer."""
    tensors = [
        te.placeholder(shape, name=f"x{n}", dtype=dtypes[n] if n < len(dtypes) else "float32")
        for n, shape in enumerate(shapes)
    ]
    kernel = read_kernel(te.create_prim_func([*tensors, body(*tensors)]))
    axes = range(len(kernel.sink.axes))
    runs = [(d,) for d in axes] + [(d, d + 1) for d in axes if d + 1 in axes]
    found = sample(kernel, runs, 16)
    return found, {
        access.buffer.name: samples
        for part, of_part in zip(found.work, found.samples, strict=True)
        for access, samples in zip(part.accesses, of_part, strict=True)
    }


def test_strides_of_a_matmul():
    found, samples = _samples(topi.nn.matmul, (32, 48), (48, 64))
    ((var, _),) = found.work[0].reduced
    left, right = samples["x0"], samples["x1"]
    assert [left.stride(run, row_major(2)) for run in [(0,), (1,), var]] == [48, 0, 1]
    assert [left.stride(run, innermost(2, 0)) for run in [(0,), (1,), var]] == [1, 0, 32]
    assert [right.stride(run, row_major(2)) for run in [(0,), (1,), var]] == [0, 1, 64]
    assert right.stride(var, Layout((0, 1), (0, 16))) == 1
    assert right.digits(var, Layout((0, 1), (0, 16))) == ((1, 16), (16 * 64, 3))
    assert right.digits((1,), row_major(2)) == ((1, 64),)
    assert right.digits((0,), row_major(2)) == ()


def test_axes_taken_together_are_straight_where_the_tensor_is():
    _, samples = _samples(topi.nn.relu, (4, 8, 8))
    assert samples["x0"].stride((1, 2), row_major(3)) == 1
    assert samples["x0"].stride((1, 2), innermost(3, 1)) is None


def test_the_windows_of_an_image():
    def windows(x):
        split = topi.reshape(x, (2, 4, 2, 4, 16))
        return topi.exp(topi.reshape(topi.transpose(split, (0, 2, 1, 3, 4)), (4, 16, 16)))

    _, samples = _samples(windows, (8, 8, 16))
    assert samples["x0"].digits((1,), row_major(3)) == ((16, 4), (128, 4))
    assert samples["x0"].digits((0,), row_major(3)) == ((64, 2), (512, 2))


@pytest.mark.parametrize("pad", [0, 1])
def test_conditions_change_along_padded_axes_alone(pad):
    found, samples = _samples(
        lambda x, w: topi.nn.conv2d_nchw(x, w, 1, pad, 1, "float32"), (1, 4, 64, 64), (8, 4, 3, 3)
    )
    channel, row, column = (var for var, _ in found.work[0].reduced)
    changing = [
        r for r in [(1,), (2,), (3,), channel, row, column] if samples["x0"].changes_condition(r)
    ]
    assert changing == ([(2,), (3,), row, column] if pad else [])


def test_rows_that_data_chooses_lie_anywhere():
    _, samples = _samples(
        lambda x, i: topi.take(x, i, axis=0, mode="fast"),
        (31, 64),
        (16,),
        dtypes=("float32", "int32"),
    )
    table = samples["x0"]
    assert table.stride((0,), row_major(2)) is None
    assert table.stride((1,), row_major(2)) == 1
    (_, length), (stride, pieces) = table.digits((0,), row_major(2))
    assert (length, stride) == (1, None)
    assert 8 <= pieces <= 16


@given(
    st.lists(st.tuples(st.integers(1, 500), st.integers(2, 9)), min_size=1, max_size=3),
    st.integers(0, 1000),
)
def test_digits_give_the_places_again(loops, start):
    places = np.zeros(1, np.int64)
    for stride, count in loops:
        places = (np.arange(count)[:, None] * stride + places).reshape(-1)
    digits = split_digits(start + np.stack([places, places]), len(places))
    again = np.zeros(1, np.int64)
    for stride, count in digits:
        again = (np.arange(count)[:, None] * stride + again).reshape(-1)
    assert (again[: len(places)] == places).all()


def test_long_axes_are_as_their_first_part():
    _, samples = _samples(topi.nn.relu, (4 * LONGEST, 8))
    assert samples["x0"].digits((0,), row_major(2)) == ((8, 4 * LONGEST),)
    assert samples["x0"].digits((0,), Layout((0, 1), (0, 4))) == ((1, 4), (32, LONGEST))


@pytest.mark.parametrize(
    ("count", "rests"), [(2, True), (3, True), (6, True), (4, False), (9, False)]
)
def test_channels_of_a_group_read_the_same(count, rests):
    """Of 18 channels in groups of six, every two, three or six have one input."""
    _, samples = _samples(lambda x: topi.repeat(x, 6, 0), (3, 8))
    assert samples["x0"].rests((0,), count) is rests
    assert not samples["x0"].rests((1,), 2)
