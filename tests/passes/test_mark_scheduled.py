"""MarkScheduled: scheduled functions are not fused, others are untouched."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from smartmem_tvm.passes import MarkScheduled


@I.ir_module
class Model:
    @T.prim_func(private=True, s_tir=True)
    def bound(A: T.Buffer((8,), "float32"), C: T.Buffer((8,), "float32")):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            with T.sblock("c"):
                v = T.axis.remap("S", [i])
                C[v] = A[v] + T.float32(1)

    @T.prim_func(private=True, s_tir=True)
    def free(A: T.Buffer((8,), "float32"), C: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.sblock("c"):
                v = T.axis.remap("S", [i])
                C[v] = A[v] * T.float32(2)

    @R.function
    def main(x: R.Tensor((8,), "float32")):
        cls = Model
        with R.dataflow():
            a = R.call_tir(cls.bound, (x,), out_ty=R.Tensor((8,), "float32"))
            b = R.call_tir(cls.free, (a,), out_ty=R.Tensor((8,), "float32"))
            c = R.call_tir(cls.free, (b,), out_ty=R.Tensor((8,), "float32"))
            R.output(c)
        return c


def _fuse(mod):
    return tvm.transform.Sequential(
        [
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ]
    )(mod)


def test_without_the_pass_tvm_fuses_the_scheduled_function():
    assert len(list(_fuse(Model).get_global_vars())) == 2  # main and one fused function


def test_scheduled_function_is_kept_and_the_rest_fuses():
    marked = MarkScheduled()(Model)
    tvm.ir.assert_structural_equal(marked["free"], Model["free"])
    tvm.ir.assert_structural_equal(marked["bound"].body, Model["bound"].body, map_free_vars=True)
    fused = _fuse(marked)
    assert len(list(fused.get_global_vars())) == 3
    tvm.ir.assert_structural_equal(fused["bound"].body, Model["bound"].body, map_free_vars=True)
