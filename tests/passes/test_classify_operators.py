from __future__ import annotations

from relax_graphs import graph, kernels
from tvm import relax
from tvm.ir import assert_structural_equal
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import tirx as T

from smartmem_tvm.passes import ClassifyOperators
from smartmem_tvm.passes.classify_operators import LAYOUT_CLASS, OPAQUE_REASON, REDUCED


@I.ir_module
class Scan:
    @T.prim_func(s_tir=True)
    def main(X: T.Buffer((6, 8)), Y: T.Buffer((6, 8))):
        for r, t in T.grid(6, 8):
            with T.sblock("running"):
                vr = T.axis.spatial(6, r)
                vt = T.axis.opaque(8, t)
                Y[vr, vt] = X[vr, vt] + T.if_then_else(vt > 0, Y[vr, vt - 1], T.float32(0))


def test_class_and_reduced_dimensions_are_attributes():
    mod = graph(lambda x, w: op.exp(op.matmul(op.permute_dims(x), w)), (9, 6), (9, 8))
    found = {func.attrs[LAYOUT_CLASS]: func for func in kernels(ClassifyOperators()(mod))}
    assert set(found) == {"fixed", "ILD", "ILI"}
    assert [list(d) for d in found["ILD"].attrs[REDUCED]] == [[1], [0], []]
    assert [list(d) for d in found["fixed"].attrs[REDUCED]] == [[], []]
    assert OPAQUE_REASON not in found["ILD"].attrs


def test_an_opaque_function_says_why():
    func = ClassifyOperators()(Scan)["main"]
    assert func.attrs[LAYOUT_CLASS] == "opaque"
    assert func.attrs[OPAQUE_REASON] == "axis 'vt' runs in order"
    assert REDUCED not in func.attrs


def test_nothing_else_changes():
    mod = graph(lambda x: op.exp(op.permute_dims(x)), (9, 6))
    after = ClassifyOperators()(mod)
    relax.analysis.well_formed(after)
    assert_structural_equal(after["main"], mod["main"], map_free_vars=True)
    for one, other in zip(kernels(mod), kernels(after), strict=True):
        assert_structural_equal(one.body, other.body, map_free_vars=True)
    assert_structural_equal(ClassifyOperators()(after), after)
