"""Estimates of executed traffic, checked by hand; tests/oclgrind holds them against Oclgrind."""

from __future__ import annotations

import pytest
from tvm import relax
from tvm.script import tirx as T

from smartmem_tvm import SmartMemError
from smartmem_tvm.analysis.traffic_estimate import estimate


def module(func, inputs, out):
    builder = relax.BlockBuilder()
    params = [relax.Var(f"x{i}", relax.TensorType(s, "float32")) for i, s in enumerate(inputs)]
    with builder.function("main", params):
        with builder.dataflow():
            callee = builder.add_func(func, "kernel")
            called = relax.call_tir(callee, params, relax.TensorType(out, "float32"))
            result = builder.emit_output(builder.emit(called))
        builder.emit_func_output(result)
    return builder.get()


def guess(func, inputs, out):
    [kernel] = estimate(module(func, inputs, out)).kernels
    return kernel.loaded, kernel.stored


@T.prim_func(s_tir=True)
def row_sums(A: T.Buffer((64, 16), "float32"), C: T.Buffer((64,), "float32")):
    for i in T.thread_binding(64, thread="threadIdx.x"):
        for k in range(16):
            with T.sblock("sum"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    C[vi] = T.float32(0)
                C[vi] = C[vi] + A[vi, vk]


def test_sum_in_memory_is_kept_in_a_register():
    assert guess(row_sums, [(64, 16)], (64,)) == (64 * 16 * 4, 64 * 4)


@T.prim_func(s_tir=True)
def guarded_row_sums(A: T.Buffer((50, 16), "float32"), C: T.Buffer((50,), "float32")):
    for i in T.thread_binding(64, thread="threadIdx.x"):
        for k in range(16):
            with T.sblock("sum"):
                vi, vk = T.axis.remap("SR", [i, k])
                T.where(i < 50)
                with T.init():
                    C[vi] = T.float32(0)
                C[vi] = C[vi] + A[vi, vk]


def test_sum_under_a_condition_stays_in_memory():
    loaded, stored = guess(guarded_row_sums, [(50, 16)], (50,))
    assert loaded == 2 * 50 * 16 * 4
    assert stored >= 50 * 16 * 4


@T.prim_func(s_tir=True)
def broadcast(
    A: T.Buffer((32, 4), "float32"),
    B: T.Buffer((4,), "float32"),
    C: T.Buffer((32, 4, 4), "float32"),
):
    for i in T.thread_binding(32, thread="threadIdx.x"):
        for j, k in T.grid(4, 4):
            with T.sblock("add"):
                vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                C[vi, vj, vk] = A[vi, vj] + B[vk]


def test_loads_repeated_in_unrolled_loops_count_once():
    assert guess(broadcast, [(32, 4), (4,)], (32, 4, 4)) == (32 * 4 * 4 * 2, 32 * 16 * 4)


def test_unscheduled_function_is_refused():
    @T.prim_func(s_tir=True)
    def plain(A: T.Buffer((4,), "float32"), C: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.sblock("copy"):
                v = T.axis.spatial(4, i)
                C[v] = A[v]

    with pytest.raises(SmartMemError, match=r"'kernel' has no thread bindings"):
        estimate(module(plain, [(4,)], (4,)))


def test_total_is_the_sum_over_calls():
    found = estimate(module(row_sums, [(64, 16)], (64,)))
    assert found.total == sum(kernel.calls * kernel.bytes for kernel in found.kernels)
