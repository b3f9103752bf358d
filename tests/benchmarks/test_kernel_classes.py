"""Classes of kernels follow from index maps, and operations from the function."""

from __future__ import annotations

import pytest
from kernel_classes import class_of, operations_of
from tvm.script import tirx as T

from smartmem_tvm.analysis.computation import read_stages
from smartmem_tvm.analysis.fused_kernel import read_kernel


@T.prim_func(private=True, s_tir=True)
def product(a: T.Buffer((8, 6)), b: T.Buffer((6, 4)), c: T.Buffer((8, 4))):
    m = T.sblock_alloc_buffer((8, 4))
    for i, j, k in T.grid(8, 4, 6):
        with T.sblock("named_conv2d"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                m[vi, vj] = T.float32(0)
            m[vi, vj] = m[vi, vj] + a[vi, vk] * b[vk, vj]
    for i, j in T.grid(8, 4):
        with T.sblock("relu"):
            vi, vj = T.axis.remap("SS", [i, j])
            c[vi, vj] = T.max(m[vi, vj] + T.float32(1), T.float32(0))


@T.prim_func(private=True, s_tir=True)
def heads(q: T.Buffer((5, 12)), k: T.Buffer((5, 12)), s: T.Buffer((3, 5, 5))):
    for h, i, j, d in T.grid(3, 5, 5, 4):
        with T.sblock("s"):
            vh, vi, vj, vd = T.axis.remap("SSSR", [h, i, j, d])
            with T.init():
                s[vh, vi, vj] = T.float32(0)
            s[vh, vi, vj] = s[vh, vi, vj] + q[vi, vh * 4 + vd] * k[vj, vh * 4 + vd]


@T.prim_func(private=True, s_tir=True)
def scaled(a: T.Buffer((8, 6)), s: T.Buffer((8,)), b: T.Buffer((6, 4)), c: T.Buffer((8, 4))):
    for i, j, k in T.grid(8, 4, 6):
        with T.sblock("c"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                c[vi, vj] = T.float32(0)
            c[vi, vj] = c[vi, vj] + T.exp(a[vi, vk] / s[vi]) * b[vk, vj]


@T.prim_func(private=True, s_tir=True)
def chosen(a: T.Buffer((8,)), b: T.Buffer((8,)), w: T.Buffer((4, 2)), o: T.Buffer((8, 4))):
    for i, j, k in T.grid(8, 4, 2):
        with T.sblock("o"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                o[vi, vj] = T.float32(0)
            o[vi, vj] = o[vi, vj] + T.if_then_else(vk < 1, a[vi], b[vi]) * w[vj, vk]


@T.prim_func(private=True, s_tir=True)
def patches(x: T.Buffer((12,)), w: T.Buffer((7, 4)), o: T.Buffer((7, 3))):
    for f, y, r in T.grid(7, 3, 4):
        with T.sblock("o"):
            vf, vy, vr = T.axis.remap("SSR", [f, y, r])
            with T.init():
                o[vf, vy] = T.float32(0)
            o[vf, vy] = o[vf, vy] + x[vy * 4 + vr] * w[vf, vr]


@T.prim_func(private=True, s_tir=True)
def convolution(x: T.Buffer((8, 10)), w: T.Buffer((8, 3)), o: T.Buffer((8, 5))):
    for c, y, r in T.grid(8, 5, 3):
        with T.sblock("named_matmul"):
            vc, vy, vr = T.axis.remap("SSR", [c, y, r])
            with T.init():
                o[vc, vy] = T.float32(0)
            o[vc, vy] = (
                o[vc, vy]
                + T.if_then_else(0 < vy + vr, x[vc, vy * 2 + vr - 1], T.float32(0)) * w[vc, vr]
            )


@T.prim_func(private=True, s_tir=True)
def flat_convolution(x: T.Buffer((100,)), w: T.Buffer((6, 9)), o: T.Buffer((6, 64))):
    for f, p, r in T.grid(6, 64, 9):
        with T.sblock("o"):
            vf, vp, vr = T.axis.remap("SSR", [f, p, r])
            with T.init():
                o[vf, vp] = T.float32(0)
            o[vf, vp] = o[vf, vp] + x[vp // 8 * 10 + vp % 8 + vr // 3 * 10 + vr % 3] * w[vf, vr]


@T.prim_func(private=True, s_tir=True)
def groups(x: T.Buffer((12, 5)), w: T.Buffer((8, 6)), o: T.Buffer((8, 5))):
    for f, y, r in T.grid(8, 5, 6):
        with T.sblock("o"):
            vf, vy, vr = T.axis.remap("SSR", [f, y, r])
            with T.init():
                o[vf, vy] = T.float32(0)
            o[vf, vy] = o[vf, vy] + x[vf // 4 * 6 + vr, vy] * w[vf, vr]


@T.prim_func(private=True, s_tir=True)
def pooling(x: T.Buffer((8, 10)), o: T.Buffer((8, 4))):
    for c, y, r in T.grid(8, 4, 3):
        with T.sblock("o"):
            vc, vy, vr = T.axis.remap("SSR", [c, y, r])
            with T.init():
                o[vc, vy] = T.float32(-1)
            o[vc, vy] = T.max(o[vc, vy], x[vc, vy * 2 + vr])


@T.prim_func(private=True, s_tir=True)
def squares(x: T.Buffer((8, 10)), o: T.Buffer((8,))):
    for c, k in T.grid(8, 10):
        with T.sblock("o"):
            vc, vk = T.axis.remap("SR", [c, k])
            with T.init():
                o[vc] = T.float32(0)
            o[vc] = o[vc] + x[vc, vk] * x[vc, vk]


@T.prim_func(private=True, s_tir=True)
def transpose(x: T.Buffer((8, 10)), o: T.Buffer((10, 8))):
    for i, j in T.grid(10, 8):
        with T.sblock("matmul"):
            vi, vj = T.axis.remap("SS", [i, j])
            o[vi, vj] = x[vj, vi]


@pytest.mark.parametrize(
    "func, expected",
    [
        (product, "contraction"),
        (heads, "contraction"),
        (scaled, "contraction"),
        (chosen, "contraction"),
        (patches, "contraction"),
        (groups, "contraction"),
        (convolution, "convolution"),
        (flat_convolution, "convolution"),
        (pooling, "reduction"),
        (squares, "reduction"),
        (transpose, "elementwise"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_class_follows_from_index_maps(func, expected):
    assert class_of(read_kernel(func)) == expected


@pytest.mark.parametrize(
    "func, operations",
    [
        (product, 2 * 8 * 4 * 6 + 2 * 8 * 4),  # a multiply-add is two; an addition and a maximum
        (scaled, 2 * 8 * 4 * 6 + 2 * 8 * 6),  # what an operand is made of is computed once
        (convolution, 2 * 8 * 5 * 3),  # the choice and the indices count nothing
        (pooling, 8 * 4 * 3),
        (transpose, 0),
    ],
    ids=["product", "scaled", "convolution", "pooling", "transpose"],
)
def test_operations_are_those_of_the_function(func, operations):
    assert sum(map(operations_of, read_stages(func))) == operations
