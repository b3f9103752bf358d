"""What becomes a view of its readers, and what is kept with a reason."""

from __future__ import annotations

import pytest
from relax_graphs import (
    apply,
    classes,
    const,
    decisions,
    fates,
    graph,
    kernels,
    transformed,
)
from tvm import relax, tirx
from tvm.ir import assert_structural_equal
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from smartmem_tvm.analysis.computation import read_stages
from smartmem_tvm.analysis.decisions import read_decisions
from smartmem_tvm.analysis.index_maps import count_divisions
from smartmem_tvm.analysis.layout_class import LayoutClass, classify
from smartmem_tvm.passes import EliminateLayoutTransforms


def windows(x, channels, size=4, window=2):
    """Square windows of an image [1, size, size, channels]."""
    n = size // window
    y = op.reshape(x, (1, n, window, n, window, channels))
    return op.reshape(op.permute_dims(y, [0, 1, 3, 2, 4, 5]), (n * n, window * window, channels))


def unwindowed(x, channels, size=4, window=2):
    n = size // window
    y = op.reshape(x, (1, n, n, window, window, channels))
    return op.reshape(op.permute_dims(y, [0, 1, 3, 2, 4, 5]), (1, size, size, channels))


def rolled(x, shift):
    return op.concat([cut(x, 1, shift, 9999), cut(x, 1, 0, shift)], 1)


def shuffled(x):
    y = op.permute_dims(op.reshape(x, (1, 2, 2, 2, 3, 5)), [0, 1, 4, 2, 5, 3])
    return op.reshape(y, (1, 2, 6, 10))


def cut(x, axis, begin, end):
    return op.strided_slice(x, [axis], [begin], [end])


def batch():
    return tirx.Var("n", "int64")


def test_reshape_and_transpose_become_the_map_of_the_paper():
    def body(x):
        return op.exp(op.permute_dims(op.reshape(x, (16, 8, 4, 4)), [0, 2, 1, 3]))

    after = transformed(graph(body, (2, 256, 4)), EliminateLayoutTransforms)
    (stage,) = read_stages(kernels(after)[0])
    i, j, k, m = (axis.var for axis in stage.axes)
    (load,) = stage.loads()
    expected = [i // 8, i % 8 * 32 + k * 4 + j, m]
    for index, value in zip(load.indices, expected, strict=True):
        assert_structural_equal(index, value)
    assert fates(after, "reshape") == fates(after, "transpose") == ["eliminated"]
    (view,) = decisions(after, "transpose")[0].views
    assert (view["reader"], view["after_divisions"]) == ("gv", 2)


GONE = {
    # Every one of these leaves the kernels that compute, and no other.
    "chain of relayouts": (
        lambda x: op.exp(
            op.reshape(op.permute_dims(op.reshape(x, (4, 6, 8)), [2, 0, 1]), (16, 12))
        ),
        [(12, 16)],
        ["ILI"],
    ),
    "several readers": (
        lambda x, w: op.add(op.matmul(op.permute_dims(x), w), op.exp(op.permute_dims(x))),
        [(8, 6), (8, 8)],
        ["ILD", "ILI", "ILI"],
    ),
    "concat of several producers": (
        lambda x, y, z: op.exp(op.concat([op.exp(x), op.sin(y), z], 1)),
        [(4, 3), (4, 1), (4, 5)],
        ["ILI", "ILI", "ILI"],
    ),
    "slice": (lambda x: op.exp(cut(x, 1, 2, 7)), [(4, 9)], ["ILI"]),
    "strided slice": (
        lambda x: op.exp(op.strided_slice(x, [0, 1], [3, 1], [0, 9], [-1, 3])),
        [(4, 9)],
        ["ILI"],
    ),
    "split": (
        lambda x: op.multiply(op.split(x, 3, 1)[0], op.exp(op.split(x, 3, 1)[2])),
        [(4, 9)],
        ["ILI", "ILI"],
    ),
    "broadcast": (lambda x: op.exp(op.broadcast_to(x, (4, 5, 9))), [(5, 1)], None),
    "pad": (lambda x: op.exp(op.nn.pad(x, [1, 2, 0, 3])), [(4, 9)], ["ILI"]),
    "pad into a contraction": (
        lambda x, w: op.matmul(op.nn.pad(x, [0, 0, 2, 1]), w),
        [(4, 9), (12, 5)],
        ["ILD"],
    ),
    "roll": (lambda x: op.exp(rolled(x, 3)), [(4, 9)], ["ILI"]),
    "windows": (lambda x: op.exp(windows(x, 3)), [(1, 4, 4, 3)], ["ILI"]),
    "windows and back": (
        lambda x, w: op.exp(unwindowed(op.matmul(windows(x, 3), w), 5)),
        [(1, 4, 4, 3), (3, 5)],
        ["ILD", "ILI"],
    ),
    "pixel shuffle": (lambda x: op.exp(shuffled(x)), [(1, 8, 3, 5)], ["ILI"]),
    "gather with indices at run time": (
        lambda x, i: op.exp(op.take(op.permute_dims(x), i, 0)),
        [(4, 9), ((3,), "int64")],
        ["ILI"],
    ),
    "gather with constant indices": (
        lambda x: op.exp(op.take(op.permute_dims(x), const([2, 0, 2], "int64"), 0)),
        [(4, 9)],
        ["ILI"],
    ),
    "gather of indices that are gathered": (
        lambda x, i: op.exp(op.take(x, op.take(i, const([1, 0], "int64"), 0), 0)),
        [(4, 9), ((3,), "int64")],
        ["ILI"],
    ),
    "tile": (lambda x: op.exp(op.tile(x, (2, 3))), [(4, 5)], ["ILI"]),
    "repeat": (lambda x: op.exp(op.repeat(x, 3, 1)), [(4, 5)], ["ILI"]),
    "flip": (lambda x: op.exp(op.flip(x, 1)), [(4, 5)], ["ILI"]),
    "triangle": (lambda x: op.exp(op.triu(x)), [(5, 5)], None),
    "dimensions of size 1": (
        lambda x: op.exp(op.squeeze(op.permute_dims(op.expand_dims(x, 1), [2, 1, 0, 3]), [1])),
        [(4, 1, 5)],
        ["ILI"],
    ),
    "no dimensions": (lambda x: op.exp(op.reshape(x, ())), [(1, 1)], ["ILI"]),
    "a constant": (lambda x: op.add(op.zeros((4, 5), "float32"), x), [(4, 5)], ["ILI"]),
    "weights": (
        lambda x: op.matmul(x, op.permute_dims(const([[1.0, 2], [3, 4], [5, 6]]))),
        [(4, 2)],
        ["ILD"],
    ),
}


@pytest.mark.parametrize("name", GONE)
def test_gone(name):
    body, inputs, left = GONE[name]
    before = graph(body, *inputs)
    after = transformed(before, EliminateLayoutTransforms)
    assert "fixed" in classes(before)
    assert "fixed" not in classes(after)
    if left is not None:
        assert classes(after) == left
    fixed = [d for d in read_decisions(after) if d.layout_class == "fixed"]
    assert {d.fate for d in fixed} <= {"eliminated"}
    assert all(not d.reason for d in fixed)
    assert any(d.into for d in fixed)


def test_each_reader_has_a_view_of_its_own():
    before = graph(lambda x: (op.exp(op.permute_dims(x)), op.sum(op.permute_dims(x), 1)), (8, 6))
    after = transformed(before, EliminateLayoutTransforms)
    (decision,) = decisions(after, "transpose")[:1]
    assert {view["reader"] for d in decisions(after, "transpose") for view in d.views} == {
        reader for d in decisions(after, "transpose") for reader in d.into
    }
    assert decision.reason == ""
    assert sorted(classes(after)) == ["ILD", "ILI"]


def test_the_input_of_the_graph_is_read_through_the_view():
    before = graph(lambda x: op.exp(op.permute_dims(x)), (8, 6))
    after = transformed(before, EliminateLayoutTransforms)
    (kernel,) = kernels(after)
    assert [int(d) for d in kernel.params[0].shape] == [8, 6]


def test_symbolic_batch():
    n = batch()
    before = graph(lambda x: op.exp(op.permute_dims(op.reshape(x, (n, 3, 4)), [0, 2, 1])), (n, 12))
    after = transformed(before, EliminateLayoutTransforms, n=5)
    assert classes(after) == ["ILI"]
    assert fates(after, "reshape") == ["eliminated"]


def test_symbolic_rows_merge():
    n = batch()
    before = graph(lambda x, w: op.matmul(op.reshape(x, (n * 4, 6)), w), (n, 4, 6), (6, 5))
    after = transformed(before, EliminateLayoutTransforms, n=3)
    assert classes(after) == ["ILD"]


def test_without_simplification_the_values_are_the_same():
    before = graph(lambda x: op.exp(windows(x, 3)), (1, 4, 4, 3))
    raw = transformed(before, EliminateLayoutTransforms(simplify=False))
    simple = transformed(before, EliminateLayoutTransforms())
    assert divisions(raw) > divisions(simple)


def divisions(mod):
    """Divisions and modulos in the indices of the loads of all kernels."""
    loads = [load for func in kernels(mod) for stage in read_stages(func) for load in stage.loads()]
    counts = count_divisions(*(index for load in loads for index in load.indices))
    return counts.divisions + counts.modulos


# What is kept


def test_a_graph_output_is_kept():
    before = graph(lambda x: op.permute_dims(op.exp(x)), (8, 6))
    after = transformed(before, EliminateLayoutTransforms)
    (decision,) = decisions(after, "transpose")
    assert (decision.fate, decision.reason) == ("kept", "a graph output")
    assert classes(after) == ["ILI", "fixed"]


def test_a_graph_output_that_is_also_read_is_kept_and_viewed():
    def body(x):
        y = op.permute_dims(x)
        return y, op.exp(y)

    after = transformed(graph(body, (8, 6)), EliminateLayoutTransforms)
    kept = decisions(after, "transpose")
    assert [d.fate for d in kept if d.reason == "a graph output"] == ["kept"]
    for kernel in kernels(after):
        assert [int(d) for d in kernel.params[0].shape] == [8, 6]


@I.ir_module
class ReadByAScan:
    @T.prim_func(private=True, s_tir=True)
    def running(
        X: T.Buffer((6, 8), "float32"),
        Y: T.Buffer((6, 8), "float32"),
    ):
        for r, t in T.grid(6, 8):
            with T.sblock("running"):
                vr = T.axis.spatial(6, r)
                vt = T.axis.opaque(8, t)
                Y[vr, vt] = X[vr, vt] + T.if_then_else(vt > 0, Y[vr, vt - 1], T.float32(0))

    @R.function
    def main(x: R.Tensor((8, 6), "float32")):
        cls = ReadByAScan
        with R.dataflow():
            a = R.permute_dims(x)
            b = R.permute_dims(a)
            c = R.permute_dims(b)
            d = R.call_tir(cls.running, (c,), out_ty=R.Tensor((6, 8), "float32"))
            R.output(d)
        return d


def test_what_an_opaque_operator_reads_is_kept_but_only_the_last_of_the_chain():
    before = relax.transform.LegalizeOps()(ReadByAScan)
    after = transformed(before, EliminateLayoutTransforms)
    found = [d for d in read_decisions(after) if d.layout_class == "fixed"]
    assert [d.fate for d in found] == ["eliminated", "eliminated", "kept"]
    assert found[-1].reason == "read by an opaque operator (axis 'vt' runs in order)"
    assert len(kernels(after)) == 2


@I.ir_module
class Scattered:
    @T.prim_func(private=True, s_tir=True)
    def spread(
        X: T.Buffer((6, 8), "float32"),
        Y: T.Buffer((8, 6), "float32"),
    ):
        for i, j in T.grid(6, 8):
            with T.sblock("spread"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vj, vi] = X[vi, vj]

    @R.function
    def main(x: R.Tensor((6, 8), "float32")):
        cls = Scattered
        with R.dataflow():
            a = R.call_tir(cls.spread, (x,), out_ty=R.Tensor((8, 6), "float32"))
            b = R.exp(a)
            R.output(b)
        return b


def test_a_relayout_that_computes_where_it_stores_is_kept_with_that_reason():
    after = transformed(relax.transform.LegalizeOps()(Scattered), EliminateLayoutTransforms)
    (decision,) = decisions(after, "spread")
    assert decision.fate == "kept"
    assert "where it stores" in decision.reason


def test_arithmetic_is_left_alone():
    before = graph(lambda x: op.exp(op.add(x, x)), (4, 9))
    after = apply(before, EliminateLayoutTransforms)
    assert read_decisions(after) == []
    assert len(kernels(after)) == 2


def test_padding_inside_a_convolution_becomes_a_condition():
    before = graph(lambda x, w: op.nn.conv2d(x, w, padding=(1, 1)), (1, 3, 8, 8), (4, 3, 3, 3))
    after = transformed(before, EliminateLayoutTransforms)
    (kernel,) = kernels(after)
    assert classify(kernel).layout_class is LayoutClass.ILD
    assert "alloc_buffer" not in kernel.script()
