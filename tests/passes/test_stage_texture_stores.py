"""StageTextureStores: what is rewritten, into what, and what is refused with which reason."""

from __future__ import annotations

import pytest
import tvm
from tvm.script import ir as I
from tvm.script import tirx as T
from tvm_ffi import structural_walk

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.passes import StageTextureStores

TEXTURE = "global.texture"


def test_lane_loop_is_staged():
    @I.ir_module
    class Before:
        @T.prim_func(s_tir=True)
        def main(
            A: T.Buffer((8, 5, 4), "float32"), C: T.Buffer((8, 5, 4), "float32", scope=TEXTURE)
        ):
            for i in T.thread_binding(8, thread="blockIdx.x"):
                for j in T.thread_binding(5, thread="threadIdx.x"):
                    for k in T.vectorized(4):
                        with T.sblock("c"):
                            vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                            C[vi, vj, vk] = A[vi, vj, vk] + T.float32(1)

    @I.ir_module
    class Expected:
        @T.prim_func(s_tir=True)
        def main(
            A: T.Buffer((8, 5, 4), "float32"), C: T.Buffer((8, 5, 4), "float32", scope=TEXTURE)
        ):
            C_texel = T.sblock_alloc_buffer((4,), scope="local")
            for i in T.thread_binding(8, thread="blockIdx.x"):
                for j in T.thread_binding(5, thread="threadIdx.x"):
                    for k in T.vectorized(4):
                        with T.sblock("c"):
                            vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                            T.reads(A[vi, vj, vk])
                            T.writes(C_texel[0:4])
                            C_texel[vk] = A[vi, vj, vk] + T.float32(1)
                    with T.sblock("C_texel_store"):
                        v0, v1 = T.axis.remap("SS", [i, j])
                        T.reads(C_texel[0:4])
                        T.writes(C[v0, v1, 0:4])
                        C[v0, v1, T.ramp(0, 1, 4)] = C_texel[T.ramp(0, 1, 4)]

    after = StageTextureStores()(Before)
    tvm.ir.assert_structural_equal(after, Expected)
    assert tvm.s_tir.analysis.verify_well_formed(after)
    tvm.ir.assert_structural_equal(StageTextureStores()(after), after)  # nothing left to do


def test_fused_loop_and_guard_are_understood():
    """Lanes come out of a fused loop; the guard that all lanes share moves to the texel store."""

    @I.ir_module
    class Before:
        @T.prim_func(s_tir=True)
        def main(A: T.Buffer((28,), "float32"), C: T.Buffer((7, 1, 4), "float32", scope=TEXTURE)):
            for t in T.thread_binding(8, thread="threadIdx.x"):
                for k in T.vectorized(4):
                    with T.sblock("c"):
                        vf = T.axis.spatial(28, t * 4 + k)
                        T.where(t < 7)
                        C[vf // 4, 0, vf % 4] = A[vf]

    after = StageTextureStores()(Before)
    blocks = {}
    structural_walk(
        after["main"].body,
        (tvm.s_tir.SBlockRealize, lambda r: blocks.update({r.block.name_hint: r})),
    )
    store = blocks["C_texel_store"]
    assert str(store.predicate) == "t < 7"
    assert [str(value) for value in store.iter_values] == ["t", "0"]


def test_plain_loops_without_blocks():
    @I.ir_module
    class Before:
        @T.prim_func
        def main(
            A: T.Buffer((8, 5, 4), "float32"), C: T.Buffer((8, 5, 4), "float32", scope=TEXTURE)
        ):
            for i in T.thread_binding(8, thread="blockIdx.x"):
                for j in T.thread_binding(5, thread="threadIdx.x"):
                    for k in T.serial(4):
                        if i < 7:
                            C[i, j, k] = A[i, j, k]

    text = StageTextureStores()(Before).script()
    assert "C_texel[k] = A[i, j, k]" in text
    assert "C[i, j, 0:4] = C_texel[T.Ramp(0, 1, 4)]" in text


def test_buffers_are_left_alone():
    @I.ir_module
    class Before:
        @T.prim_func(s_tir=True)
        def main(A: T.Buffer((8, 4), "float32", scope=TEXTURE), C: T.Buffer((8, 4), "float32")):
            for i, k in T.grid(8, 4):
                with T.sblock("c"):
                    vi, vk = T.axis.remap("SS", [i, k])
                    C[vi, vk] = A[vi, vk]

    tvm.ir.assert_structural_equal(StageTextureStores()(Before), Before)


def _lane_extent():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 4, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for f in T.serial(16):
                with T.sblock("c"):
                    vi, vf = T.axis.remap("SS", [i, f])
                    C[vi, vf // 4, vf % 4] = T.float32(1)

    return main


def _part_of_texel():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 4, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in T.vectorized(2):
                with T.sblock("c"):
                    vi = T.axis.remap("S", [i])
                    vk = T.axis.spatial(4, k)
                    C[vi, 0, vk] = T.float32(1)

    return main


def _misaligned():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 4, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(3, thread="threadIdx.x"):
            for k in T.vectorized(4):
                with T.sblock("c"):
                    vf = T.axis.spatial(16, i * 4 + k + 2)
                    C[0, vf // 4, vf % 4] = T.float32(1)

    return main


def _lanes_on_threads():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 4, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="blockIdx.x"):
            for k in T.thread_binding(4, thread="threadIdx.x"):
                with T.sblock("c"):
                    vi, vk = T.axis.remap("SS", [i, k])
                    C[vi, 0, vk] = T.float32(1)

    return main


def _condition_per_lane():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 4, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in T.serial(4):
                with T.sblock("c"):
                    vi, vk = T.axis.remap("SS", [i, k])
                    T.where(i * 4 + k < 30)
                    C[vi, 0, vk] = T.float32(1)

    return main


def _reads_and_writes():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 4, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in T.serial(4):
                with T.sblock("c"):
                    vi, vk = T.axis.remap("SS", [i, k])
                    C[vi, 0, vk] = C[vi, 1, vk]

    return main


def _single_lane():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 4, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            with T.sblock("c"):
                vi = T.axis.remap("S", [i])
                C[vi, 0, 0] = T.float32(1)

    return main


def _lane_loop_outside():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 6, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k, j in T.grid(4, 6):
                with T.sblock("c"):
                    vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                    C[vi, vj, vk] = T.float32(1)

    return main


def _eight_lanes():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 4, 8), "float16", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in T.vectorized(8):
                with T.sblock("c"):
                    vi, vk = T.axis.remap("SS", [i, k])
                    C[vi, 0, vk] = T.float16(1)

    return main


def _integers():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 4, 4), "int32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in T.vectorized(4):
                with T.sblock("c"):
                    vi, vk = T.axis.remap("SS", [i, k])
                    C[vi, 0, vk] = 1

    return main


def _scattered():
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((8,), "int32"), C: T.Buffer((8, 4, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in T.vectorized(4):
                with T.sblock("c"):
                    vi, vk = T.axis.remap("SS", [i, k])
                    C[A[vi], 0, vk] = T.float32(1)

    return main


def _half_ramp():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 4, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            with T.sblock("c"):
                vi = T.axis.remap("S", [i])
                C[vi, 0, T.ramp(2, 1, 2)] = T.broadcast(T.float32(1), 2)

    return main


@pytest.mark.parametrize(
    "make,reason",
    [
        (_lane_extent, "the loop 'f' over its lanes has extent 16.*split the loop by 4"),
        (_part_of_texel, "the loop 'k' over its lanes has extent 2"),
        (_misaligned, "does not cover the four lanes of one texel"),
        (_lanes_on_threads, "lanes are spread over the work-items of threadIdx.x"),
        (_condition_per_lane, "a condition on lane 'k'.*select the value"),
        (_reads_and_writes, "the same kernel also reads this image.*local buffer"),
        (_single_lane, "no loop over the lanes of a texel surrounds the store to lane 0"),
        (_lane_loop_outside, "loop 'j' walks over texels inside the loop 'k' over lanes"),
        (_eight_lanes, "its last dimension is 8, a texel has 4 lanes"),
        (_integers, "texels of int32 are not written exactly"),
        (_scattered, "where it is stored depends on the data in 'A'"),
        (_half_ramp, "is not a whole texel"),
    ],
)
def test_refused_with_kernel_buffer_reason_remedy(make, reason):
    mod = tvm.IRModule({"my_kernel": make().with_attr("global_symbol", "my_kernel")})
    message = rf"(?s)'my_kernel' cannot write texture 'C' .*{reason}"
    with pytest.raises(SmartMemError, match=message):
        StageTextureStores()(mod)


def test_view_of_a_texture_is_refused():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 4, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            with T.sblock("c"):
                vi = T.axis.remap("S", [i])
                T.writes(C[vi, 0:4, 0:4])
                D = T.match_buffer(
                    C[vi, 0:4, 0:4], (1, 4, 4), scope=TEXTURE, offset_factor=1, strides=(16, 4, 1)
                )
                for k in range(4):
                    D[0, 0, k] = T.float32(1)

    with pytest.raises(SmartMemError, match="takes a view of it"):
        StageTextureStores()(tvm.IRModule({"main": main}))
