"""Reductions along lanes: several vectors of partial results, and what they add up to."""

from __future__ import annotations

import numpy as np
import pytest
from schedule_helpers import check, normal, schedule
from tvm import te, topi
from tvm.s_tir import SBlock
from tvm_ffi import structural_walk


def _partial_shapes(scheduled):
    """Extents of the registers that hold partial results."""
    blocks = []
    structural_walk(scheduled.body, (SBlock, blocks.append))
    return [
        [int(n) for n in buffer.shape]
        for block in blocks
        for buffer in block.alloc_buffers
        if "_lanes_" in buffer.name
    ]


@pytest.mark.parametrize(
    ("length", "shape"),
    [
        (768, [4, 16]),  # 48 steps
        (144, [3, 16]),  # 9 steps
        (160, [2, 16]),  # 10 steps
        (176, [16]),  # 11 steps: no number of vectors divides them
        (48, [16]),  # 3 steps are too few
        (775, [4, 16]),  # 48 steps and a rest
    ],
)
def test_sums_in_several_vectors(length, shape, opencl_device):
    x = te.placeholder((5, length), name="x")
    gamma, beta = te.placeholder((length,), name="gamma"), te.placeholder((length,), name="beta")
    out = topi.nn.layer_norm(x, gamma, beta, [1], 1e-5)
    func = te.create_prim_func([x, gamma, beta, out])
    assert set(map(tuple, _partial_shapes(schedule(func)))) == {tuple(shape)}
    data = normal(5, length)
    g, b = normal(length, seed=1), normal(length, seed=2)
    scale = np.sqrt(data.var(1, keepdims=True) + np.float32(1e-5))
    want = (data - data.mean(1, keepdims=True)) / scale * g + b
    check(func, [data, g, b], [want], opencl_device)


@pytest.mark.parametrize("length", [128, 131, 96, 64])
def test_extremes_and_products(length, opencl_device):
    x = te.placeholder((3, length), name="x")
    data = normal(3, length)
    for reduce, want in ((topi.max, data.max(1)), (topi.min, data.min(1))):
        check(te.create_prim_func([x, reduce(x, 1)]), [data], [want], opencl_device)
    near_one = 1 + data / 100
    want = near_one.prod(1)
    check(te.create_prim_func([x, topi.prod(x, 1)]), [near_one], [want], opencl_device)


def test_calls_are_not_written_out_several_times():
    x = te.placeholder((5, 768), name="x")
    k = te.reduce_axis((0, 768))
    total = te.compute((5,), lambda i: te.sum(te.exp(x[i, k]), k))
    assert all(
        shape == [16] for shape in _partial_shapes(schedule(te.create_prim_func([x, total])))
    )
