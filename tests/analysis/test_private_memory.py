from __future__ import annotations

import pytest
from tvm.script import tirx as T

from smartmem_tvm.analysis import foreign_local_read


def kernel(read, extent=7, groups=3):
    """Two nests: work-item tx writes L[2 * tx], L[2 * tx + 1]; the second reads at ``read``."""
    n = 2 * extent

    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((groups, n), "float32"), C: T.Buffer((groups, n), "float32")):
        T.func_attr({"tirx.noalias": True})
        L = T.sblock_alloc_buffer((groups, n), "float32", scope="local")
        for b in T.thread_binding(groups, thread="blockIdx.x"):
            for tx in T.thread_binding(extent, thread="threadIdx.x"):
                for i in range(2):
                    with T.sblock("write"):
                        vb = T.axis.spatial(groups, b)
                        v = T.axis.spatial(n, tx * 2 + i)
                        L[vb, v] = A[vb, v] + T.float32(1)
            for ty in T.thread_binding(extent, thread="threadIdx.x"):
                for j in range(2):
                    with T.sblock("read"):
                        wb = T.axis.spatial(groups, b)
                        w = T.axis.spatial(n, read(ty, j, b))
                        C[wb, w] = L[wb, w]

    return main


@pytest.mark.parametrize(
    "read", [lambda t, j, b: t * 2 + j, lambda t, j, b: t * 2 + 1 - j, lambda t, j, b: t * 2]
)
def test_own_elements_in_any_order(read):
    assert foreign_local_read(kernel(read)) is None


@pytest.mark.parametrize(
    "read",
    [
        lambda t, j, b: (6 - t) * 2 + j,
        lambda t, j, b: t + j * 7,
        lambda t, j, b: (t * 2 + j + 1) % 14,
        lambda t, j, b: (t * 2 + j + b * 2) % 14,  # right in the first group only
    ],
)
def test_elements_of_other_work_items(read):
    assert "local buffer 'L'" in foreign_local_read(kernel(read))


def test_a_reduction_over_work_items_leaves_its_result_with_all_of_them():
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4, 8), "float32"), C: T.Buffer((4,), "float32")):
        P = T.sblock_alloc_buffer((8, 4), "float32", scope="local")
        R = T.sblock_alloc_buffer((4,), "float32", scope="local")
        for _ in T.thread_binding(1, thread="blockIdx.x"):
            for tx in T.thread_binding(4, thread="threadIdx.x"):
                for ty in T.thread_binding(8, thread="threadIdx.y"):
                    with T.sblock("partial"):
                        vx, vy = T.axis.remap("SS", [tx, ty])
                        P[vy, vx] = A[vx, vy]
            for tx in T.thread_binding(4, thread="threadIdx.x"):
                for ty in T.thread_binding(8, thread="threadIdx.y"):
                    with T.sblock("all"):
                        vx, vy = T.axis.remap("SR", [tx, ty])
                        with T.init():
                            R[vx] = T.float32(0)
                        R[vx] = R[vx] + P[vy, vx]
            for tx in T.thread_binding(4, thread="threadIdx.x"):
                with T.sblock("out"):
                    vx = T.axis.spatial(4, tx)
                    C[vx] = R[vx]

    assert foreign_local_read(main) is None


def test_nothing_is_claimed_of_what_depends_on_data():
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((4,), "int32"), C: T.Buffer((4,), "int32")):
        L = T.sblock_alloc_buffer((4,), "int32", scope="local")
        for _ in T.thread_binding(1, thread="blockIdx.x"):
            for tx in T.thread_binding(4, thread="threadIdx.x"):
                with T.sblock("write"):
                    v = T.axis.spatial(4, tx)
                    L[v] = A[v]
            for tx in T.thread_binding(4, thread="threadIdx.x"):
                with T.sblock("read"):
                    w = T.axis.spatial(4, tx)
                    C[w] = L[A[w]]

    assert foreign_local_read(main) is None
