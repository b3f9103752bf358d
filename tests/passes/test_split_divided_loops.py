"""Loops are split where that frees their indices of divisions, and only there."""

from __future__ import annotations

import tvm
from tvm.ir import assert_structural_equal
from tvm.script import tirx as T

from smartmem_tvm.analysis.index_divisions import inner_divisions
from smartmem_tvm.passes import SplitDividedLoops


def split(func):
    return SplitDividedLoops()(tvm.IRModule({"main": func}))["main"]


def test_one_division():
    @T.prim_func(s_tir=True)
    def before(a: T.Buffer((4, 3, 9, 32)), b: T.Buffer((4, 9))):
        T.func_attr({"tirx.is_scheduled": True})
        for group in T.thread_binding(4, thread="blockIdx.x"):
            for j in range(9):
                b[group, j] = 0.0
                for r in range(96):
                    b[group, j] = b[group, j] + a[group, r // 32, j, r % 32]

    @T.prim_func(s_tir=True)
    def after(a: T.Buffer((4, 3, 9, 32)), b: T.Buffer((4, 9))):
        T.func_attr({"tirx.is_scheduled": True})
        for group in T.thread_binding(4, thread="blockIdx.x"):
            for j in range(9):
                b[group, j] = 0.0
                for ro in range(3):
                    for ri in range(32):
                        b[group, j] = b[group, j] + a[group, ro, j, ri]

    made = tvm.s_tir.transform.StmtSimplify()(tvm.IRModule({"main": split(before)}))["main"]
    assert_structural_equal(made, after.with_attr("global_symbol", "before"))


def test_divisions_by_several_numbers():
    @T.prim_func(s_tir=True)
    def before(a: T.Buffer((4, 2, 3, 8, 5)), b: T.Buffer((4, 240))):
        T.func_attr({"tirx.is_scheduled": True})
        for group in T.thread_binding(4, thread="blockIdx.x"):
            for r in range(240):
                b[group, r] = a[group, r % 2, r // 16 % 3, r // 2 % 8, r // 48]

    made = split(before)
    assert inner_divisions(before)
    assert inner_divisions(made) == []


def test_lanes_of_a_vector():
    @T.prim_func(s_tir=True)
    def before(a: T.Buffer((4, 8, 16)), b: T.Buffer((4, 128))):
        T.func_attr({"tirx.is_scheduled": True})
        for group in T.thread_binding(4, thread="blockIdx.x"):
            for r in range(32):
                for lane in T.vectorized(4):
                    b[group, r * 4 + lane] = a[group, (r * 4 + lane) % 8, (r * 4 + lane) // 8]

    assert inner_divisions(split(before)) == []


def test_one_of_two_divisions_of_an_index():
    @T.prim_func(s_tir=True)
    def before(a: T.Buffer((4, 9, 8)), b: T.Buffer((4, 64))):
        T.func_attr({"tirx.is_scheduled": True})
        for group in T.thread_binding(4, thread="blockIdx.x"):
            for r in range(64):
                b[group, r] = a[(r + group) % 4, r // 8, 0]

    assert [d.split for d in inner_divisions(before)] == [None, 8]
    assert [d.split for d in inner_divisions(split(before))] == [None]


def test_what_no_split_frees_stays():
    @T.prim_func(s_tir=True)
    def before(a: T.Buffer((4, 64)), b: T.Buffer((4, 64))):
        T.func_attr({"tirx.is_scheduled": True})
        for group in T.thread_binding(4, thread="blockIdx.x"):
            for r in range(64):
                b[group, r] = a[group, (r + group * 3) % 64]

    assert_structural_equal(split(before), before)


def test_what_flat_storage_joins_is_not_split():
    @T.prim_func(s_tir=True)
    def before(a: T.Buffer((4, 8, 8)), b: T.Buffer((4, 64))):
        T.func_attr({"tirx.is_scheduled": True})
        for group in T.thread_binding(4, thread="blockIdx.x"):
            for r in range(64):
                b[group, r] = a[group, r // 8, r % 8]

    assert_structural_equal(split(before), before)


def test_functions_without_a_schedule_stay():
    @T.prim_func(s_tir=True)
    def before(a: T.Buffer((8, 8)), b: T.Buffer((64,))):
        for r in range(64):
            with T.sblock("copy"):
                v = T.axis.spatial(64, r)
                b[v] = a[v % 8, v // 8]

    assert_structural_equal(split(before), before)


def test_the_last_tile_starts_at_a_multiple_too():
    @T.prim_func(s_tir=True)
    def before(a: T.Buffer((28, 3, 2)), b: T.Buffer((56,))):
        T.func_attr({"tirx.is_scheduled": True})
        for group in T.thread_binding(4, thread="blockIdx.x"):
            start: T.let = T.min(group * 16, 40)
            for r in range(16):
                b[start + r] = a[(start + r) // 2, 1, (start + r) % 2]

    assert [d.split for d in inner_divisions(before)] == [2, 2]
    assert inner_divisions(split(before)) == []
