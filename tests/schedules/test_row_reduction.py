"""RowReduction: softmax and normalisations against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from schedule_helpers import check, normal, schedule, source_of
from tvm import te, topi
from tvm.script import tirx as T

from smartmem_tvm.analysis import find_launches


def _softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((4, 16), 1),
        ((3, 197), 1),
        ((7, 5, 49, 49), 3),
        ((5, 7, 3), 1),
        ((2, 3, 1000), 2),
        ((64, 49), 0),
        ((1, 31), 1),
    ],
)
def test_softmax(shape, axis, opencl_device):
    data = te.placeholder(shape)
    func = te.create_prim_func([data, topi.nn.softmax(data, axis)])
    x = normal(*shape)
    check(func, [x], [_softmax(x, axis)], opencl_device, rule="RowReduction")


def test_softmax_over_one_element(opencl_device):
    data = te.placeholder((3, 1))
    check(
        te.create_prim_func([data, topi.nn.softmax(data)]),
        [normal(3, 1)],
        [np.ones((3, 1), "float32")],
        opencl_device,
    )


@pytest.mark.parametrize("shape", [(4, 16), (197, 96), (1, 56, 56, 32), (2, 8, 5, 7), (2, 3, 1)])
def test_layer_norm(shape, opencl_device):
    data, gamma, beta = (te.placeholder(s) for s in (shape, shape[-1:], shape[-1:]))
    axis = [len(shape) - 1]
    func = te.create_prim_func(
        [data, gamma, beta, topi.nn.layer_norm(data, gamma, beta, axis, 1e-5)]
    )
    x, g, b = normal(*shape), normal(shape[-1], seed=1), normal(shape[-1], seed=2)
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    want = (x - mean) / np.sqrt(var + np.float32(1e-5)) * g + b
    check(func, [x, g, b], [want], opencl_device)


@pytest.mark.parametrize(
    ("shape", "groups"), [((1, 32, 8, 8), 8), ((2, 6, 5, 7), 3), ((1, 64, 28, 28), 32)]
)
def test_group_norm(shape, groups, opencl_device):
    # Two results of one reduction, and rows that are quotients of the output's channel.
    channels = shape[1]
    data, gamma, beta = (te.placeholder(s) for s in (shape, (channels,), (channels,)))
    func = te.create_prim_func(
        [data, gamma, beta, topi.nn.group_norm(data, gamma, beta, groups, 1, [2, 3], 1e-5)]
    )
    x, g, b = normal(*shape), normal(channels, seed=1), normal(channels, seed=2)
    rows = x.reshape(shape[0], groups, -1)
    mean, var = rows.mean(2, keepdims=True), rows.var(2, keepdims=True)
    scaled = ((rows - mean) / np.sqrt(var + np.float32(1e-5))).reshape(shape)
    want = scaled * g.reshape(1, -1, 1, 1) + b.reshape(1, -1, 1, 1)
    check(func, [x, g, b], [want], opencl_device, rule="RowReduction")


@pytest.mark.parametrize("channels", [8, 4, 3, 1])
@pytest.mark.parametrize("last", [True, False])
def test_norm_of_groups_follows_the_layout(channels, last, opencl_device):
    """Rows are channels and pixels taken as one, whichever of them lie side by side."""
    groups, height, width = 6, 5, 7
    row = channels * height * width
    shape = (height, width, groups * channels) if last else (groups * channels, height, width)
    x = te.placeholder(shape, name="x")

    def at(g, k):
        c = g * channels + k // (height * width)
        h, w = k % (height * width) // width, k % width
        return (h, w, c) if last else (c, h, w)

    k, k2 = te.reduce_axis((0, row)), te.reduce_axis((0, row))
    total = te.compute((groups,), lambda g: te.sum(x(*at(g, k)), k))
    spread = te.compute(
        (groups,),
        lambda g: te.sum((x(*at(g, k2)) - total[g] / row) * (x(*at(g, k2)) - total[g] / row), k2),
    )

    def value(g, k):
        return (x(*at(g, k)) - total[g] / row) * te.rsqrt(spread[g] / row + 1e-5)

    out = te.compute((groups, row), value)
    data = normal(*shape)
    rows = (data.transpose(2, 0, 1) if last else data).reshape(groups, row)
    mean, var = rows.mean(1, keepdims=True), rows.var(1, keepdims=True)
    want = (rows - mean) / np.sqrt(var + np.float32(1e-5))
    scheduled = check(te.create_prim_func([x, out]), [data], [want], opencl_device)
    if last and channels in (4, 8):
        assert f"vload{channels}(0, x" in source_of(scheduled)[1].replace("_ptr", "")


@T.prim_func(s_tir=True)
def normalised_twice(
    x: T.Buffer((3, 5, 37), "float32"),
    out: T.Buffer((3, 37, 5), "float32"),
    total: T.Buffer((3, 5, 37), "float32"),
):
    # Rows over [b, r], two outputs over [b, r, c], one of them transposed.
    s = T.sblock_alloc_buffer((3, 5))
    q = T.sblock_alloc_buffer((3, 5))
    for b, r, k in T.grid(3, 5, 37):
        with T.sblock("s"):
            vb, vr, vk = T.axis.remap("SSR", [b, r, k])
            with T.init():
                s[vb, vr] = T.float32(0)
            s[vb, vr] = s[vb, vr] + x[vb, vr, vk]
    for b, r, k in T.grid(3, 5, 37):
        with T.sblock("q"):
            vb, vr, vk = T.axis.remap("SSR", [b, r, k])
            with T.init():
                q[vb, vr] = T.float32(0)
            q[vb, vr] = q[vb, vr] + (x[vb, vr, vk] - s[vb, vr]) * (x[vb, vr, vk] - s[vb, vr])
    for b, r, c in T.grid(3, 5, 37):
        with T.sblock("sink"):
            vb, vr, vc = T.axis.remap("SSS", [b, r, c])
            out[vb, vc, vr] = x[vb, vr, vc] - s[vb, vr]
            total[vb, vr, vc] = x[vb, vr, vc] * T.rsqrt(q[vb, vr] + T.float32(1))


def test_two_outputs_and_dependent_rows(opencl_device):
    x = normal(3, 5, 37)
    s = x.sum(2, keepdims=True)
    q = ((x - s) ** 2).sum(2, keepdims=True)
    want = [(x - s).transpose(0, 2, 1), x / np.sqrt(q + 1)]
    check(normalised_twice, [x], want, opencl_device, rule="RowReduction")


@pytest.mark.parametrize("profile", ["adreno-740", "mali-g710"])
def test_other_profiles_run_here(profile, opencl_device):
    data = te.placeholder((6, 50))
    x = normal(6, 50)
    func = te.create_prim_func([data, topi.nn.softmax(data)])
    check(func, [x], [_softmax(x, 1)], opencl_device, profile=profile)


@pytest.mark.parametrize("shape", [(1, 1000), (3, 197), (2, 5, 33), (40, 64)])
def test_work_group_for_each_row(shape, opencl_device):
    # Few rows on a device whose work-items run in lock step: a tree in local memory.
    data = te.placeholder(shape)
    func = te.create_prim_func([data, topi.nn.softmax(data)])
    x = normal(*shape)
    check(func, [x], [_softmax(x, -1)], opencl_device, profile="adreno-740", rule="RowReduction")
    _, source = source_of(schedule(func, "adreno-740"), "adreno-740")
    assert "barrier(" in source
    _, source = source_of(schedule(func, "cpu"))
    assert "barrier(" not in source


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_work_group_for_each_whole_reduction(reduce, opencl_device):
    data = te.placeholder((1, 5, 23, 11))
    func = te.create_prim_func([data, getattr(topi, reduce)(data, (2, 3))])
    x = normal(1, 5, 23, 11)
    want = getattr(np, reduce)(x, axis=(2, 3))
    check(func, [x], [want], opencl_device, profile="adreno-740", rule="Contraction")
    _, source = source_of(schedule(func, "adreno-740"), "adreno-740")
    assert "barrier(" in source


@pytest.mark.parametrize(("dtype", "items"), [("float16", 2), ("float32", 1)])
def test_kernels_of_half_have_a_work_item_to_spare(dtype, items, opencl_device, opencl_info):
    """Intel's compiler cannot do with one that converts vectors."""
    shape = (48, 7)
    data, gamma, beta = (te.placeholder(shape, dtype, name) for name in ("x", "g", "b"))
    func = te.create_prim_func(
        [data, gamma, beta, topi.nn.layer_norm(data, gamma, beta, [0, 1], 1e-5)]
    )
    (launch,) = find_launches(schedule(func))
    assert math.prod(int(n) for n in launch.threads.values()) == items
    if dtype == "float16" and not opencl_info.fp16:
        pytest.skip("no float16 here")
    x, g, b = (normal(*shape, seed=seed).astype(dtype) for seed in range(3))
    rows = x.astype("float32")
    want = (rows - rows.mean()) / np.sqrt(rows.var() + np.float32(1e-5)) * g + b
    check(func, [x, g, b], [want.astype(dtype)], opencl_device, tolerance=5e-3)
