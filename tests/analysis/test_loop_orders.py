"""Orders of the loops over rows: which there are, and that the numbers stay the same."""

from __future__ import annotations

import pytest
from tvm import te, topi

from smartmem_tvm.analysis.fused_kernel import read_kernel
from smartmem_tvm.analysis.layouts import Layout, row_major
from smartmem_tvm.analysis.loop_orders import loop_orders
from smartmem_tvm.analysis.ordered_cost import OrderedCost
from smartmem_tvm.analysis.reductions import split_updates
from smartmem_tvm.analysis.walks import Memory
from smartmem_tvm.devices import load_profile


def _norm_of_groups(groups, channels, height, width):
    """Rows are channels of a group and pixels taken as one, as after elimination."""
    row = channels * height * width
    x = te.placeholder((groups * channels, height, width), name="x")

    def at(g, k):
        return g * channels + k // (height * width), k % (height * width) // width, k % width

    k = te.reduce_axis((0, row), name="k")
    total = te.compute((groups,), lambda g: te.sum(x(*at(g, k)), k), name="total")
    out = te.compute((groups, row), lambda g, k: x(*at(g, k)) - total[g] / row, name="out")
    return te.create_prim_func([x, out])


def _extents(stage):
    return [int(axis.extent) for axis in stage.axes]


def test_every_loop_of_a_row_may_be_innermost():
    orders = loop_orders(read_kernel(_norm_of_groups(4, 8, 5, 7)))
    assert [_extents(one.sink) for one in orders] == [
        [4, 280],
        [4, 5, 7, 8],
        [4, 8, 7, 5],
    ]
    for one in orders:
        (stage,) = one.stages
        assert _extents(stage) == _extents(one.sink)
        assert all(axis.reduced for axis in stage.axes[1:])


def test_indices_are_no_longer_divided():
    _, turned, _ = loop_orders(read_kernel(_norm_of_groups(4, 8, 5, 7)))
    (load,) = [x for x in turned.stages[0].loads() if x.source.name == "x"]
    assert len(load.indices) == 3
    assert "//" not in str(load.indices)
    assert "%" not in str(load.indices)


def test_softmax_has_one_loop():
    x = te.placeholder((6, 40), name="x")
    kernel = read_kernel(te.create_prim_func([x, topi.nn.softmax(x)]))
    assert loop_orders(kernel) == [kernel]


def test_contractions_have_no_rows():
    x, w = te.placeholder((6, 40), name="x"), te.placeholder((40, 8), name="w")
    kernel = read_kernel(te.create_prim_func([x, w, topi.matmul(x, w)]))
    assert loop_orders(kernel) == [kernel]


def test_the_first_of_equal_elements_stays_the_first():
    """The index of a maximum depends on the order; the sink's loops do not."""
    x = te.placeholder((3, 4, 6), name="x")
    at = topi.argmax(topi.reshape(x, (3, 24)), 1)
    out = te.compute((3, 4, 6), lambda n, i, j: x[n, i, j] + at[n].astype("float32"))
    kernel = read_kernel(te.create_prim_func([x, out]))
    for one in loop_orders(kernel):
        for stage in one.reductions:
            if split_updates(stage) is None:
                mine = next(s for s in kernel.reductions if s.name == stage.name)
                assert [a.var for a in stage.axes] == [a.var for a in mine.axes]
    assert any(split_updates(stage) is None for stage in kernel.reductions)


def test_an_axis_that_is_divided_unevenly_stays_whole():
    x = te.placeholder((4, 30), name="x")
    k = te.reduce_axis((0, 30), name="k")
    total = te.compute((4,), lambda g: te.sum(x[g, k // 7 + k % 7], k))
    out = te.compute((4, 30), lambda g, j: x[g, j] - total[g])
    kernel = read_kernel(te.create_prim_func([x, out]))
    assert loop_orders(kernel) == [kernel]


@pytest.mark.parametrize(
    ("layout", "order"), [(row_major(3), 0), (Layout((1, 2, 0)), 1), (Layout((0, 2, 1)), 2)]
)
def test_the_order_of_a_layout_costs_least(layout, order):
    kernel = read_kernel(_norm_of_groups(32, 16, 32, 32))
    model = OrderedCost(kernel, Memory.of(load_profile("cpu")))

    def cost(walk):
        placed = [layout if b.name == "x" else row_major(len(b.shape)) for b in model.buffers]
        return sum(model.access(n, walk, one) for n, one in enumerate(placed) if n < 1)

    best = min((walk for walk in model.walks if walk.inner), key=cost)
    assert best.order == order
