"""Launches, layout-only launches and footprint traffic of single functions."""

from __future__ import annotations

import pytest
import tvm
from tvm.script import tirx as T

from smartmem_tvm.analysis import (
    accesses_outside_launches,
    find_launches,
    footprint_bytes,
    is_host_function,
    is_layout_only,
)


@T.prim_func(s_tir=True)
def two_kernels(
    A: T.Buffer((8, 4), "float32"), B: T.Buffer((8, 4), "float32"), C: T.Buffer((8, 4), "float32")
):
    for _ in range(3):
        for i in T.thread_binding(8, thread="blockIdx.x"):
            for j in T.thread_binding(4, thread="threadIdx.x"):
                with T.sblock("b"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    B[vi, vj] = A[vi, vj]
    for i in T.thread_binding(8, thread="blockIdx.x"):
        for j in T.thread_binding(4, thread="threadIdx.x"):
            for k in T.thread_binding(2, thread="threadIdx.y"):
                with T.sblock("c"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    T.where(k < 1)
                    C[vi, vj] = B[vi, vj] * T.float32(2)


def test_launches_and_host_loops():
    first, second = find_launches(two_kernels)
    assert (first.repeats, second.repeats) == (3, 1)
    assert (first.work_group(), second.work_group()) == (4, 8)
    assert accesses_outside_launches(two_kernels) == []
    assert is_layout_only(first.body)
    assert not is_layout_only(second.body)


def test_host_functions_by_target_and_attribute():
    assert is_host_function(two_kernels, tvm.target.Target("llvm"))
    assert not is_host_function(two_kernels, tvm.target.Target("opencl"))
    assert not is_host_function(two_kernels)
    assert is_host_function(two_kernels.with_attr("tirx.is_host_func", True))


def _kernel(body: str, **shapes):
    """One-launch function over `i` in 64, from the body of its block."""
    params = ", ".join(
        f'{name}: T.Buffer({shape}, "{dtype}")' for name, (shape, dtype) in shapes.items()
    )
    lines = "\n".join(f"            {line}" for line in body.splitlines())
    source = (
        f"@T.prim_func(s_tir=True)\ndef main({params}):\n"
        f'    for i in T.thread_binding(64, thread="threadIdx.x"):\n'
        f'        with T.sblock("b"):\n'
        f'            v = T.axis.remap("S", [i])\n{lines}\n'
    )
    func = tvm.script.from_source(source)
    [launch] = find_launches(func)
    return launch


F = "float32"


@pytest.mark.parametrize(
    "body,shapes,layout_only,footprint",
    [
        ("C[v] = A[v]", {"A": ((64,), F), "C": ((64,), F)}, True, 512),
        ("C[v // 8, v % 8] = A[v % 8, v // 8]", {"A": ((8, 8), F), "C": ((8, 8), F)}, True, 512),
        ("C[v] = A[v * 2]", {"A": ((128,), F), "C": ((64,), F)}, True, 512),
        ("C[v] = A[v // 8]", {"A": ((8,), F), "C": ((64,), F)}, True, 32 + 256),
        ("C[v] = A[v, 3]", {"A": ((64, 9), "float16"), "C": ((64,), "float16")}, True, 256),
        ("C[v] = A[I[v]]", {"A": ((1000,), F), "I": ((64,), "int32"), "C": ((64,), F)}, True, 768),
        (
            "C[v] = T.if_then_else(1 <= v and v < 63, A[v - 1], T.float32(0))",
            {"A": ((62,), F), "C": ((64,), F)},
            True,
            62 * 4 + 256,
        ),
        (
            "C[v] = T.if_then_else(v < 32, A[v], B[v - 32])",
            {"A": ((32,), F), "B": ((32,), F), "C": ((64,), F)},
            True,
            512,
        ),
        (
            "C[v] = T.Select(v < 32, A[v], T.float32(1))",
            {"A": ((64,), F), "C": ((64,), F)},
            True,
            512,
        ),
        (
            "C[v] = T.if_then_else(A[v] > T.float32(0), A[v], B[v])",
            {"A": ((64,), F), "B": ((64,), F), "C": ((64,), F)},
            False,
            768,
        ),
        ('C[v] = T.Cast("float16", A[v])', {"A": ((64,), F), "C": ((64,), "float16")}, False, 384),
        ("C[v] = T.float32(0)", {"C": ((64,), F)}, False, 256),
        ("C[v] = -A[v]", {"A": ((64,), F), "C": ((64,), F)}, False, 512),
        ("C[v] = A[v] + A[v]", {"A": ((64,), F), "C": ((64,), F)}, False, 512),
        ("C[v] = T.max(A[v], A[v + 1])", {"A": ((65,), F), "C": ((64,), F)}, False, 65 * 4 + 256),
    ],
)
def test_layout_only_and_footprint(body, shapes, layout_only, footprint):
    launch = _kernel(body, **shapes)
    assert is_layout_only(launch.body) is layout_only
    assert footprint_bytes(launch) == footprint


def test_reduction_is_no_copy_and_reads_each_element_once():
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((64, 9), "float32"), C: T.Buffer((64,), "float32")):
        for i in T.thread_binding(64, thread="threadIdx.x"):
            for k in range(9):
                with T.sblock("b"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    with T.init():
                        C[vi] = T.float32(0)
                    C[vi] = C[vi] + A[vi, vk]

    [launch] = find_launches(main)
    assert not is_layout_only(launch.body)
    assert (
        footprint_bytes(launch) == 64 * 9 * 4 + 64 * 4
    )  # the accumulator is not read from outside


def test_shared_memory_is_free_and_staged_copies_stay_copies():
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((8, 8), "float32"), C: T.Buffer((8, 8), "float32")):
        S = T.sblock_alloc_buffer((8, 8), "float32", scope="shared")
        for _ in T.thread_binding(1, thread="blockIdx.x"):
            for i in T.thread_binding(8, thread="threadIdx.x"):
                for j in range(8):
                    with T.sblock("s"):
                        vi, vj = T.axis.remap("SS", [i, j])
                        S[vi, vj] = A[vi, vj]
            for i in T.thread_binding(8, thread="threadIdx.x"):
                for j in range(8):
                    with T.sblock("c"):
                        vi, vj = T.axis.remap("SS", [i, j])
                        C[vj, vi] = S[vi, vj]

    [launch] = find_launches(main)
    assert is_layout_only(launch.body)
    assert footprint_bytes(launch) == 512


def test_an_index_in_private_memory_is_no_computation():
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((8, 8), "float32"), C: T.Buffer((8, 8), "float32")):
        for i in T.thread_binding(64, thread="threadIdx.x"):
            with T.sblock("b"):
                v = T.axis.remap("S", [i])
                first = T.sblock_alloc_buffer((1,), "int32", scope="local")
                first[0] = v
                C[first[0] % 8, first[0] // 8] = A[first[0] // 8, first[0] % 8]

    [launch] = find_launches(main)
    assert is_layout_only(launch.body)


def test_an_index_that_is_stored_is_no_copy():
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((8,), "int32"), C: T.Buffer((8,), "int32")):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            with T.sblock("b"):
                v = T.axis.remap("S", [i])
                first = T.sblock_alloc_buffer((1,), "int32", scope="local")
                first[0] = v
                C[v] = T.if_then_else(v < 4, A[v], first[0])

    [launch] = find_launches(main)
    assert not is_layout_only(launch.body)


def test_symbolic_shapes_have_no_number():
    @T.prim_func(s_tir=True)
    def main(a: T.handle, c: T.handle):
        n = T.int64()
        A = T.match_buffer(a, (n,), "float32")
        C = T.match_buffer(c, (n,), "float32")
        for i in T.thread_binding(n, thread="blockIdx.x"):
            with T.sblock("b"):
                v = T.axis.remap("S", [i])
                C[v] = A[v]

    [launch] = find_launches(main)
    assert footprint_bytes(launch) is None
    assert is_layout_only(launch.body)
