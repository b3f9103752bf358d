from __future__ import annotations

import pytest
from relax_graphs import apply, graph, kernels, transformed
from tvm import relax
from tvm.ir import assert_structural_equal
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from smartmem_tvm.analysis.computation import read_stages
from smartmem_tvm.analysis.index_maps import count_divisions
from smartmem_tvm.passes import EliminateLayoutTransforms, FuseOperators, SimplifyIndices


def divisions(mod):
    """Divisions and modulos in the indices of all kernels."""
    stages = [stage for func in kernels(mod) for stage in read_stages(func)]
    indices = [i for stage in stages for load in stage.loads() for i in load.indices]
    counts = count_divisions(*indices)
    return counts.divisions + counts.modulos


@I.ir_module
class Identity:
    @T.prim_func(private=True, s_tir=True)
    def copy(A: T.Buffer((16, 64)), B: T.Buffer((16, 64))):
        for i, j in T.grid(16, 64):
            with T.sblock("copy"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = T.exp(A[(vi * 64 + vj) // 64, (vi * 64 + vj) % 64])

    @R.function
    def main(x: R.Tensor((16, 64), "float32")):
        cls = Identity
        with R.dataflow():
            a = R.call_tir(cls.copy, (x,), out_ty=R.Tensor((16, 64), "float32"))
            R.output(a)
        return a


@I.ir_module
class Guarded:
    @T.prim_func(private=True, s_tir=True)
    def guard(A: T.Buffer((16,)), B: T.Buffer((16,))):
        for i in range(16):
            with T.sblock("guard"):
                vi = T.axis.spatial(16, i)
                B[vi] = T.exp(T.if_then_else(vi < 16 and 0 <= vi, A[vi], T.float32(0)))

    @R.function
    def main(x: R.Tensor((16,), "float32")):
        cls = Guarded
        with R.dataflow():
            a = R.call_tir(cls.guard, (x,), out_ty=R.Tensor((16,), "float32"))
            R.output(a)
        return a


def test_an_identity_loses_its_arithmetic():
    after = transformed(Identity, SimplifyIndices)
    assert (divisions(Identity), divisions(after)) == (2, 0)
    (stage,) = read_stages(kernels(after)[0])
    (load,) = stage.loads()
    for index, axis in zip(load.indices, stage.axes, strict=True):
        assert index.same_as(axis.var)


def test_a_condition_that_always_holds_goes_away():
    after = transformed(Guarded, SimplifyIndices)
    assert "if_then_else" not in kernels(after)[0].script()


def windows(x):
    y = op.permute_dims(op.reshape(x, (1, 2, 2, 2, 2, 3)), [0, 1, 3, 2, 4, 5])
    return op.exp(op.reshape(y, (4, 4, 3)))


@pytest.mark.parametrize("simplify", [True, False], ids=["simplified", "raw"])
def test_with_and_without_the_pass_the_values_are_the_same(simplify):
    before = graph(lambda x, w: op.matmul(windows(x), w), (1, 4, 4, 3), (3, 5))
    stages = [EliminateLayoutTransforms(simplify=simplify), FuseOperators]
    without = transformed(before, *stages)
    simple = transformed(before, *stages, SimplifyIndices)
    assert divisions(simple) <= divisions(without)
    if simplify:  # nothing was left to do
        assert divisions(simple) == divisions(without)


def test_scheduled_functions_stay_as_they_are():
    mod = Identity.clone()
    mod.update_func(mod.get_global_var("copy"), mod["copy"].with_attr("tirx.is_scheduled", True))
    after = apply(mod, SimplifyIndices)
    assert_structural_equal(kernels(after)[0], mod["copy"])
    relax.analysis.well_formed(after)
