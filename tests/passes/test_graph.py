"""From a dataflow block to a graph of stages and back."""

from __future__ import annotations

import pytest
import tvm
from relax_graphs import STAGE, apply, assert_same_values, calls, const, graph, kernels, legalised
from tvm import relax, tirx
from tvm.ir import assert_structural_equal
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from smartmem_tvm.passes import (
    ConcatenateInPlace,
    EliminateLayoutTransforms,
    FuseOperators,
    SimplifyIndices,
    SplitOutputs,
)
from smartmem_tvm.passes._emit import rewrite_blocks
from smartmem_tvm.passes._graph import OpaqueNode, read_graph


def again(mod):
    """Module read and written without a change."""
    return apply(mod, rewrite)


@tvm.transform.module_pass(opt_level=0, name="test.ReadAndWrite")
def rewrite(mod, _ctx):
    return rewrite_blocks(mod, lambda graph: None)


def batch():
    return tirx.Var("n", "int64")


# Of softmax TVM's annotation of the axis is lost; concat and gather read their inputs in another
# order than that of their parameters. What was written once comes back the same.
SETTLED = {
    "softmax": lambda: graph(lambda x: op.nn.softmax(x, -1), (4, 9)),
    "concat": lambda: graph(lambda x, y: op.concat([x, y], 1), (4, 9), (4, 2)),
    "gather": lambda: graph(lambda x, i: op.take(x, i, 0), (4, 9), ((3,), "int64")),
}
SAME = {
    "matmul": lambda: graph(op.matmul, (4, 9), (9, 5)),
    "convolution": lambda: graph(
        lambda x, w: op.nn.conv2d(x, w, padding=(1, 1)), (1, 3, 8, 8), (4, 3, 3, 3)
    ),
    "transpose": lambda: graph(op.permute_dims, (4, 9)),
    "pad": lambda: graph(lambda x: op.nn.pad(x, [1, 1, 0, 2]), (4, 9)),
    "split": lambda: graph(lambda x: op.split(x, 3, 1), (4, 9)),
    "argmax": lambda: graph(lambda x: op.argmax(x, 1), (4, 9)),
    "no dimensions": lambda: graph(lambda x: op.exp(x), ()),
    "symbolic": lambda: graph(lambda x: op.exp(x), (batch(), 9)),
    "symbolic argument": lambda: graph(
        lambda x: op.permute_dims(op.reshape(x, (-1,))), (batch(), 9)
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_functions_come_back_equal(name):
    before = SAME[name]()
    assert_same_functions(before, again(before))


@pytest.mark.parametrize("name", SETTLED)
def test_what_was_written_comes_back_equal(name):
    before = SETTLED[name]()
    after = again(before)
    assert_same_functions(after, again(after))
    assert_same_values(before, after)


def assert_same_functions(before, after):
    old, new = kernels(before), kernels(after)
    assert len(old) == len(new)
    for one, other in zip(old, new, strict=True):
        assert_structural_equal(one, other, map_free_vars=True)


@I.ir_module
class Odd:
    """A scan between two matrix products; a tuple that is used whole; a result that is an input."""

    @T.prim_func(private=True, s_tir=True)
    def scan(X: T.Buffer((4, 4), "float32"), Y: T.Buffer((4, 4), "float32")):
        for r, t in T.grid(4, 4):
            with T.sblock("main"):
                vr = T.axis.spatial(4, r)
                vt = T.axis.opaque(4, t)
                Y[vr, vt] = X[vr, vt] + T.if_then_else(vt > 0, Y[vr, vt - 1], T.float32(0))

    @R.function
    def main(x: R.Tensor((4, 4), "float32"), y: R.Tensor((4, 4), "float32")):
        cls = Odd
        with R.dataflow():
            a = R.exp(x)
            b = R.call_tir(cls.scan, (a,), out_ty=R.Tensor((4, 4), "float32"))
            c = R.add(b, y)
            d = (a, c)
            e = d[1]
            f = R.multiply(e, b)
            g = (f, b, y)
            R.output(c, g)
        return (c, g)


def test_opaque_bindings_stay_and_everything_keeps_its_value():
    before = relax.transform.LegalizeOps()(Odd)
    after = again(before)
    assert len(calls(after)) == len(calls(before))
    assert_structural_equal(after["scan"], before["scan"])
    flat = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
    one, other = (tvm.transform.Sequential(flat)(mod) for mod in (before, after))
    relax.analysis.well_formed(other)
    assert_structural_equal(one["main"].ret_ty, other["main"].ret_ty)


def test_the_reader_says_why_a_binding_is_opaque():
    before = relax.transform.LegalizeOps()(Odd)
    (block,) = before["main"].body.blocks
    found = read_graph(before, block)
    (scan,) = [node for node in found.nodes if isinstance(node, OpaqueNode)]
    assert scan.reason == "axis 'vt' runs in order"
    assert [buffer.name for buffer in scan.inputs()] == ["a"]


@I.ir_module
class InPlace:
    """A row of a tensor is replaced in its memory."""

    @T.prim_func(private=True, s_tir=True)
    def replace(Y: T.Buffer((9,), "float32"), A: T.Buffer((4, 9), "float32")):
        for j in range(9):
            with T.sblock("replace"):
                vj = T.axis.spatial(9, j)
                A[1, vj] = Y[vj]

    @R.function
    def main(x: R.Tensor((4, 9), "float32"), y: R.Tensor((9,), "float32")):
        cls = InPlace
        with R.dataflow():
            a = R.exp(x)
            b = R.call_tir_inplace(
                cls.replace, (y, a), inplace_indices=[1], out_ty=R.Tensor((4, 9), "float32")
            )
            c = R.sin(b)
            R.output(c)
        return c


def test_a_kernel_in_place_is_a_node_for_those_who_ask():
    before = legalised(InPlace)
    (block,) = before["main"].body.blocks
    (kept,) = [node for node in read_graph(before, block).nodes if isinstance(node, OpaqueNode)]
    assert kept.reason == "it writes into the memory of an operand"
    first, node, last = read_graph(before, block, in_place=True).kernels()
    assert node.inplace == {node.outputs[0]: first.outputs[0]}
    assert [buffer.name for buffer in node.inputs()] == ["y", "a"]
    assert last.inputs() == node.outputs
    after = apply(before, lambda mod: rewrite_blocks(mod, lambda graph: None, in_place=True))
    assert after["main"].script() == before["main"].script()
    assert_same_values(before, after)


@pytest.mark.parametrize("change", [EliminateLayoutTransforms, FuseOperators])
def test_nothing_joins_a_kernel_in_place(change):
    before = legalised(InPlace)
    after = apply(before, change)
    assert len(calls(after)) == 2  # and the one in place
    assert_same_values(before, after)


@I.ir_module
class Shifted:
    """Rows of a tensor move up in its memory."""

    @T.prim_func(private=True, s_tir=True)
    def shift(X: T.Buffer((9, 9), "float32"), A: T.Buffer((9, 9), "float32")):
        for i, j in T.grid(8, 9):
            with T.sblock("shift"):
                vi, vj = T.axis.remap("SS", [i, j])
                A[vi, vj] = X[vi + 1, vj]

    @R.function
    def main(x: R.Tensor((9, 9), "float32")):
        cls = Shifted
        with R.dataflow():
            a = R.exp(x)
            b = R.call_tir_inplace(
                cls.shift, (a, a), inplace_indices=[1], out_ty=R.Tensor((9, 9), "float32")
            )
            R.output(b)
        return b


@I.ir_module(s_tir=True)
class StoredTwice:
    @T.prim_func(private=True, s_tir=True)
    def both(X: T.Buffer((4, 6), "float32"), Y: T.Buffer((4, 12), "float32")):
        for i, j in T.grid(4, 6):
            with T.sblock("both"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = X[vi, vj]
                Y[vi, vj + 6] = X[vi, vj]

    @R.function
    def main(x: R.Tensor((4, 6), "float32")):
        cls = StoredTwice
        with R.dataflow():
            y = R.exp(x)
            z = R.call_tir(cls.both, (y,), out_ty=R.Tensor((4, 12), "float32"))
            out = R.permute_dims(z)
            R.output(out)
        return out


@pytest.mark.parametrize("change", [*STAGE, ConcatenateInPlace, SplitOutputs, SimplifyIndices])
def test_nothing_takes_apart_what_stores_twice(change):
    mod = legalised(StoredTwice)
    (block,) = mod["main"].body.blocks
    (opaque,) = [node for node in read_graph(mod, block).nodes if isinstance(node, OpaqueNode)]
    assert opaque.reason == "block 'both' stores in 'Y' twice"
    assert len(list(read_graph(mod, block, repeated=True).kernels())) == 3
    assert_same_values(mod, apply(mod, change))


def test_an_operand_that_is_read_and_written_in_place_is_opaque():
    mod = legalised(Shifted)
    found = read_graph(mod, mod["main"].body.blocks[0], in_place=True)
    (kept,) = [node for node in found.nodes if isinstance(node, OpaqueNode)]
    assert kept.reason == "it reads, as another operand, the memory that it writes into"


def test_a_constant_is_one_buffer_for_all_who_read_it():
    weight = const([[1.0] * 4] * 4)
    mod = graph(lambda x: op.matmul(op.matmul(x, weight), weight), (4, 4))
    (block,) = mod["main"].body.blocks
    found = read_graph(mod, block)
    first, second = found.kernels()
    assert [b for b in first.inputs() if b.name == "constant"] == [
        b for b in second.inputs() if b.name == "constant"
    ]
    assert_same_values(mod, again(mod))


def test_equal_functions_are_written_once():
    mod = again(graph(lambda x: op.exp(op.exp(op.exp(x))), (4, 9)))
    assert len(calls(mod)) == 3
    assert len({call.args[0] for call in calls(mod)}) == 1


def test_parts_of_a_tuple_are_called_as_their_variables():
    def body(x):
        parts = op.split(x, 2, 0)
        return op.exp(relax.TupleGetItem(parts, 0)), op.sin(relax.TupleGetItem(parts, 1))

    mod = graph(body, (4, 9))
    names = [
        binding.var.name
        for binding in mod["main"].body.blocks[0].bindings
        if isinstance(binding.value, relax.TupleGetItem)
    ]
    for _ in range(2):
        found = read_graph(mod, mod["main"].body.blocks[0])
        assert [buffer.name for buffer in next(found.kernels()).outputs] == names
        mod = again(mod)


def test_kernels_in_a_circle_are_refused():
    mod = graph(lambda x: op.exp(op.exp(x)), (4, 9))
    (block,) = mod["main"].body.blocks
    found = read_graph(mod, block)
    first, second = found.kernels()
    second.outputs.append(next(iter(first.inputs())))
    with pytest.raises(ValueError, match="circle"):
        found.sort()
