from __future__ import annotations

import pytest
from tvm.ir import assert_structural_equal
from tvm.script import ir as I
from tvm.script import tirx as T

from smartmem_tvm.passes import UnrollUnitReductions


@I.ir_module
class Before:
    @T.prim_func(s_tir=True)
    def main(
        A: T.Buffer((8, 1), "float32"), B: T.Buffer((1,), "float32"), C: T.Buffer((8,), "float32")
    ):
        for i, k in T.grid(8, 1):
            with T.sblock("matmul"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    C[vi] = T.float32(0)
                C[vi] = C[vi] + A[vi, vk] * B[vk]


@I.ir_module
class Expected:
    @T.prim_func(s_tir=True)
    def main(
        A: T.Buffer((8, 1), "float32"), B: T.Buffer((1,), "float32"), C: T.Buffer((8,), "float32")
    ):
        for i, k in T.grid(8, 1):
            with T.sblock("matmul"):
                vi, vk = T.axis.remap("SS", [i, k])
                C[vi] = T.Add(T.float32(0), A[vi, vk] * B[vk])  # not folded by the parser


@I.ir_module
class TwoElements:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer((8, 2), "float32"), C: T.Buffer((8,), "float32")):
        for i, k in T.grid(8, 2):
            with T.sblock("sum"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    C[vi] = T.float32(0)
                C[vi] = C[vi] + A[vi, vk]


@I.ir_module
class TwoStores:
    @T.prim_func(s_tir=True)
    def main(
        A: T.Buffer((8, 1), "float32"), C: T.Buffer((8,), "float32"), D: T.Buffer((8,), "int32")
    ):
        for i, k in T.grid(8, 1):
            with T.sblock("argmax"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    C[vi] = T.float32(-1e30)
                    D[vi] = 0
                C[vi] = T.max(C[vi], A[vi, vk])
                D[vi] = vk


def test_a_reduction_over_one_element_is_a_plain_computation():
    assert_structural_equal(UnrollUnitReductions()(Before), Expected)


@pytest.mark.parametrize("module", [TwoElements, TwoStores, Expected])
def test_others_stay(module):
    assert_structural_equal(UnrollUnitReductions()(module), module)
