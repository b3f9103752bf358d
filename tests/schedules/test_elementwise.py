"""Elementwise: values, copies through index maps, gathers and conditions against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_helpers import check, normal, run, schedule, source_of
from tvm import te, topi

from smartmem_tvm.analysis.layouts import Layout
from smartmem_tvm.devices import load_profile
from smartmem_tvm.passes.rewrite_layouts import rewrite_function
from smartmem_tvm.schedules.cost import costs_of
from smartmem_tvm.schedules.elementwise import fastest_tile
from smartmem_tvm.schedules.limits import limits_of

SHAPES = [(1,), (7,), (5, 7, 3), (64, 48), (1, 3, 64, 64)]


@pytest.mark.parametrize("shape", SHAPES)
def test_broadcast_and_relu(shape, opencl_device):
    a, b = te.placeholder(shape), te.placeholder(shape[-1:])
    func = te.create_prim_func([a, b, topi.nn.relu(topi.add(a, b))])
    x, y = normal(*shape), normal(shape[-1], seed=1)
    check(func, [x, y], [np.maximum(x + y, 0)], opencl_device, rule="Elementwise")


@pytest.mark.parametrize("shape", SHAPES)
def test_transposed_functions(shape, opencl_device):
    a = te.placeholder(shape)
    t = topi.transpose(a)
    func = te.create_prim_func([a, topi.multiply(topi.erf(t), topi.exp(t))])
    x = normal(*shape)
    want = (np.vectorize(math.erf)(x.T) * np.exp(x.T)).astype("float32")
    check(func, [x], [want], opencl_device, rule="Elementwise")


@pytest.mark.parametrize("shape", SHAPES)
def test_padding(shape, opencl_device):
    a = te.placeholder(shape)
    func = te.create_prim_func([a, topi.nn.pad(a, [1] * len(shape), [2] * len(shape), 0.5)])
    x = normal(*shape)
    want = np.pad(x, [(1, 2)] * len(shape), constant_values=0.5)
    check(func, [x], [want], opencl_device, rule="Elementwise")


@pytest.mark.parametrize("shape", SHAPES)
def test_choice_by_value(shape, opencl_device):
    a = te.placeholder(shape)
    func = te.create_prim_func([a, topi.where(topi.greater(a, 0.0), a, topi.multiply(a, 0.1))])
    x = normal(*shape)
    want = np.where(x > 0, x, x * np.float32(0.1))
    check(func, [x], [want], opencl_device, rule="Elementwise")


def test_integers_and_casts(opencl_device):
    a = te.placeholder((3, 33))
    func = te.create_prim_func([a, topi.cast(topi.add(topi.cast(a, "int32"), 1), "float32")])
    x = normal(3, 33) * 5
    check(func, [x], [(x.astype("int32") + 1).astype("float32")], opencl_device)


def test_gather_by_data(opencl_device):
    a, i = te.placeholder((11, 33)), te.placeholder((7,), dtype="int64")
    func = te.create_prim_func([a, i, topi.multiply(topi.take(a, i, 0, mode="clip"), 2.0)])
    x, at = normal(11, 33), np.array([0, 10, 3, 3, 9, 1, 5])
    check(func, [x, at], [x[at] * 2], opencl_device, rule="Elementwise")


def test_two_outputs(opencl_device):
    a = te.placeholder((9, 20))
    func = te.create_prim_func([a, topi.exp(a), topi.nn.relu(a)])
    x = normal(9, 20)
    check(func, [x], [np.exp(x), np.maximum(x, 0)], opencl_device, rule="Elementwise")


def test_flat_axes_have_no_divisions():
    a, b = te.placeholder((1, 6, 14, 14)), te.placeholder((1, 6, 14, 14))
    _, source = source_of(schedule(te.create_prim_func([a, b, topi.add(a, b)])))
    assert "%" not in source
    assert "vstore16" in source


@pytest.mark.parametrize("shape", [(1,), (37,), (4, 64)])
def test_booleans_are_not_vectors(shape, opencl_device):
    a = te.placeholder(shape, dtype="int64")
    negative = te.compute(shape, lambda *i: a(*i) < tvm.tirx.const(0, "int64"))
    func = te.create_prim_func([a, negative, topi.logical_not(negative)])
    x = np.random.default_rng(0).integers(-3, 3, shape)
    check(func, [x], [x < 0, x >= 0], opencl_device, rule="Elementwise")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("shape", [(25,), (5, 5), (4, 64)])
def test_bytes_are_not_vectors(shape, dtype, opencl_device):
    a = te.placeholder(shape, dtype)
    func = te.create_prim_func([a, te.compute(shape, lambda *i: a(*i).astype(dtype))])
    x = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    check(func, [x], [x], opencl_device, rule="Elementwise")


def laid_out(func, *layouts):
    """The function with layouts of its parameters, None for row by row."""
    maps = {
        parameter: layout.index_map()
        for parameter, layout in zip(func.params, layouts, strict=True)
        if layout is not None
    }
    return rewrite_function(func, maps)


def relaid(shape, before, after):
    """A copy with a bias along the last dimension, from one layout to another."""
    a, b = te.placeholder(shape), te.placeholder(shape[-1:])
    func = te.create_prim_func([a, b, topi.add(a, b)])
    return laid_out(func, before, None, after)


LAYOUT_PAIRS = [
    (None, Layout((2, 0, 1), (2, 16))),
    (Layout((1, 0, 2), (1, 16)), None),
    (Layout((1, 0, 2), (1, 16)), Layout((2, 0, 1), (2, 16))),
    (Layout((0, 2, 1)), None),
    (Layout((2, 1, 0)), Layout((1, 0, 2), (1, 16))),
]


@pytest.mark.parametrize("shape", [(1, 48, 80), (2, 37, 19), (1, 1, 33), (3, 17, 1), (1, 160, 97)])
@pytest.mark.parametrize(("before", "after"), LAYOUT_PAIRS)
def test_copies_between_layouts(shape, before, after, opencl_device):
    x, bias = normal(*shape), normal(shape[-1], seed=1)
    want = x + bias
    inputs = [x if before is None else before.pack(x), bias]
    packed = want if after is None else after.pack(want)
    scheduled = schedule(relaid(shape, before, after))
    (got,) = run(scheduled, inputs, [packed], opencl_device)
    # What pads a panel has any value: only the elements of the tensor are compared.
    places = np.arange(1, 1 + want.size).reshape(shape)
    kept = (places if after is None else after.pack(places)) > 0
    np.testing.assert_allclose(got[kept], packed[kept], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shape", [(40, 30, 33, 5), (64, 64, 64, 3), (2, 3, 5, 7)])
@pytest.mark.parametrize("axes", [(3, 2, 1, 0), (0, 2, 3, 1), (0, 3, 2, 1), (2, 0, 3, 1)])
def test_transposes_of_many_axes(shape, axes, opencl_device):
    a = te.placeholder(shape)
    func = te.create_prim_func([a, topi.nn.relu(topi.transpose(a, axes))])
    x = normal(*shape)
    check(func, [x], [np.maximum(x.transpose(axes), 0)], opencl_device, rule="Elementwise")


def test_padding_of_a_transposed_tensor(opencl_device):
    a = te.placeholder((24, 70, 45))
    padded = topi.nn.pad(topi.transpose(a, (0, 2, 1)), (0, 2, 1), (1, 0, 3), 0.5)
    func = te.create_prim_func([a, padded])
    x = normal(24, 70, 45)
    want = np.pad(x.transpose(0, 2, 1), ((0, 1), (2, 0), (1, 3)), constant_values=0.5)
    check(func, [x], [want], opencl_device, rule="Elementwise")


def chosen(func):
    """Costs of a function on the profile for processors, and the tile that is chosen."""
    limits = limits_of(load_profile("cpu").target())
    costs = costs_of(func, limits)
    return costs, fastest_tile(costs, limits)


def gone_along(costs, tile):
    """Axes that one work-item goes along, its lanes aside."""
    axes = {d for d in tile.inner if costs.extents[d] > 1}
    return axes | ({tile.fastest} if tile.repeat > 1 else set())


@settings(max_examples=40, deadline=None)
@given(st.integers(16, 700), st.integers(16, 700), st.integers(1, 6))
def test_lanes_along_one_contiguous_axis_and_loops_along_the_other(rows, columns, batch):
    a = te.placeholder((batch, rows, columns))
    costs, tile = chosen(te.create_prim_func([a, topi.transpose(a, (0, 2, 1))]))
    stored, loaded = len(costs.extents) - 1, len(costs.extents) - 2
    lane = tile.lane if tile.inner_width == 1 else tile.inner[-1]
    assert lane in (stored, loaded)
    whole = gone_along(costs, tile) | {lane}
    assert {stored, loaded} <= whole


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_plain_kernels_are_vectors_in_turn(shape):
    a, b = te.placeholder(shape), te.placeholder(shape)
    _, tile = chosen(te.create_prim_func([a, b, topi.add(a, b)]))
    total = math.prod(shape)
    width = max(tile.width, tile.inner_width)
    assert width == next(w for w in (16, 8, 4, 2, 1) if w <= total)
    assert not tile.rows
    # Enough for one work-item is not cut into several.
    items = math.ceil(total / width) / (math.ceil(total / width) if tile.inner else tile.repeat)
    assert items <= max(1, total / 1024)


def test_tiles_in_turn_cover_what_they_do_not_divide(opencl_device):
    """A number of vectors that is a prime: the last work-item has fewer."""
    count = 16 * 12289
    a = te.placeholder((count,))
    func = te.create_prim_func([a, topi.multiply(a, 2.0)])
    costs, tile = chosen(func)
    assert tile.repeat > 1
    assert math.ceil(costs.extents[0] / 16) % tile.repeat
    x = normal(count)
    check(func, [x], [x * 2], opencl_device, rule="Elementwise")


@pytest.mark.parametrize("profile", ["adreno-740", "mali-g710"])
def test_neighbours_in_lock_step_share_what_they_fetch(profile):
    """Work-items of a phone's GPU compute one vector each, as many at a time as there are."""
    a = te.placeholder((1, 64, 4096))
    scheduled = schedule(te.create_prim_func([a, topi.nn.relu(a)]), profile)
    loops = []
    tvm_ffi.structural_walk(scheduled.body, (tvm.tirx.For, loops.append))
    assert not [one for one in loops if one.kind == tvm.tirx.ForKind.SERIAL]


def test_what_a_value_has_twice_is_gathered_once(opencl_device):
    a = te.placeholder((96, 160))
    t = topi.transpose(a)
    func = te.create_prim_func([a, topi.multiply(t, topi.sigmoid(t))])
    x = normal(96, 160)
    want = (x / (1 + np.exp(-x))).T
    scheduled = check(func, [x], [want], opencl_device, rule="Elementwise")
    loads = []
    tvm_ffi.structural_walk(scheduled.body, (tvm.ir.expr.TensorLoad, loads.append))
    assert len([load for load in loads if load.source.ty.storage_scope != "local"]) == 1


@pytest.mark.parametrize("side", [1, 3, 9])
def test_long_conditions_of_lanes_are_not_written_out(side, opencl_device):
    """Many windows of a tensor, each with conditions of its own, added up: a loop over lanes."""
    a = te.placeholder((23, 21))
    padded = [topi.nn.pad(a, (k, side - k), (side - k, k), 0.5) for k in range(side + 1)]
    total = padded[0]
    for one in padded[1:]:
        total = topi.add(total, one)
    func = te.create_prim_func([a, total])
    x = normal(23, 21)
    want = sum(
        np.pad(x, ((k, side - k), (side - k, k)), constant_values=0.5) for k in range(side + 1)
    )
    check(func, [x], [want], opencl_device, rule="Elementwise")
