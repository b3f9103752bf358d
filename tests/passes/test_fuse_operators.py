"""Which elementwise operators join which kernel, and why the others do not."""

from __future__ import annotations

import pytest
from relax_graphs import apply, calls, classes, const, decisions, fates, graph, kernels, transformed
from tvm import relax, tirx
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from smartmem_tvm.analysis.computation import read_stages
from smartmem_tvm.analysis.decisions import read_decisions
from smartmem_tvm.analysis.index_maps import count_divisions
from smartmem_tvm.passes import (
    EliminateLayoutTransforms,
    FuseOperators,
    LegaliseSorts,
    MergeParallelOperators,
)

STAGE = (EliminateLayoutTransforms, FuseOperators)


def written(func):
    """Shapes of the tensors that a kernel writes for others."""
    buffers = {store.buffer for stage in read_stages(func) for store in stage.stores}
    return [[int(d) for d in param.shape] for param in func.params if param in buffers]


def gelu(x):
    half, root = const(0.5), const(0.70710678)
    return op.multiply(op.multiply(x, half), op.add(op.erf(op.multiply(x, root)), const(1.0)))


def normalised(x):
    """Layer norm of rows as an exporter writes it out."""
    centred = op.subtract(x, op.mean(x, [1], True))
    variance = op.mean(op.multiply(centred, centred), [1], True)
    return op.divide(centred, op.sqrt(op.add(variance, const(1e-5))))


def heads(x):
    return op.permute_dims(op.reshape(x, (6, 2, 4)), [1, 0, 2])


ONE_KERNEL = {
    # name: body, inputs, shapes that the one kernel writes
    "epilogue": (
        lambda x, w, b: op.nn.relu(op.add(op.matmul(x, w), b)),
        [(6, 9), (9, 8), (8,)],
        [[6, 8]],
    ),
    "epilogue through a transposed map": (
        lambda x, w: op.exp(heads(op.matmul(x, w))),
        [(6, 9), (9, 8)],
        [[2, 6, 4]],
    ),
    "a graph output written in its final order": (
        lambda x, w: heads(op.matmul(x, w)),
        [(6, 9), (9, 8)],
        [[2, 6, 4]],
    ),
    "epilogue of an epilogue through another map": (
        lambda x, w: op.permute_dims(op.sin(op.permute_dims(op.exp(op.matmul(x, w))))),
        [(6, 9), (9, 8)],
        [[6, 8]],
    ),
    "diamond": (lambda x, w: gelu(op.matmul(x, w)), [(6, 9), (9, 8)], [[6, 8]]),
    "residual": (
        lambda x, w: op.add(op.matmul(x, w), x),
        [(6, 9), (9, 9)],
        [[6, 9]],
    ),
    "prologue": (
        lambda x, w: op.matmul(op.add(x, const(1.0)), w),
        [(6, 9), (9, 8)],
        [[6, 8]],
    ),
    "broadcast epilogue": (
        lambda x: op.subtract(x, op.mean(x, [1], True)),
        [(6, 9)],
        [[6, 9]],
    ),
    "broadcast epilogue of the last row": (
        lambda x: op.divide(x, op.sum(x)),
        [(6, 9)],
        [[6, 9]],
    ),
    "softmax and what follows": (
        lambda x: op.multiply(op.nn.softmax(x, -1), const(2.0)),
        [(6, 9)],
        [[6, 9]],
    ),
    "only a part is an output": (
        lambda x, w: op.strided_slice(op.matmul(x, w), [0, 1], [1, 2], [5, 8]),
        [(6, 9), (9, 8)],
        [[4, 6]],
    ),
    "chain of elementwise operators": (
        lambda x: op.exp(op.sin(op.add(x, const(1.0)))),
        [(6, 9)],
        [[6, 9]],
    ),
    "no dimensions": (lambda x: op.exp(op.sum(x)), [(6, 9)], [[]]),
    "dimensions of size 1": (
        lambda x, w: op.exp(op.reshape(op.matmul(x, w), (1, 6, 1, 1))),
        [(6, 9), (9, 1)],
        [[1, 6, 1, 1]],
    ),
    "convolution, bias and activation": (
        lambda x, w, b: op.nn.relu(
            op.add(op.nn.conv2d(x, w, padding=(1, 1)), op.reshape(b, (1, 4, 1, 1)))
        ),
        [(1, 3, 6, 6), (4, 3, 3, 3), (4,)],
        [[1, 4, 6, 6]],
    ),
}


@pytest.mark.parametrize("name", ONE_KERNEL)
def test_one_kernel(name):
    body, inputs, shapes = ONE_KERNEL[name]
    after = transformed(graph(body, *inputs), *STAGE)
    (kernel,) = kernels(after)
    assert written(kernel) == shapes


def test_a_sum_of_two_kernels_joins_the_later_one():
    before = graph(
        lambda x, a, b: op.add(op.matmul(x, a), op.matmul(op.exp(x), b)), (6, 9), (9, 8), (9, 8)
    )
    after = transformed(before, *STAGE)
    assert classes(after) == ["ILD", "ILD"]
    (decision,) = decisions(after, "add")
    assert (decision.fate, len(decision.into)) == ("fused", 1)
    assert written(kernels(after)[1]) == [[6, 8]]


def test_a_graph_output_in_the_middle_stays_an_output_of_the_kernel():
    def body(x, w):
        product = op.matmul(x, w)
        return product, op.exp(product)

    (kernel,) = kernels(transformed(graph(body, (6, 9), (9, 8)), *STAGE))
    assert written(kernel) == [[6, 8], [6, 8]]


def test_a_value_that_two_outputs_need_is_computed_once():
    def body(x, w):
        value = op.exp(op.matmul(x, w))
        return value, op.sin(value), op.permute_dims(value)

    (kernel,) = kernels(transformed(graph(body, (6, 9), (9, 8)), *STAGE))
    assert written(kernel) == [[6, 8], [6, 8], [8, 6]]
    text = kernel.script()
    assert text.count("T.exp") == 1


def test_merged_kernels_take_an_epilogue_each():
    before = graph(
        lambda x, q, k: (heads(op.matmul(x, q)), op.nn.relu(op.matmul(x, k))),
        (6, 9),
        (9, 8),
        (9, 8),
    )
    after = transformed(before, EliminateLayoutTransforms, MergeParallelOperators, FuseOperators)
    (kernel,) = kernels(after)
    assert sorted(written(kernel)) == [[2, 6, 4], [6, 8]]


def test_layer_norm_written_out_is_one_kernel_for_each_reduction():
    after = transformed(graph(normalised, (6, 16)), *STAGE)
    assert classes(after) == ["ILD"] * len(kernels(after))
    assert len(kernels(after)) <= 2


def test_split_of_a_product_writes_every_part():
    def body(x, w):
        parts = op.split(op.matmul(x, w), 2, 1)
        return relax.TupleGetItem(parts, 0), relax.TupleGetItem(parts, 1)

    after = transformed(graph(body, (6, 9), (9, 8)), *STAGE)
    (kernel,) = kernels(after)
    assert sorted(written(kernel)) == [[6, 4], [6, 4]]


def test_symbolic_rows():
    n = tirx.Var("n", "int64")
    before = graph(lambda x, w, b: gelu(op.add(op.matmul(x, w), b)), (n, 9), (9, 8), (8,))
    assert len(kernels(transformed(before, *STAGE, n=5))) == 1


# Refusals


def reasons(mod, kind):
    return "; ".join(decision.reason for decision in decisions(mod, kind))


@pytest.mark.parametrize(
    "other", [op.permute_dims, lambda x: op.concat([x[1], x[0]], 1)], ids=["transposed", "rolled"]
)
def test_a_reader_of_two_places(other):
    def body(x, then):
        total = op.multiply(op.sum(x, [2]), const(2.0))
        halves = op.split(total, [2], 1)
        parts = [relax.TupleGetItem(halves, number) for number in (0, 1)]
        return then(op.add(total, other(total if other is op.permute_dims else parts)))

    # Read by another kernel it is computed there; a graph output has to be a kernel of its own.
    after = transformed(
        graph(lambda x, w: body(x, lambda y: op.matmul(y, w)), (6, 6, 9), (6, 6)), *STAGE
    )
    assert classes(after) == ["ILD", "ILD"]
    assert fates(after, "add") == ["fused"]
    after = transformed(graph(lambda x: body(x, lambda y: y), (6, 6, 9)), *STAGE)
    assert classes(after) == ["ILD", "ILI"]
    (decision,) = decisions(after, "add")
    assert decision.fate == "kept"
    assert "at two places, which different work-items make" in decision.reason
    assert "a row reads two elements" in decision.reason
    assert "a graph output" in decision.reason


def test_a_broadcast_along_other_axes_than_the_rows():
    # Each mean belongs to a column and to a row at once: no row of the reader is its own.
    def body(x):
        mean = op.mean(x, [1])
        return op.add(op.subtract(x, op.expand_dims(mean, 1)), op.expand_dims(mean, 0))

    after = transformed(graph(body, (6, 6)), *STAGE)
    assert len(kernels(after)) == 2
    kept = [d for d in read_decisions(after) if d.fate == "kept"]
    assert "along different axes" in kept[-1].reason


def test_a_broadcast_over_more_elements_than_the_reduction():
    before = graph(lambda x, y: op.subtract(y, op.mean(x, [1], True)), (6, 3), (6, 9))
    after = transformed(before, *STAGE)
    assert len(kernels(after)) == 2
    assert "the reader has 54 elements, the reduction runs over 18" in reasons(after, "subtract")


def test_a_broadcast_of_what_others_read_too():
    def body(x):
        mean = op.mean(x, [1], True)
        return mean, op.subtract(x, mean)

    after = transformed(graph(body, (6, 9)), *STAGE)
    assert len(kernels(after)) == 2
    assert "is read by others too" in reasons(after, "subtract")


def test_a_broadcast_of_symbolic_rows_joins():
    n = tirx.Var("n", "int64")
    before = graph(lambda x: op.subtract(x, op.mean(x, [1], True)), (n, 9))
    after = transformed(before, *STAGE, n=5)
    assert len(kernels(after)) == 1
    assert fates(after, "subtract") == ["fused"]


def test_a_broadcast_over_symbolic_rows_of_unknown_length_stays():
    n, m = tirx.Var("n", "int64"), tirx.Var("m", "int64")
    before = graph(lambda x, y: op.subtract(y, op.mean(x, [1], True)), (6, n), (6, m))
    after = transformed(before, *STAGE, n=5, m=7)
    assert len(kernels(after)) == 2
    assert "the reader has m * T.int64(6) elements" in reasons(after, "subtract")


def test_a_circle_is_refused():
    # It reads the first product and, twice over, the second, which is made from the first.
    def body(x, w):
        first = op.matmul(x, w)
        second = op.matmul(op.exp(first), w)
        return op.add(first, op.multiply(second, op.permute_dims(second)))

    after = transformed(graph(body, (6, 6), (6, 6)), *STAGE)
    assert classes(after) == ["ILD", "ILD", "ILI"]
    assert "its other operands depend on 'matmul'" in reasons(after, "add")


def test_recomputing_is_refused_when_it_costs_too_much():
    # 2 * 2048 * 2048 values of the product would each compute the long prologue of its row again.
    def body(x, w):
        value = x
        for _ in range(4):
            value = op.exp(op.sin(value))
        return op.matmul(value, w)

    after = apply(graph(body, (64, 2048), (2048, 2048)), *STAGE)
    assert classes(after) == ["ILI", "ILD"]
    kept = [d for d in read_decisions(after) if d.fate == "kept"]
    assert len(kept) == 1
    assert "recomputed in its readers it would cost" in kept[0].reason
    assert len(kernels(apply(graph(body, (6, 16), (16, 4)), *STAGE))) == 1


def test_an_expression_that_would_grow_too_large_is_refused():
    def body(x):
        value = x
        for _ in range(10):
            value = op.add(op.sin(op.permute_dims(value)), op.exp(value))
        return value

    after = transformed(graph(body, (4, 4)), *STAGE)
    assert 1 < len(kernels(after)) < 10
    kept = [d for d in read_decisions(after) if d.fate == "kept"]
    assert any("would grow to" in d.reason for d in kept)


@pytest.fixture
def ranked():
    def make(body):
        builder = relax.BlockBuilder()
        x = relax.Var("x", relax.TensorType([3, 8], "float32"))
        with builder.function("main", [x]):
            with builder.dataflow():
                values = builder.emit(op.topk(x, 2, ret_type="values"))
                out = builder.emit_output(body(values))
            builder.emit_func_output(out)
        mod = LegaliseSorts()(builder.get())
        return relax.transform.LegalizeOps()(mod)

    return make


def test_what_stores_where_data_says_takes_no_epilogue(ranked):
    before = ranked(lambda values: op.exp(values))
    after = transformed(before, *STAGE)
    assert len(kernels(after)) == 2
    (decision,) = decisions(after, "tir_exp")
    assert "the kernel's data says where it stores" in decision.reason


@I.ir_module
class BetweenScans:
    @T.prim_func(private=True, s_tir=True)
    def running(X: T.Buffer((6, 8)), Y: T.Buffer((6, 8))):
        for r, t in T.grid(6, 8):
            with T.sblock("running"):
                vr = T.axis.spatial(6, r)
                vt = T.axis.opaque(8, t)
                Y[vr, vt] = X[vr, vt] + T.if_then_else(vt > 0, Y[vr, vt - 1], T.float32(0))

    @R.function
    def main(x: R.Tensor((6, 8), "float32")):
        cls = BetweenScans
        with R.dataflow():
            a = R.call_tir(cls.running, (x,), out_ty=R.Tensor((6, 8), "float32"))
            b = R.exp(a)
            c = R.call_tir(cls.running, (b,), out_ty=R.Tensor((6, 8), "float32"))
            R.output(c)
        return c


def test_nothing_joins_an_opaque_operator():
    after = transformed(relax.transform.LegalizeOps()(BetweenScans), *STAGE)
    assert len(calls(after)) == 3
    assert fates(after, "exp") + fates(after, "tir_exp") == ["kept"]
    text = reasons(after, "exp") + reasons(after, "tir_exp")
    assert "'a' is opaque" in text
    assert "read by an opaque operator (axis 'vt' runs in order)" in text


def moved_between(x, w):
    """Elementwise, relayout, elementwise, relayout: nothing is eliminated before."""
    product = op.nn.relu(op.add(op.matmul(x, w), x))
    turned = op.sigmoid(op.exp(op.permute_dims(product)))
    return op.sin(op.reshape(turned, (9, 4)))


def test_fixed_operators_can_be_left_out():
    mod = graph(moved_between, (6, 6), (6, 6))
    everything = transformed(mod, FuseOperators)
    assert classes(everything) == ["ILD"]
    without = transformed(mod, FuseOperators(fixed=False))
    # exp and sigmoid lie between two relayouts and have only each other to join.
    assert classes(without) == ["ILD", "fixed", "ILI", "fixed", "ILI"]
    for kind in ("transpose", "reshape"):
        (decision,) = decisions(without, kind)
        assert (decision.fate, decision.reason) == (
            "kept",
            "fixed operators do not take part in fusion",
        )
    assert fates(without, "relu") == fates(without, "add") == ["fused"]


def test_a_split_is_left_out_too():
    def body(x):
        parts = op.split(op.exp(x), 2, 1)
        return op.sin(relax.TupleGetItem(parts, 0))

    after = transformed(graph(body, (4, 6)), FuseOperators(fixed=False))
    assert classes(after) == ["ILI", "fixed", "ILI"]


def test_without_simplification_the_divisions_stay():
    def body(x):
        return op.exp(op.reshape(op.reshape(x, (2, 3, 4)), (6, 4)))

    mod = graph(body, (4, 6))
    counts = []
    for simplify in (True, False):
        stages = [
            stage
            for func in kernels(transformed(mod, FuseOperators(simplify=simplify)))
            for stage in read_stages(func)
        ]
        indices = [i for stage in stages for load in stage.loads() for i in load.indices]
        found = count_divisions(*indices)
        counts.append(found.divisions + found.modulos)
    assert counts[0] < counts[1]


def gate(x, w):
    """A gate: one half of each row times a function of the other."""
    halves = op.split(op.matmul(x, w), 2, 1)
    return op.multiply(relax.TupleGetItem(halves, 0), op.nn.gelu(relax.TupleGetItem(halves, 1)))


CLEAN = (relax.transform.EliminateCommonSubexpr(), relax.transform.CanonicalizeBindings())


def test_a_gate_computes_both_halves_at_each_point():
    after = transformed(graph(gate, (6, 9), (9, 8)), *CLEAN, *STAGE)
    (kernel,) = kernels(after)
    product, last = read_stages(kernel)
    assert product.is_reduction
    assert [int(axis.extent) for axis in last.axes] == [6, 4]
    assert fates(after, "multiply") == ["fused"]


def test_halves_that_others_read_too_are_stored():
    def body(x, w):
        product = op.matmul(x, w)
        first, second = (relax.TupleGetItem(op.split(product, 2, 1), n) for n in range(2))
        return op.multiply(first, op.nn.gelu(second)), product

    after = transformed(graph(body, (6, 9), (9, 8)), *CLEAN, *STAGE)
    assert len(kernels(after)) == 2
    (decision,) = (d for d in decisions(after, "multiply") if d.fate == "kept")
    assert "is read by others too" in decision.reason


def test_neighbours_that_would_be_computed_twice_are_stored():
    def body(x, w):
        product = op.matmul(x, w)
        ahead = op.strided_slice(product, [0], [1], [6])
        return op.add(ahead, op.strided_slice(product, [0], [0], [5]))

    after = transformed(graph(body, (6, 9), (9, 8)), *CLEAN, *STAGE)
    (decision,) = (d for d in decisions(after, "add") if d.fate == "kept")
    assert "it would compute 80 elements where 48 are needed" in decision.reason


def test_an_index_is_computed_where_it_is_used():
    """The place of a row, as importers make it of one that may count from the end."""

    def body(x, table, w):
        place = op.where(op.less(x, const(0, "int64")), op.add(x, const(9, "int64")), x)
        return op.matmul(op.take(table, place, 0), w)

    mod = graph(body, ((5,), "int64"), (9, 64), (64, 32))
    after = transformed(mod, *STAGE)
    assert classes(after) == ["ILD"]
