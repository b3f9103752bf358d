"""Contraction: products, convolutions and whole reductions against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from schedule_helpers import check, normal, schedule
from tvm import te, topi
from tvm.script import tirx as T

from smartmem_tvm.schedules import rule_of

SIZES = [(1, 1, 1), (5, 17, 9), (64, 64, 64), (197, 32, 197), (13, 7, 3), (1, 64, 10), (31, 1, 33)]


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_matmul_with_epilogue(m, k, n, opencl_device):
    a, b, c = te.placeholder((m, k)), te.placeholder((k, n)), te.placeholder((n,))
    func = te.create_prim_func([a, b, c, topi.nn.relu(topi.add(topi.matmul(a, b), c))])
    x, w, bias = normal(m, k), normal(k, n, seed=1), normal(n, seed=2)
    check(func, [x, w, bias], [np.maximum(x @ w + bias, 0)], opencl_device, rule="Contraction")


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_batched_product_with_a_transposed_operand(m, k, n, opencl_device):
    a, b = te.placeholder((3, m, k)), te.placeholder((3, n, k))
    func = te.create_prim_func([a, b, topi.nn.batch_matmul(a, b)])
    x, y = normal(3, m, k), normal(3, n, k, seed=1)
    check(func, [x, y], [x @ y.transpose(0, 2, 1)], opencl_device, rule="Contraction")


def _convolve(data, kernel, stride, pad, groups):
    count, _, height, width = data.shape
    out, inner, kh, kw = kernel.shape
    padded = np.pad(data, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    oh, ow = (height + 2 * pad - kh) // stride + 1, (width + 2 * pad - kw) // stride + 1
    result = np.zeros((count, out, oh, ow), "float32")
    each = out // groups
    for group in range(groups):
        mine = slice(group * each, (group + 1) * each)
        channels = padded[:, group * inner : (group + 1) * inner]
        for y in range(kh):
            for x in range(kw):
                window = channels[:, :, y : y + oh * stride : stride, x : x + ow * stride : stride]
                result[:, mine] += np.einsum("nchw,oc->nohw", window, kernel[mine, :, y, x])
    return result


@pytest.mark.parametrize(
    ("shape", "out", "size", "stride", "pad", "groups"),
    [
        ((1, 3, 16, 16), 8, 3, 1, 1, 1),
        ((1, 8, 7, 7), 12, 1, 1, 0, 1),
        ((2, 8, 14, 14), 8, 3, 2, 1, 8),
        ((1, 6, 9, 5), 4, 3, 1, 1, 2),
        ((1, 3, 32, 32), 16, 4, 4, 0, 1),
        ((1, 96, 28, 28), 48, 1, 1, 0, 1),
        ((1, 4, 13, 11), 4, 7, 1, 3, 4),
        ((1, 1, 1, 1), 1, 1, 1, 0, 1),
    ],
)
def test_convolution(shape, out, size, stride, pad, groups, opencl_device):
    data, bias = te.placeholder(shape), te.placeholder((1, out, 1, 1))
    kernel = te.placeholder((out, shape[1] // groups, size, size))
    if groups == 1:
        result = topi.nn.conv2d_nchw(data, kernel, stride, pad, 1)
    else:
        result = topi.nn.group_conv2d_nchw(data, kernel, stride, pad, 1, groups)
    func = te.create_prim_func([data, kernel, bias, topi.nn.relu(topi.add(result, bias))])
    x, w = normal(*shape), normal(out, shape[1] // groups, size, size, seed=1)
    b = normal(1, out, 1, 1, seed=2)
    want = np.maximum(_convolve(x, w, stride, pad, groups) + b, 0)
    check(func, [x, w, b], [want], opencl_device, rule="Contraction")


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1, 8, 56, 56), (2, 3)),
        ((2, 5, 7, 7), (2, 3)),
        ((3, 100), (0,)),
        ((1, 64, 7, 7), (1,)),
        ((5,), (0,)),
    ],
)
@pytest.mark.parametrize("reduce", ["sum", "max", "min"])
def test_whole_reductions(shape, axes, reduce, opencl_device):
    data = te.placeholder(shape)
    func = te.create_prim_func([data, topi.multiply(getattr(topi, reduce)(data, axes), 0.5)])
    x = normal(*shape)
    want = np.asarray(getattr(np, reduce)(x, axis=axes) * np.float32(0.5))
    check(func, [x], [want], opencl_device, rule="Contraction")


def test_max_pooling(opencl_device):
    data = te.placeholder((1, 4, 9, 9))
    func = te.create_prim_func(
        [data, topi.nn.pool2d(data, (3, 3), (2, 2), (1, 1), (0, 0, 0, 0), "max")]
    )
    x = normal(1, 4, 9, 9)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2]
    check(func, [x], [windows.max((-1, -2))], opencl_device)


@T.prim_func(s_tir=True)
def window_attention_input(
    x: T.Buffer((1, 28, 28, 32), "float32"),
    w: T.Buffer((32, 96), "float32"),
    q: T.Buffer((16, 2, 49, 16), "float32"),
    k: T.Buffer((16, 2, 49, 16), "float32"),
    v: T.Buffer((16, 2, 49, 16), "float32"),
):
    # Windows of 7 × 7 are read through a view; the three results leave through another one.
    m = T.sblock_alloc_buffer((784, 32))
    n = T.sblock_alloc_buffer((784, 32))
    o = T.sblock_alloc_buffer((784, 32))
    for i, j, r in T.grid(784, 32, 32):
        with T.sblock("q"):
            vi, vj, vr = T.axis.remap("SSR", [i, j, r])
            with T.init():
                m[vi, vj] = T.float32(0)
            m[vi, vj] = (
                m[vi, vj]
                + x[0, vi // 196 * 7 + vi % 49 // 7, vi % 196 // 49 * 7 + vi % 7, vr] * w[vr, vj]
            )
    for i, j, r in T.grid(784, 32, 32):
        with T.sblock("k"):
            vi, vj, vr = T.axis.remap("SSR", [i, j, r])
            with T.init():
                n[vi, vj] = T.float32(0)
            n[vi, vj] = (
                n[vi, vj]
                + x[0, vi // 196 * 7 + vi % 49 // 7, vi % 196 // 49 * 7 + vi % 7, vr]
                * w[vr, vj + 32]
            )
    for i, j, r in T.grid(784, 32, 32):
        with T.sblock("v"):
            vi, vj, vr = T.axis.remap("SSR", [i, j, r])
            with T.init():
                o[vi, vj] = T.float32(0)
            o[vi, vj] = (
                o[vi, vj]
                + x[0, vi // 196 * 7 + vi % 49 // 7, vi % 196 // 49 * 7 + vi % 7, vr]
                * w[vr, vj + 64]
            )
    for i, j in T.grid(784, 32):
        with T.sblock("sink"):
            vi, vj = T.axis.remap("SS", [i, j])
            q[vi // 49, vj // 16, vi % 49, vj % 16] = m[vi, vj] * T.float32(0.25)
            k[vi // 49, vj // 16, vi % 49, vj % 16] = n[vi, vj]
            v[vi // 49, vj // 16, vi % 49, vj % 16] = o[vi, vj]


def test_several_outputs_of_one_domain_through_views(opencl_device):
    x, w = normal(1, 28, 28, 32), normal(32, 96, seed=1)
    windows = x.reshape(4, 7, 4, 7, 32).transpose(0, 2, 1, 3, 4).reshape(784, 32)
    parts = (windows @ w).reshape(16, 49, 3, 2, 16).transpose(2, 0, 3, 1, 4)
    want = [parts[0] * np.float32(0.25), parts[1], parts[2]]
    check(window_attention_input, [x, w], want, opencl_device, rule="Contraction")


@T.prim_func(s_tir=True)
def padded_window(
    x: T.Buffer((10, 3), "float32"),
    w: T.Buffer((3, 5), "float32"),
    out: T.Buffer((8, 5), "float32"),
    rest: T.Buffer((4, 5), "float32"),
):
    # The operand is padded by two rows; the last rows of the domain go to another output.
    m = T.sblock_alloc_buffer((12, 5))
    for i, j, r in T.grid(12, 5, 3):
        with T.sblock("m"):
            vi, vj, vr = T.axis.remap("SSR", [i, j, r])
            with T.init():
                m[vi, vj] = T.float32(1)
            m[vi, vj] = (
                m[vi, vj]
                + T.if_then_else(1 <= vi and vi < 11, x[vi - 1, vr], T.float32(0)) * w[vr, vj]
            )
    for i, j in T.grid(12, 5):
        with T.sblock("sink"):
            vi, vj = T.axis.remap("SS", [i, j])
            if vi < 8:
                out[vi, vj] = m[vi, vj]
            if 8 <= vi:
                rest[vi - 8, vj] = m[vi, vj] * T.float32(2)


def test_guarded_stores_and_padding(opencl_device):
    x, w = normal(10, 3), normal(3, 5, seed=1)
    whole = np.pad(x, ((1, 1), (0, 0))) @ w + 1
    check(padded_window, [x, w], [whole[:8], 2 * whole[8:]], opencl_device, rule="Contraction")


@T.prim_func(s_tir=True)
def rows_and_product(
    x: T.Buffer((19, 24), "float32"),
    w: T.Buffer((24, 21), "float32"),
    out: T.Buffer((19, 21), "float32"),
):
    # A reduction over the rows of the tile beside one over its whole domain.
    s = T.sblock_alloc_buffer((19,))
    m = T.sblock_alloc_buffer((19, 21))
    for i, r in T.grid(19, 24):
        with T.sblock("s"):
            vi, vr = T.axis.remap("SR", [i, r])
            with T.init():
                s[vi] = T.float32(0)
            s[vi] = s[vi] + x[vi, vr] * x[vi, vr]
    for i, j, r in T.grid(19, 21, 24):
        with T.sblock("m"):
            vi, vj, vr = T.axis.remap("SSR", [i, j, r])
            with T.init():
                m[vi, vj] = T.float32(0)
            m[vi, vj] = m[vi, vj] + x[vi, vr] * T.rsqrt(s[vi] + T.float32(1)) * w[vr, vj]
    for i, j in T.grid(19, 21):
        with T.sblock("sink"):
            vi, vj = T.axis.remap("SS", [i, j])
            out[vi, vj] = T.tanh(m[vi, vj])


def test_row_results_inside_a_product(opencl_device):
    x, w = normal(19, 24), normal(24, 21, seed=1)
    want = np.tanh(x / np.sqrt((x * x).sum(1, keepdims=True) + 1) @ w)
    check(rows_and_product, [x, w], [want], opencl_device, rule="Contraction")


@T.prim_func(s_tir=True)
def symbolic_product(a: T.handle, w: T.Buffer((16, 24), "float32"), c: T.handle):
    n = T.int64()
    x = T.match_buffer(a, (n, 16), "float32")
    out = T.match_buffer(c, (n, 24), "float32")
    m = T.sblock_alloc_buffer((n, 24))
    for i, j, r in T.grid(n, 24, 16):
        with T.sblock("m"):
            vi, vj, vr = T.axis.remap("SSR", [i, j, r])
            with T.init():
                m[vi, vj] = T.float32(0)
            m[vi, vj] = m[vi, vj] + x[vi, vr] * w[vr, vj]
    for i, j in T.grid(n, 24):
        with T.sblock("sink"):
            vi, vj = T.axis.remap("SS", [i, j])
            out[vi, vj] = T.max(m[vi, vj], T.float32(0))


@pytest.mark.parametrize("rows", [1, 5, 33])
def test_symbolic_extent(rows, opencl_device):
    x, w = normal(rows, 16), normal(16, 24, seed=1)
    check(symbolic_product, [x, w], [np.maximum(x @ w, 0)], opencl_device, rule="Contraction")


@pytest.mark.parametrize("profile", ["adreno-740", "mali-g710", "nvidia-opencl"])
def test_other_profiles_run_here(profile, opencl_device):
    a, b = te.placeholder((50, 33)), te.placeholder((33, 70))
    func = te.create_prim_func([a, b, topi.matmul(a, b)])
    x, y = normal(50, 33), normal(33, 70, seed=1)
    check(func, [x, y], [x @ y], opencl_device, profile=profile, rule="Contraction")


def test_reductions_without_a_domain_of_the_output_are_declined():
    data = te.placeholder((8, 64))
    scheduled = schedule(te.create_prim_func([data, topi.nn.softmax(data)]))
    assert rule_of(scheduled) == "RowReduction"
