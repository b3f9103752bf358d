"""Operands that a work-group fetches together: right on the device, and asked for once."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schedule_helpers import check, normal, rule_of, schedule, source_of
from tvm import te, tirx, topi
from tvm_ffi import structural_visit, structural_walk

from smartmem_tvm.devices import load_profile
from smartmem_tvm.schedules import contraction
from smartmem_tvm.simulation import CacheModel, load_configurations, simulate_function

LOCAL = ("adreno-740", "nvidia-opencl")
LOCAL_BYTES = 16384


def matmul(m, k, n):
    a, b = te.placeholder((m, k)), te.placeholder((k, n))
    return te.create_prim_func([a, b, topi.matmul(a, b)])


def convolution(shape, weights, stride, padding, groups=1):
    x, w = te.placeholder(shape), te.placeholder(weights)
    if groups > 1:
        out = topi.nn.group_conv2d_nchw(x, w, stride, padding, 1, groups)
    else:
        out = topi.nn.conv2d_nchw(x, w, stride, padding, 1)
    return te.create_prim_func([x, w, out])


def convolved(x, w, stride, padding, groups=1):
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    batch, channels = windows.shape[:2]
    split = windows.reshape(batch, groups, channels // groups, *windows.shape[2:])
    weights = w.reshape(groups, -1, *w.shape[1:])
    out = np.einsum("ngchwij,gocij->ngohw", split, weights)
    return out.reshape(batch, -1, *out.shape[3:]).astype("float32")


def shared_bytes(func):
    """Local memory of a scheduled function, a buffer each."""
    found = {}

    def visit(block):
        for buffer in block.alloc_buffers:
            if buffer.scope() == "shared":
                count = int(np.prod([int(n) for n in buffer.shape]))
                found[buffer.name] = count * tvm.DataType(str(buffer.dtype)).itemsize

    structural_walk(func.body, (tvm.s_tir.SBlock, visit))
    return found


def conditions_around_barriers(func):
    """Conditions under which a barrier stands."""
    found, around = [], []

    def condition(node, visitor):
        around.append(node.condition)
        visitor.visit(node.then_case)
        around.pop()

    def call(node, visitor):
        if node.op.same_as(tvm.ir.Op.get("tirx.tvm_storage_sync")):
            found.append(list(around))
        return visitor.default_visit(node)

    structural_visit(func.body, [(tirx.IfThenElse, condition), (tvm.ir.Call, call)])
    return found


@pytest.mark.device
@pytest.mark.parametrize("profile", LOCAL)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(m=st.integers(1, 70), k=st.sampled_from([1, 3, 4, 16, 17, 40]), n=st.integers(1, 90))
def test_matrix_products_of_any_extents(m, k, n, profile, opencl_device):
    a, b = normal(m, k), normal(k, n, seed=1)
    check(matmul(m, k, n), [a, b], [a @ b], opencl_device, profile)


@pytest.mark.device
@pytest.mark.parametrize("profile", LOCAL)
@pytest.mark.parametrize(
    ("shape", "weights", "stride", "padding", "groups"),
    [
        ((1, 16, 14, 14), (32, 16, 3, 3), 1, 1, 1),
        ((1, 3, 33, 31), (16, 3, 7, 7), 2, 3, 1),
        ((2, 24, 9, 11), (40, 24, 1, 1), 1, 0, 1),
        ((1, 32, 13, 13), (32, 8, 3, 3), 2, 1, 4),
        ((1, 5, 12, 12), (7, 5, 3, 5), 1, 2, 1),
        ((1, 8, 37, 29), (12, 8, 3, 3), 1, 1, 1),
        ((1, 12, 41, 35), (24, 4, 3, 3), 2, 1, 3),
        ((1, 16, 31, 31), (16, 1, 5, 5), 1, 2, 16),
    ],
)
def test_convolutions_with_borders(shape, weights, stride, padding, groups, profile, opencl_device):
    x, w = normal(*shape), normal(*weights, seed=1)
    want = convolved(x, w, stride, padding, groups)
    func = convolution(shape, weights, stride, padding, groups)
    check(func, [x, w], [want], opencl_device, profile, rule="Contraction")


@pytest.mark.device
@pytest.mark.parametrize("padding", [0, 1])
def test_windows_over_channels_in_memory_order(padding, opencl_device):
    """Channels innermost: borders go through local memory as what they are."""
    x, w = te.placeholder((1, 13, 13, 32)), te.placeholder((3, 3, 32, 48))
    func = te.create_prim_func([x, w, topi.nn.conv2d_nhwc(x, w, 1, padding, 1)])
    images, weights = normal(1, 13, 13, 32), normal(3, 3, 32, 48, seed=1)
    want = convolved(images.transpose(0, 3, 1, 2), weights.transpose(3, 2, 0, 1), 1, padding)
    want = np.ascontiguousarray(want.transpose(0, 2, 3, 1))
    made = check(func, [images, weights], [want], opencl_device, "adreno-740")
    assert len(shared_bytes(made)) == 2


@pytest.mark.parametrize("extents", [(50, 33, 70), (128, 256, 128), (197, 768, 768)])
def test_all_work_items_reach_every_barrier(extents):
    made = schedule(matmul(*extents), "adreno-740")
    taken = shared_bytes(made)
    assert len(taken) == 2
    assert sum(taken.values()) <= LOCAL_BYTES
    barriers = conditions_around_barriers(made)
    assert len(barriers) == 2
    assert not any(barriers)


def test_several_reductions_share_the_limit():
    a, b, c = te.placeholder((256, 256)), te.placeholder((256, 256)), te.placeholder((256, 256))
    out = topi.add(topi.matmul(a, b), topi.matmul(a, c))
    made = schedule(te.create_prim_func([a, b, c, out]), "adreno-740")
    taken = shared_bytes(made)
    assert len(taken) > 2
    assert sum(taken.values()) <= LOCAL_BYTES


def test_devices_without_local_memory_of_their_own_have_none():
    for profile in ("mali-g710", "cpu"):
        assert not shared_bytes(schedule(matmul(128, 256, 128), profile))


def test_open_extents_have_none():
    n = tirx.Var("n", "int64")
    a, b = te.placeholder((n, 64)), te.placeholder((64, 64))
    made = schedule(te.create_prim_func([a, b, topi.matmul(a, b)]), "adreno-740")
    assert rule_of(made) == "Contraction"
    assert not shared_bytes(made)


@pytest.mark.parametrize(("stride", "dilation"), [(3, 1), (4, 1), (1, 3)])
def test_windows_that_do_not_overlap_are_not_fetched_together(stride, dilation):
    """Every work-item has elements of its own, but for the weights."""
    x, w = te.placeholder((1, 64, 32, 32)), te.placeholder((64, 1, 3, 3))
    func = topi.nn.group_conv2d_nchw(x, w, stride, 1, dilation, 64)
    made = schedule(te.create_prim_func([x, w, func]), "adreno-740")
    assert sum(shared_bytes(made).values()) <= 64 * 9 * 4


@pytest.mark.device
@pytest.mark.parametrize(("extent", "stride"), [(32, 1), (16, 2), (19, 1), (11, 2)])
def test_overlapping_windows_are_fetched_once(extent, stride, opencl_device):
    """What a group's windows cover, with their borders: no element of it is fetched twice."""
    channels, out, size = 16, 32, (extent - 1) * stride + 3
    x, w = normal(1, channels, size, size), normal(out, channels, 3, 3, seed=1)
    want = convolved(x, w, stride, 0)[0].transpose(1, 2, 0)
    weights = np.ascontiguousarray(w.transpose(1, 2, 3, 0))
    func = channels_last((channels, size, size), out, stride)
    made = check(func, [x[0], weights], [np.ascontiguousarray(want)], opencl_device, "adreno-740")
    assert len(shared_bytes(made)) == 2
    target = load_profile("adreno-740").target()
    groups = math.prod(extent_of(made, f"blockIdx.{axis}") for axis in "xyz")
    fetched = sum(shared_bytes(made).values()) * channels * groups
    assert simulated(made, target, "bytes") == fetched + 4 * want.size


def test_smaller_groups_where_local_memory_does_not_hold_the_windows(monkeypatch):
    func = channels_last((16, 129, 257), 64, 2)
    whole = schedule(func, "adreno-740")
    limits_of = contraction.limits_of
    most = sum(shared_bytes(whole).values()) - 4
    monkeypatch.setattr(
        contraction, "limits_of", lambda t: dataclasses.replace(limits_of(t), tile_bytes=most)
    )
    smaller = schedule(func, "adreno-740")
    assert len(shared_bytes(smaller)) == 2
    assert sum(shared_bytes(smaller).values()) <= most
    items = [
        math.prod(extent_of(made, f"threadIdx.{axis}") for axis in "xyz")
        for made in (whole, smaller)
    ]
    assert items[1] < items[0]


def channels_last(shape, out, stride):
    """Convolution of [channels, rows, columns] by [channels, 3, 3, out], results channels last."""
    channels, rows, columns = shape
    x, w = te.placeholder(shape), te.placeholder((channels, 3, 3, out))
    c, i, j = (te.reduce_axis((0, n)) for n in (channels, 3, 3))
    extents = (rows - 3) // stride + 1, (columns - 3) // stride + 1, out
    result = te.compute(
        extents,
        lambda y, at, o: te.sum(x[c, y * stride + i, at * stride + j] * w[c, i, j, o], (c, i, j)),
    )
    return te.create_prim_func([x, w, result])


def extent_of(func, tag):
    """Extent of a thread axis; 1 where there is none."""
    found = [1]

    def visit(loop):
        if loop.thread_binding is not None and loop.thread_binding.thread_tag == tag:
            found.append(int(loop.extent))

    structural_walk(func.body, (tirx.For, visit))
    return found[-1]


def test_fetched_together_memory_is_asked_less_often(monkeypatch):
    target = load_profile("adreno-740").target()
    func = matmul(128, 256, 128)
    together = simulated(schedule(func, "adreno-740"), target)
    limits_of = contraction.limits_of
    monkeypatch.setattr(
        contraction, "limits_of", lambda t: dataclasses.replace(limits_of(t), tile_bytes=0)
    )
    alone = simulated(schedule(func, "adreno-740"), target)
    assert 4 * together < alone


def simulated(func, target, figure="requests"):
    with CacheModel(load_configurations("small")) as model:
        (kernel,) = simulate_function(func, target, model)
    return getattr(kernel.counts.accesses, figure)


def test_sources_stay_short():
    _, source = source_of(schedule(matmul(197, 768, 3072), "adreno-740"), "adreno-740")
    assert len(source) < 16 * 1024
