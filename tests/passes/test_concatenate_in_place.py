from __future__ import annotations

import pytest
from relax_graphs import (
    apply,
    assert_same_values,
    const,
    decisions,
    graph,
    kernels,
    legalised,
)
from tvm import relax, tirx
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from smartmem_tvm.analysis.computation import read_stages
from smartmem_tvm.passes import (
    ConcatenateInPlace,
    EliminateLayoutTransforms,
    FuseOperators,
    MergeParallelOperators,
)
from smartmem_tvm.passes._boxes import cut_into_boxes

STAGE = (EliminateLayoutTransforms, MergeParallelOperators, FuseOperators, ConcatenateInPlace)


def launches(mod):
    """Names of the operations that call a kernel, in order."""
    return [
        str(binding.value.op.name).removeprefix("relax.")
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]


def checked(mod, **symbols):
    """Module after the stage, with the same values as before."""
    after = apply(mod, *STAGE)
    assert_same_values(mod, after, **symbols)
    return after


def two_products(x, w, v):
    return op.concat([op.matmul(x, w), op.nn.relu(op.matmul(x, v))], 1)


PRODUCTS = ((5, 6), (6, 3), (6, 4))


def columns(x, *weights):
    """Products side by side, of any number."""
    return op.concat([op.matmul(x, w) for w in weights], 1)


def softened(x, w, v):
    """The condition is inside of an elementwise operator."""
    return op.sigmoid(two_products(x, w, v))


def moved(x, w, v):
    """Parts and whole go through relayouts."""
    parts = [op.permute_dims(op.matmul(x, weight)) for weight in (w, v)]
    return op.reshape(op.permute_dims(op.concat(parts, 0)), (1, 5, 7))


def beside_itself(x, w, v):
    """One kernel makes two parts that are not neighbours."""
    first = op.matmul(x, w)
    return op.concat([first, op.matmul(x, v), op.exp(first)], 1)


def both_axes(x, w, v):
    """A concatenation of concatenations: two kernels make two parts each."""
    row = op.concat([op.matmul(x, w), op.matmul(x, v)], 1)
    low = op.concat([op.matmul(op.exp(x), w), op.matmul(op.sin(x), v)], 1)
    return op.concat([row, low], 0)


CASES = {
    "products": (two_products, *PRODUCTS),
    "four": (columns, (5, 6), (6, 3), (6, 4), (6, 1), (6, 2)),
    "softened": (softened, *PRODUCTS),
    "moved": (moved, *PRODUCTS),
    "beside itself": (beside_itself, *PRODUCTS),
    "both axes": (both_axes, *PRODUCTS),
}
COUNT = {"products": 2, "four": 4, "softened": 2, "moved": 2, "beside itself": 2, "both axes": 2}


@pytest.mark.parametrize("name", CASES)
def test_every_part_is_written_by_its_kernel(name):
    after = checked(graph(*CASES[name]))
    assert launches(after) == ["call_tir"] + ["call_tir_inplace"] * (COUNT[name] - 1)


def test_the_fate_names_the_kernels():
    after = checked(graph(*CASES["products"]))
    last = decisions(after, "concatenate")[-1]
    assert (last.fate, last.layout_class, len(last.into)) == ("fused", "fixed", 2)


def test_a_part_that_others_read_too_is_stored_twice():
    def body(x, w, v):
        first = op.matmul(x, w)
        return op.concat([first, op.matmul(x, v)], 1), first, op.matmul(op.permute_dims(first), x)

    after = checked(graph(body, *PRODUCTS))
    assert sorted(launches(after)) == ["call_tir", "call_tir", "call_tir_inplace"]


def test_a_part_that_leaves_elements_out_is_stored_under_a_condition():
    def body(x, w, v):
        rows = op.strided_slice(op.matmul(x, w), [0], [1], [4])
        return op.concat([rows, op.matmul(op.exp(x), v)], 0)

    after = checked(graph(body, (5, 6), (6, 3), (6, 3)))
    assert launches(after) == ["call_tir", "call_tir_inplace"]


def test_elements_that_are_left_out_read_nothing():
    """Row 0 of the product has no partner in y, whose rows count from the product's second."""

    def body(x, w, v, y):
        rows = op.add(op.strided_slice(op.matmul(x, w), [0], [1], [4]), y)
        return op.concat([rows, op.matmul(op.exp(x), v)], 0)

    after = checked(graph(body, (5, 6), (6, 3), (6, 3), (3, 3)))
    assert launches(after) == ["call_tir", "call_tir_inplace"]


def test_kernels_that_depend_on_each_other_keep_their_order():
    def body(x, w, v):
        first = op.matmul(x, w)
        return op.concat([op.matmul(op.exp(first), v), first], 1)

    after = checked(graph(body, (5, 6), (6, 3), (3, 4)))
    assert launches(after) == ["call_tir", "call_tir_inplace"]


def test_two_rows_of_a_reduction_at_each_point():
    """Corners of a box from distances: each element needs two sums, each sum two elements."""

    def body(x, c):
        near, far = (
            relax.TupleGetItem(op.split(op.sum(x, 1), 2, 0), number) for number in range(2)
        )
        low, high = op.subtract(c, near), op.add(c, far)
        return op.concat([op.add(low, high), op.subtract(high, low)], 0)

    mod = apply(
        graph(body, (4, 16, 9), (2, 9)),
        relax.transform.EliminateCommonSubexpr(),
        relax.transform.CanonicalizeBindings(),
    )
    after = checked(mod)
    (kernel,) = kernels(after)
    total, last = read_stages(kernel)
    assert total.is_reduction
    assert [len(last.stores), len(last.loads())] == [2, 8]


@I.ir_module
class ReadByAScan:
    @T.prim_func(private=True, s_tir=True)
    def running(X: T.Buffer((5, 7), "float32"), Y: T.Buffer((5, 7), "float32")):
        for r, t in T.grid(5, 7):
            with T.sblock("running"):
                vr = T.axis.spatial(5, r)
                vt = T.axis.opaque(7, t)
                Y[vr, vt] = X[vr, vt] + T.if_then_else(vt > 0, Y[vr, vt - 1], T.float32(0))

    @R.function
    def main(
        x: R.Tensor((5, 6), "float32"),
        w: R.Tensor((6, 3), "float32"),
        v: R.Tensor((6, 4), "float32"),
    ):
        cls = ReadByAScan
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.matmul(x, v)
            c = R.concat([a, b], axis=1)
            d = R.call_tir(cls.running, (c,), out_ty=R.Tensor((5, 7), "float32"))
            e = R.call_tir(cls.running, (d,), out_ty=R.Tensor((5, 7), "float32"))
            f = R.concat([a, e], axis=1)
            R.output(d, f)
        return d, f


def test_an_opaque_operator_reads_the_whole_but_makes_no_part():
    after = checked(relax.transform.LegalizeOps()(ReadByAScan))
    assert sorted(launches(after)) == ["call_tir"] * 4 + ["call_tir_inplace"]
    reasons = [d.reason for d in decisions(after, "concatenate") if d.fate == "kept"]
    assert "not written in place: a part is made by an opaque operator" in reasons[-1]


def test_symbolic_rows():
    builder = relax.BlockBuilder()
    n = tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType([n, 6], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            weights = [const([[0.5] * columns] * 6) for columns in (3, 4)]
            made = op.concat([op.matmul(x, w) for w in weights], 1)
            made = builder.emit_output(builder.emit(made))
        builder.emit_func_output(made)
    after = checked(legalised(builder.get()), n=5)
    assert launches(after) == ["call_tir", "call_tir_inplace"]


REFUSED = {
    "an input": (
        lambda x, w: op.concat([x, op.matmul(x, w)], 1),
        ((5, 6), (6, 3)),
        "no kernel makes a part of it",
    ),
    "a constant": (
        lambda x, w: op.concat([const([[1.0] * 3]), op.matmul(x, w)], 0),
        ((5, 6), (6, 3)),
        "no kernel makes a part of it",
    ),
    "an element of which a part needs many": (
        lambda x, w, v: op.concat([op.repeat(op.matmul(x, w), 3, 0), op.matmul(op.exp(x), v)], 0),
        ((5, 6), (6, 3), (6, 3)),
        "it would compute 45 elements where 15 are needed",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name):
    body, shapes, reason = REFUSED[name]
    after = checked(graph(body, *shapes))
    assert "call_tir_inplace" not in launches(after)
    decision = decisions(after, "concatenate")[-1]
    assert decision.fate == "kept"
    assert "a graph output" in decision.reason  # what FuseOperators said
    assert "; not written in place: " in decision.reason
    assert reason in decision.reason


def test_what_a_concatenation_of_others_reads_is_left_alone():
    """The second reads through the first, and both are outputs."""

    def body(x, w, v):
        first = two_products(x, w, v)
        return first, op.concat([op.exp(first), op.sin(first)], 0)

    after = checked(graph(body, *PRODUCTS))
    assert "call_tir_inplace" in launches(after)


def box_count(body, *shapes):
    mod = apply(graph(body, *shapes), EliminateLayoutTransforms, FuseOperators)
    (stage,) = read_stages(kernels(mod)[-1])
    boxes = cut_into_boxes(stage)
    total = sum(int(box.axes[0].extent) * int(box.axes[1].extent) for box in boxes)
    assert total == int(stage.axes[0].extent) * int(stage.axes[1].extent)
    return len(boxes)


def test_boxes_cover_the_tensor_once():
    assert box_count(lambda x: op.exp(x), (4, 5)) == 1
    assert box_count(lambda x, y: op.concat([x, y, x], 1), (4, 5), (4, 2)) == 3
    assert box_count(lambda x, y: op.exp(op.concat([x, op.sin(y)], 0)), (4, 5), (1, 5)) == 2
    # A window that wraps around is a rotation of one tensor: one box.
    assert (
        box_count(
            lambda x: op.concat(
                [op.strided_slice(x, [0], [3], [8]), op.strided_slice(x, [0], [0], [3])], 0
            ),
            (8, 6),
        )
        == 1
    )
