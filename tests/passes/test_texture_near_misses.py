"""StageTextureStores: stores that look stageable and are not, beside near relatives that are."""

from __future__ import annotations

import pytest
import tvm
from tvm.s_tir import SBlockRealize
from tvm.script import tirx as T
from tvm_ffi import structural_walk

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.passes import StageTextureStores

TEXTURE = "global.texture"


def _reduction_with_init():
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((8, 9, 4), "float32"), C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for r, k in T.grid(9, 4):
                with T.sblock("c"):
                    vi, vk, vr = T.axis.remap("SSR", [i, k, r])
                    with T.init():
                        C[vi, 0, vk] = T.float32(0)
                    C[vi, 0, vk] = A[vi, vr, vk]

    return main


def _sum_in_the_image():
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((8, 9, 4), "float32"), C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for r, k in T.grid(9, 4):
                with T.sblock("c"):
                    vi, vk, vr = T.axis.remap("SSR", [i, k, r])
                    with T.init():
                        C[vi, 0, vk] = T.float32(0)
                    C[vi, 0, vk] = C[vi, 0, vk] + A[vi, vr, vk]

    return main


def _carried_from_lane_to_lane():
    @T.prim_func
    def main(C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                C[i, 0, k] = T.if_then_else(k > 0, C[i, 0, k - 1], T.float32(1))

    return main


def _inner_loop_as_long_as_the_lane():
    @T.prim_func
    def main(A: T.Buffer((8, 4, 4), "float32"), C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                for r in range(k):
                    C[i, 0, k] = A[i, r, k]

    return main


def _inner_loop_as_long_as_the_data():
    @T.prim_func
    def main(N: T.Buffer((8,), "int32"), C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                for _r in range(N[i]):
                    C[i, 0, k] = T.float32(1)

    return main


def _every_second_lane():
    @T.prim_func
    def main(C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in T.serial(0, 4, step=2):
                C[i, 0, k] = T.float32(1)

    return main


def _lane_skipped():
    @T.prim_func
    def main(C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                if k == 2:
                    T.evaluate(T.continue_loop())
                C[i, 0, k] = T.float32(1)

    return main


def _opposite_directions():
    @T.prim_func
    def main(A: T.Buffer((8, 2, 4), "float32"), C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                C[i, 0, k] = A[i, 0, k]
                C[i, 0, 3 - k] = A[i, 1, k]

    return main


def _whole_texel_in_lane_loop():
    @T.prim_func
    def main(A: T.Buffer((8, 2, 4), "float32"), C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                C[i, 0, k] = A[i, 0, k]
                C[i, 0, T.ramp(0, 1, 4)] = T.broadcast(A[i, 1, k], 4)

    return main


def _lane_loop_in_lane_loop():
    @T.prim_func
    def main(A: T.Buffer((8, 2, 4), "float32"), C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                C[i, 0, k] = A[i, 0, k]
                for m in range(4):
                    C[i, 0, m] = A[i, 1, m]

    return main


def _in_vectorized_loop():
    @T.prim_func
    def main(A: T.Buffer((8, 4, 4), "float32"), C: T.Buffer((8, 4, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for j in T.vectorized(4):
                for k in range(4):
                    C[i, j, k] = A[i, j, k]

    return main


def _work_items_share_a_texel():
    @T.prim_func
    def main(A: T.Buffer((8, 1, 4), "float32"), C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for b in T.thread_binding(8, thread="blockIdx.x"):
            for i in T.thread_binding(8, thread="threadIdx.x"):
                for k in range(4):
                    C[b, 0, k] = A[i, 0, k]

    return main


def _work_items_share_a_whole_texel():
    @T.prim_func
    def main(A: T.Buffer((8, 1, 4), "float32"), C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for b in T.thread_binding(8, thread="blockIdx.x"):
            for i in T.thread_binding(8, thread="threadIdx.x"):
                C[b, 0, T.ramp(0, 1, 4)] = A[i, 0, T.ramp(0, 1, 4)]

    return main


def _work_items_share_the_lanes():
    @T.prim_func
    def main(A: T.Buffer((8, 1, 4), "float32"), C: T.Buffer((4, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                if k // 2 == i % 2:
                    C[i // 2, 0, k] = A[i, 0, k]

    return main


def _lanes_rotated_by_work_item():
    @T.prim_func
    def main(A: T.Buffer((8, 1, 4), "float32"), C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                C[i, 0, (i + k) % 4] = A[i, 0, k]

    return main


def _threads_inside_lane_loop():
    @T.prim_func
    def main(A: T.Buffer((8, 4), "float32"), C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for b in T.thread_binding(1, thread="blockIdx.x"):
            for k in range(4):
                with T.launch_thread("threadIdx.x", 8) as t:
                    C[t, b, k] = A[t, k]

    return main


def _second_name():
    @T.prim_func
    def main(C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        D = T.decl_buffer((8, 1, 4), "float32", data=C.data, scope=TEXTURE)
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                D[i, 0, k] = C[i, 0, k] + T.float32(1)

    return main


def _pointer():
    @T.prim_func
    def main(C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                C[i, 0, k] = T.call_extern("float32", "first", C.access_ptr("r"))

    return main


@pytest.mark.parametrize(
    "make,reason",
    [
        (_reduction_with_init, "the init of block 'c' stores to it.*local buffer"),
        (_sum_in_the_image, "the same kernel also reads this image"),
        (_carried_from_lane_to_lane, "the same kernel also reads this image"),
        (_inner_loop_as_long_as_the_lane, "a condition on lane 'k'"),
        (_inner_loop_as_long_as_the_data, "depends on the data in 'N'"),
        (_every_second_lane, "the loop 'k' over its lanes has extent 4 and step 2"),
        (_lane_skipped, r"continue_loop\(\) may leave the loop 'k' over its lanes early"),
        (_opposite_directions, "loop 'k'.*several stores.*loop over the lanes of its own"),
        (_whole_texel_in_lane_loop, "loop 'k' over its lanes has several stores"),
        (_lane_loop_in_lane_loop, "loop 'k' over its lanes has several stores"),
        (_in_vectorized_loop, "loop 'k' over its lanes is inside the vectorized loop 'j'"),
        (_work_items_share_a_texel, "every work-item of threadIdx.x writes the same texels"),
        (_work_items_share_a_whole_texel, "every work-item of threadIdx.x writes the same"),
        (_work_items_share_the_lanes, "a condition on lane 'k'"),
        (_lanes_rotated_by_work_item, "does not cover the four lanes of one texel"),
        (_threads_inside_lane_loop, "loop 't' walks over texels inside the loop 'k' over lanes"),
        (_second_name, "takes a pointer to it or declares it over other data"),
        (_pointer, "takes a pointer to it or declares it over other data"),
    ],
)
def test_refused(make, reason):
    with pytest.raises(SmartMemError, match=rf"(?s)cannot write texture '[CD]' .*{reason}"):
        StageTextureStores()(tvm.IRModule({"main": make()}))


def _staged(func) -> str:
    after = StageTextureStores()(tvm.IRModule({"main": func}))
    tvm.ir.assert_structural_equal(StageTextureStores()(after), after)
    return after.script()


def test_inner_loop_that_may_be_empty_guards_the_texel():
    @T.prim_func
    def main(n: T.int32, C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                for r in range(n):
                    C[i, 0, k] = T.Cast("float32", r)

    _, guard, texel = _staged(main).rpartition("if 0 < n:")
    assert guard
    assert texel.strip() == "C[i, 0, 0:4] = C_texel[T.Ramp(0, 1, 4)]"


def test_two_stores_to_one_texel_keep_their_order():
    @T.prim_func
    def main(C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                C[i, 0, k] = T.float32(1)
                if i < 4:
                    C[i, 0, k] = T.float32(2)

    text = _staged(main)
    first, second = "C[i, 0, 0:4] = C_texel[", "C[i, 0, 0:4] = C_texel_1["
    assert text.index("C_texel[k] = T.float32(1.0)") < text.index("C_texel_1[k] = T.float32(2.0)")
    assert text.index(first) < text.rindex("if i < 4:") < text.index(second)


def test_stores_of_one_block_to_two_textures():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((8, 2, 4), "float32", scope=TEXTURE), D: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):  # noqa: E501  # fmt: skip
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                with T.sblock("both"):
                    vi, vk = T.axis.remap("SS", [i, k])
                    C[vi, 0, vk] = T.float32(1)
                    D[vi, 0, 3 - vk] = T.float32(2)
                    C[vi, 1, vk] = T.float32(3)

    after = StageTextureStores()(tvm.IRModule({"main": main}))
    assert tvm.s_tir.analysis.verify_well_formed(after)
    writes = []
    structural_walk(
        after["main"].body,
        (SBlockRealize, lambda r: writes.append([w.source.name for w in r.block.writes])),
    )
    assert sorted(writes, key=len) == [[], ["C"], ["D"], ["C"], ["C_texel", "C_texel", "D_texel"]]


def test_one_work_item_may_store_for_all():
    @T.prim_func
    def main(C: T.Buffer((8, 1, 4), "float32", scope=TEXTURE)):
        for b in T.thread_binding(8, thread="blockIdx.x"):
            for i in T.thread_binding(8, thread="threadIdx.x"):
                if i == 0:
                    for k in T.vectorized(4):
                        C[b, 0, k] = T.float32(1)

    assert "C[b, 0, 0:4] = C_texel[" in _staged(main)


def test_narrow_loops_over_a_wide_shape():
    @T.prim_func(s_tir=True)
    def main(C: T.Buffer((T.int64(8), T.int64(3), T.int64(4)), "float32", scope=TEXTURE)):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(4):
                with T.sblock("c"):
                    vi, vk = T.axis.remap("SS", [i, k])
                    C[vi, 2, vk] = T.float32(1)

    text = _staged(main)
    assert 'T.axis.spatial(T.int64(8), T.Cast("int64", i))' in text
    assert "T.axis.spatial(T.int64(3), T.int64(2))" in text
