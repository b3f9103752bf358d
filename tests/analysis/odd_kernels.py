"""Kernels as TVM's legalisation makes them, and some as it never would, for the tests of classes.

All functions are called ``main``: nothing in a name says what they do.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, te, tirx
from tvm.script import tirx as T


def legalised(body: Any, *shapes: Any) -> tirx.PrimFunc:
    """The one PrimFunc that an operator becomes; a shape with a dtype is (shape, dtype)."""
    builder = relax.BlockBuilder()
    params = []
    for number, shape in enumerate(shapes):
        shape, dtype = shape if shape and isinstance(shape[-1], str) else (shape, "float32")
        params.append(relax.Var(f"x{number}", relax.TensorType(list(shape), dtype)))
    with builder.function("main", params):
        with builder.dataflow():
            made = builder.emit_output(builder.normalize(body(*params)))
        builder.emit_func_output(made)
    with tvm.target.Target("llvm"):
        mod = relax.transform.LegalizeOps()(builder.get())
    (func,) = [f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc)]
    return func


@T.prim_func(s_tir=True)
def rotary(
    X: T.Buffer((4, 6, 8), "float32"),
    C: T.Buffer((6, 4), "float32"),
    S: T.Buffer((6, 4), "float32"),
    Y: T.Buffer((4, 6, 8), "float32"),
):
    for h, t, d in T.grid(4, 6, 8):
        with T.sblock("main"):
            vh, vt, vd = T.axis.remap("SSS", [h, t, d])
            Y[vh, vt, vd] = X[vh, vt, vd] * C[vt, vd % 4] + S[vt, vd % 4] * T.if_then_else(
                vd < 4, T.float32(0) - X[vh, vt, vd + 4], X[vh, vt, vd - 4]
            )


@T.prim_func(s_tir=True)
def scan(X: T.Buffer((8, 16), "float32"), Y: T.Buffer((8, 16), "float32")):
    for r, t in T.grid(8, 16):
        with T.sblock("main"):
            vr = T.axis.spatial(8, r)
            vt = T.axis.opaque(16, t)
            Y[vr, vt] = X[vr, vt] + T.if_then_else(vt > 0, Y[vr, vt - 1], T.float32(0))


@T.prim_func(s_tir=True)
def scan_of_spatial_axes(X: T.Buffer((8, 16), "float32"), Y: T.Buffer((8, 16), "float32")):
    for r, t in T.grid(8, 16):
        with T.sblock("main"):
            vr, vt = T.axis.remap("SS", [r, t])
            Y[vr, vt] = X[vr, vt] + T.if_then_else(vt > 0, Y[vr, vt - 1], T.float32(0))


@T.prim_func(s_tir=True)
def pixel_shuffle(X: T.Buffer((1, 8, 3, 5), "float32"), Y: T.Buffer((1, 2, 6, 10), "float32")):
    for n, c, h, w in T.grid(1, 2, 6, 10):
        with T.sblock("main"):
            vn, vc, vh, vw = T.axis.remap("SSSS", [n, c, h, w])
            Y[vn, vc, vh, vw] = X[vn, vc * 4 + vh % 2 * 2 + vw % 2, vh // 2, vw // 2]


@T.prim_func(s_tir=True)
def scaled_pixel_shuffle(
    X: T.Buffer((1, 8, 3, 5), "float32"), Y: T.Buffer((1, 2, 6, 10), "float32")
):
    for n, c, h, w in T.grid(1, 2, 6, 10):
        with T.sblock("main"):
            vn, vc, vh, vw = T.axis.remap("SSSS", [n, c, h, w])
            Y[vn, vc, vh, vw] = X[vn, vc * 4 + vh % 2 * 2 + vw % 2, vh // 2, vw // 2] * T.float32(
                0.5
            )


@T.prim_func(s_tir=True)
def choice_by_data(
    M: T.Buffer((8,), "bool"), X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")
):
    for i in range(8):
        with T.sblock("main"):
            vi = T.axis.spatial(8, i)
            Y[vi] = T.if_then_else(M[vi], X[vi], T.float32(0))


@T.prim_func(s_tir=True)
def argmax(
    X: T.Buffer((8, 16), "float32"), N: T.Buffer((8,), "int64"), V: T.Buffer((8,), "float32")
):
    for r, k in T.grid(8, 16):
        with T.sblock("main"):
            vr, vk = T.axis.remap("SR", [r, k])
            with T.init():
                N[vr] = T.int64(-1)
                V[vr] = T.min_value("float32")
            N[vr] = T.Select(V[vr] >= X[vr, vk], N[vr], T.Cast("int64", vk))
            V[vr] = T.Select(V[vr] >= X[vr, vk], V[vr], X[vr, vk])


@T.prim_func(s_tir=True)
def guarded_block(X: T.Buffer((10,), "float32"), Y: T.Buffer((10,), "float32")):
    for o, i in T.grid(3, 4):
        with T.sblock("main"):
            vi = T.axis.spatial(10, o * 4 + i)
            T.where(o * 4 + i < 10)
            Y[vi] = X[vi] + T.float32(1)


@T.prim_func(s_tir=True)
def guarded_loop(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.sblock("main"):
            vi = T.axis.spatial(8, i)
            T.where(i < 5)
            Y[vi] = X[vi] + T.float32(1)


@T.prim_func(s_tir=True)
def tiled(X: T.Buffer((12,), "float32"), Y: T.Buffer((12,), "float32")):
    for o, i in T.grid(3, 4):
        with T.sblock("main"):
            vi = T.axis.spatial(12, o * 4 + i)
            Y[vi] = X[vi] + T.float32(1)


@T.prim_func(s_tir=True)
def bound_to_threads(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
    for i in T.thread_binding(8, thread="threadIdx.x"):
        with T.sblock("main"):
            vi = T.axis.spatial(8, i)
            Y[vi] = X[vi] + T.float32(1)


@T.prim_func(s_tir=True)
def written_in_halves(X: T.Buffer((8,), "float32"), Y: T.Buffer((16,), "float32")):
    for i in range(8):
        with T.sblock("low"):
            vi = T.axis.spatial(8, i)
            Y[vi] = X[vi]
    for i in range(8):
        with T.sblock("high"):
            vi = T.axis.spatial(8, i)
            Y[vi + 8] = X[vi]


@T.prim_func(s_tir=True)
def conditional_start(X: T.Buffer((8, 16), "float32"), Y: T.Buffer((8,), "float32")):
    for r, k in T.grid(8, 16):
        with T.sblock("main"):
            vr, vk = T.axis.remap("SR", [r, k])
            with T.init():
                if vr < 4:
                    Y[vr] = T.float32(0)
            Y[vr] = Y[vr] + X[vr, vk]


@T.prim_func(s_tir=True)
def no_start(X: T.Buffer((8, 16), "float32"), Y: T.Buffer((8,), "float32")):
    for r, k in T.grid(8, 16):
        with T.sblock("main"):
            vr, vk = T.axis.remap("SR", [r, k])
            Y[vr] = Y[vr] + X[vr, vk]


@T.prim_func(s_tir=True)
def neighbours_in_a_reduction(X: T.Buffer((8, 16), "float32"), Y: T.Buffer((8,), "float32")):
    for r, k in T.grid(8, 16):
        with T.sblock("main"):
            vr, vk = T.axis.remap("SR", [r, k])
            with T.init():
                Y[vr] = T.float32(0)
            Y[vr] = Y[(vr + 1) % 8] + X[vr, vk]


@T.prim_func(s_tir=True)
def extern_call(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
    with T.sblock("main"):
        T.reads(X[0:8])
        T.writes(Y[0:8])
        T.evaluate(T.call_extern("int32", "sort", X.data, Y.data))


@T.prim_func(s_tir=True)
def scatter(X: T.Buffer((8,), "float32"), N: T.Buffer((8,), "int64"), Y: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.sblock("main"):
            vi = T.axis.spatial(8, i)
            Y[N[vi]] = X[vi]


@T.prim_func(s_tir=True)
def swapped_in_place(
    X: T.Buffer((8, 16), "float32"), A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")
):
    for r, k in T.grid(8, 16):
        with T.sblock("main"):
            vr, vk = T.axis.remap("SR", [r, k])
            with T.init():
                A[vr] = T.float32(0)
                B[vr] = T.float32(1)
            A[vr] = B[vr] + X[vr, vk]
            B[vr] = A[vr]


@T.prim_func(s_tir=True)
def unused_loop(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
    for i, _ in T.grid(8, 4):
        with T.sblock("main"):
            vi = T.axis.spatial(8, i)
            Y[vi] = X[vi] + T.float32(1)


def weighted_distance() -> tirx.PrimFunc:
    """Kernel of tensor expressions that no model has: a sum of sums."""
    x = te.placeholder((7, 9), name="x")
    y = te.placeholder((5, 9), name="y")
    k, j = te.reduce_axis((0, 9), "k"), te.reduce_axis((0, 5), "j")
    distance = te.compute(
        (7, 5), lambda a, b: te.sum(tirx.abs(x[a, k] - y[b, k]) * (k + 1).astype("float32"), axis=k)
    )
    total = te.compute((7,), lambda a: te.sum(distance[a, j], axis=j))
    result = te.compute((7, 5), lambda a, b: distance[a, b] / total[a])
    return te.create_prim_func([x, y, result])


def tuple_reduction() -> tirx.PrimFunc:
    """Largest and smallest element of each row in one reduction."""
    x = te.placeholder((6, 10), name="x")
    k = te.reduce_axis((0, 10), "k")

    def combine(one, other):
        return te.max(one[0], other[0]), te.min(one[1], other[1])

    reducer = te.comm_reducer(
        lambda a, b: (tirx.max(a[0], b[0]), tirx.min(a[1], b[1])),
        lambda one, other: (tvm.tirx.min_value(one), tvm.tirx.max_value(other)),
        name="extremes",
    )
    largest, smallest = te.compute((6,), lambda r: reducer((x[r, k], x[r, k]), axis=k))
    return te.create_prim_func([x, largest, smallest])
