"""Kernels that write textures, for the tests of texture stores."""

from __future__ import annotations

import tvm
from tvm.script import ir as I
from tvm.script import tirx as T


# On one line: TVM loses track of where it is after a signature that closes at the margin.
def add_one(shape, dtype="float32", scope="global.texture", kind="vectorized") -> tvm.IRModule:
    """``C = A + 1`` over a [depth, row, column, 4] texture, columns split with a guard."""
    d, h, w, c = shape
    outer = -(-w // 4)
    lane_loop = getattr(T, kind)

    @I.ir_module
    class Module:
        @T.prim_func(s_tir=True)
        def main(
            A: T.Buffer((d, h, w, c), dtype, scope=scope),
            C: T.Buffer((d, h, w, c), dtype, scope=scope),
        ):
            T.func_attr({"tirx.noalias": True})
            for z in T.thread_binding(d, thread="blockIdx.y"):
                for y in T.thread_binding(h, thread="blockIdx.x"):
                    for xo in T.serial(outer):
                        for xi in T.thread_binding(4, thread="threadIdx.x"):
                            for k in lane_loop(c):
                                with T.sblock("add"):
                                    vz, vy, vk = T.axis.remap("SSS", [z, y, k])
                                    vx = T.axis.spatial(w, xo * 4 + xi)
                                    T.where(xo * 4 + xi < w)
                                    C[vz, vy, vx, vk] = A[vz, vy, vx, vk] + T.Cast(dtype, 1)

    return Module


def conv_relu_conv(channels: int, h: int, w: int, dtype: str = "float32") -> tvm.IRModule:
    """Two 3x3 convolutions with a relu between; all tensors are [channels/4, h, w, 4] textures.

    Weights are [channels_in, 9, channels_out/4, 4] textures. The first result is a texture that
    the function allocates.
    """
    c4 = channels // 4

    @I.ir_module
    class Module:
        @T.prim_func(s_tir=True)
        def main(
            X: T.Buffer((c4, h, w, 4), dtype, scope="global.texture"),
            K1: T.Buffer((channels, 9, c4, 4), dtype, scope="global.texture-weight"),
            K2: T.Buffer((channels, 9, c4, 4), dtype, scope="global.texture-weight"),
            Z: T.Buffer((c4, h, w, 4), dtype, scope="global.texture"),
        ):
            T.func_attr({"tirx.noalias": True})
            Y = T.sblock_alloc_buffer((c4, h, w, 4), dtype, scope="global.texture")
            acc = T.sblock_alloc_buffer((4,), "float32", scope="local")
            acc2 = T.sblock_alloc_buffer((4,), "float32", scope="local")
            for o in T.thread_binding(c4, thread="blockIdx.y"):
                for y in T.thread_binding(h, thread="blockIdx.x"):
                    for x in T.thread_binding(w, thread="threadIdx.x"):
                        for k in range(4):
                            with T.sblock("init"):
                                vk = T.axis.remap("S", [k])
                                acc[vk] = T.float32(0)
                        for i, t, k in T.grid(channels, 9, 4):
                            with T.sblock("conv"):
                                vo, vy, vx, vk = T.axis.remap("SSSS", [o, y, x, k])
                                vi, vt = T.axis.remap("RR", [i, t])
                                acc[vk] = acc[vk] + T.if_then_else(
                                    1 <= vy + vt // 3
                                    and vy + vt // 3 < h + 1
                                    and 1 <= vx + vt % 3
                                    and vx + vt % 3 < w + 1,
                                    T.Cast(
                                        "float32",
                                        X[vi // 4, vy + vt // 3 - 1, vx + vt % 3 - 1, vi % 4],
                                    )
                                    * T.Cast("float32", K1[vi, vt, vo, vk]),
                                    T.float32(0),
                                )
                        for k in T.vectorized(4):
                            with T.sblock("relu"):
                                vo, vy, vx, vk = T.axis.remap("SSSS", [o, y, x, k])
                                Y[vo, vy, vx, vk] = T.Cast(dtype, T.max(acc[vk], T.float32(0)))
            for o in T.thread_binding(c4, thread="blockIdx.y"):
                for y in T.thread_binding(h, thread="blockIdx.x"):
                    for x in T.thread_binding(w, thread="threadIdx.x"):
                        for k in range(4):
                            with T.sblock("init2"):
                                vk = T.axis.remap("S", [k])
                                acc2[vk] = T.float32(0)
                        for i, t, k in T.grid(channels, 9, 4):
                            with T.sblock("conv2"):
                                vo, vy, vx, vk = T.axis.remap("SSSS", [o, y, x, k])
                                vi, vt = T.axis.remap("RR", [i, t])
                                acc2[vk] = acc2[vk] + T.if_then_else(
                                    1 <= vy + vt // 3
                                    and vy + vt // 3 < h + 1
                                    and 1 <= vx + vt % 3
                                    and vx + vt % 3 < w + 1,
                                    T.Cast(
                                        "float32",
                                        Y[vi // 4, vy + vt // 3 - 1, vx + vt % 3 - 1, vi % 4],
                                    )
                                    * T.Cast("float32", K2[vi, vt, vo, vk]),
                                    T.float32(0),
                                )
                        for k in T.vectorized(4):
                            with T.sblock("out"):
                                vo, vy, vx, vk = T.axis.remap("SSSS", [o, y, x, k])
                                Z[vo, vy, vx, vk] = T.Cast(dtype, acc2[vk])

    return Module


def two_texels() -> tvm.IRModule:
    """``A + 1`` and ``A * 2`` side by side in an image, through one register."""

    @I.ir_module
    class Module:
        @T.prim_func(s_tir=True)
        def main(
            A: T.Buffer((5, 4), "float32"),
            C: T.Buffer((1, 5, 2, 4), "float32", scope="global.texture"),
        ):
            T.func_attr({"tirx.noalias": True})
            for y in T.thread_binding(5, thread="blockIdx.x"):
                with T.sblock("texels"):
                    T.reads()
                    T.writes()
                    vy = T.axis.spatial(5, y)
                    kept = T.sblock_alloc_buffer((4,), "float32", scope="local")
                    for k in T.vectorized(4):
                        kept[k] = A[vy, k] + T.float32(1)
                    C[0, vy, 0, T.ramp(0, 1, 4)] = kept[T.ramp(0, 1, 4)]
                    for k in T.vectorized(4):
                        kept[k] = A[vy, k] * T.float32(2)
                    C[0, vy, 1, T.ramp(0, 1, 4)] = kept[T.ramp(0, 1, 4)]

    return Module
