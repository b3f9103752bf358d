"""Lines that groups touch, against an enumeration of what their work-items read and write."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest
from tvm import te, topi

from smartmem_tvm.analysis.fused_kernel import read_kernel
from smartmem_tvm.analysis.group_traffic import GroupTraffic
from smartmem_tvm.analysis.transactions import KernelCost, Memory, Walk
from smartmem_tvm.devices import resolve_profile

ADRENO = Memory.of(resolve_profile("adreno-740"))
LINE = 64


def _traffic(func, walk):
    return GroupTraffic(KernelCost(read_kernel(func), ADRENO), walk)


def _lines(places):
    """Cache lines of elements of float32, of each tensor by itself."""
    return len({(tensor, 4 * place // LINE) for tensor, place in places})


def _groups(extents, size):
    """Ranges of the points of every group along each axis."""
    along = [
        [range(at, min(at + n, extent)) for at in range(0, extent, n)]
        for extent, n in zip(extents, size, strict=True)
    ]
    return list(product(*along))


@pytest.mark.parametrize("shape", [{1: 4, 0: 3}, {1: 16}, {0: 6, 1: 1}, {1: 2, 0: 6}])
def test_matrix_products(shape):
    m, k, n = 24, 32, 64
    a, b = te.placeholder((m, k)), te.placeholder((k, n))
    func = te.create_prim_func([a, b, topi.matmul(a, b)])
    traffic = _traffic(func, Walk(lane=(1,), width=4, rows=((0, 4),)))
    size = 4 * shape.get(0, 1), 4 * shape.get(1, 1)
    found = 0
    groups = _groups((m, n), size)
    for rows, columns in groups:
        left = [("a", i * k + r) for i in rows for r in range(k)]
        right = [("b", r * n + j) for r in range(k) for j in columns]
        out = [("o", i * n + j) for i in rows for j in columns]
        found += _lines([*left, *right, *out])
    assert traffic.groups(shape) == len(groups)
    assert traffic.lines(shape) == found


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [{3: 8, 2: 2}, {3: 4, 2: 4, 1: 2}, {3: 16}])
def test_windows_overlap(stride, shape):
    channels, out, height, width = 2, 8, 16, 16
    rows = (height - 1) * stride + 3
    columns = 64  # rows of whole lines, of which windows touch the first
    x = te.placeholder((1, channels, rows, columns))
    w = te.placeholder((out, channels, 3, 3))
    narrow = topi.strided_slice(x, [0] * 4, [1, channels, rows, (width - 1) * stride + 3], [1] * 4)
    func = te.create_prim_func([x, w, topi.nn.conv2d_nchw(narrow, w, stride, 0, 1)])
    traffic = _traffic(func, Walk())
    size = tuple(shape.get(d, 1) for d in range(4))
    found = 0
    groups = _groups((1, out, height, width), size)
    for _, outs, ys, xs in groups:
        read = [
            ("x", (c * rows + y * stride + i) * columns + at * stride + j)
            for c, y, i, at, j in product(range(channels), ys, range(3), xs, range(3))
        ]
        weights = [("w", o * channels * 9 + r) for o in outs for r in range(channels * 9)]
        written = [("o", (o * height + y) * width + at) for o in outs for y in ys for at in xs]
        found += _lines([*read, *weights, *written])
    assert traffic.groups(shape) == len(groups)
    assert traffic.lines(shape) == pytest.approx(found, rel=0.15)


def test_work_items_of_a_tile_are_counted_once():
    a, b = te.placeholder((28, 32)), te.placeholder((32, 64))
    func = te.create_prim_func([a, b, topi.matmul(a, b)])
    traffic = _traffic(func, Walk(lane=(1,), width=4, rows=((0, 8),)))
    assert [traffic.tiles(d) for d in (0, 1)] == [4, 16]
    assert traffic.groups({0: 3, 1: 8}) == 2 * 2
    assert traffic.groups({}) == prod((4, 16))
