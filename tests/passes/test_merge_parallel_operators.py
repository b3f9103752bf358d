from __future__ import annotations

import pytest
from relax_graphs import apply, const, decisions, graph, kernels, transformed
from tvm import relax, tirx
from tvm.relax import op

from smartmem_tvm.analysis.computation import read_stages
from smartmem_tvm.analysis.decisions import read_decisions
from smartmem_tvm.passes import EliminateLayoutTransforms, MergeParallelOperators

STAGE = (EliminateLayoutTransforms, MergeParallelOperators)


def outputs(func):
    """Number of tensors that a kernel writes for others."""
    written = {store.buffer for stage in read_stages(func) for store in stage.stores}
    return len(written & set(func.params))


def reductions(func):
    return [stage for stage in read_stages(func) if stage.is_reduction]


def test_query_key_and_value_share_a_kernel():
    before = graph(
        lambda x, q, k, v: (op.matmul(x, q), op.matmul(x, k), op.matmul(x, v)),
        (7, 9),
        (9, 5),
        (9, 5),
        (9, 5),
    )
    after = transformed(before, *STAGE)
    (kernel,) = kernels(after)
    assert outputs(kernel) == 3
    merged = decisions(after, "matmul")
    assert [d.fate for d in merged] == ["merged", "merged"]
    assert {d.into for d in merged} == {("lv",)}
    assert {d.reason for d in merged} == {"both read 'x0' in the same way"}


def test_heads_that_are_laid_out_differently_afterwards():
    def head(x, w):
        return op.permute_dims(op.reshape(op.matmul(x, w), (7, 2, 4)), [1, 0, 2])

    before = graph(
        lambda x, q, k: op.matmul(head(x, q), op.permute_dims(head(x, k), [0, 2, 1])),
        (7, 9),
        (9, 8),
        (9, 8),
    )
    after = transformed(before, *STAGE)
    assert sorted(outputs(kernel) for kernel in kernels(after)) == [1, 2]


def test_convolutions_of_one_image():
    before = graph(
        lambda x, a, b: op.add(
            op.nn.conv2d(x, a, padding=(1, 1)), op.exp(op.nn.conv2d(x, b, padding=(1, 1)))
        ),
        (1, 3, 6, 6),
        (4, 3, 3, 3),
        (4, 3, 3, 3),
    )
    after = transformed(before, *STAGE)
    assert outputs(kernels(after)[0]) == 2


def test_mean_and_variance_share_the_sum():
    before = graph(lambda x: (op.mean(x, 1, True), op.variance(x, 1, True)), (6, 10))
    after = transformed(before, *STAGE)
    (kernel,) = kernels(after)
    assert outputs(kernel) == 2
    # The mean, and the mean of the squares of the differences: not a sum for each.
    assert len(reductions(kernel)) == 2
    alone = [stage for func in kernels(before) for stage in reductions(func)]
    assert len(alone) == 3


def test_several_groups():
    # The weights are shared too, but a constant is no reason to merge.
    weights = [const([[value] * 5] * 9) for value in (0.5, 0.25)]
    before = graph(
        lambda x, y: tuple(op.matmul(data, w) for w in weights for data in (x, y)), (7, 9), (7, 9)
    )
    after = transformed(before, *STAGE)
    assert [outputs(kernel) for kernel in kernels(after)] == [2, 2]


def test_symbolic_rows():
    n = tirx.Var("n", "int64")
    before = graph(lambda x, a, b: (op.matmul(x, a), op.matmul(x, b)), (n, 9), (9, 5), (9, 5))
    assert len(kernels(transformed(before, *STAGE, n=4))) == 1


def in_a_chain(x, w):
    first = op.matmul(x, w)
    return op.add(op.matmul(x, op.exp(op.reshape(first, (9, 9)))), first)


REFUSED = {
    "different inputs": (
        lambda x, y, w: (op.matmul(x, w), op.matmul(y, w)),
        [(7, 9), (7, 9), None],
    ),
    "one depends on the other": (in_a_chain, [(9, 9), (9, 9)]),
    "different extents": (
        lambda x, a, b: (op.matmul(x, a), op.matmul(x, b)),
        [(7, 9), (9, 5), (9, 6)],
    ),
    "different reductions": (
        lambda x, a: (op.matmul(x, a), op.sum(x, 1, True)),
        [(5, 9), (9, 5)],
    ),
    "read in different ways": (
        lambda x, a, b: (op.matmul(x, a), op.matmul(op.permute_dims(x), b)),
        [(9, 9), (9, 5), (9, 5)],
    ),
    "read at an offset": (
        lambda x, a, b: (
            op.matmul(op.strided_slice(x, [1], [0], [9]), a),
            op.matmul(op.strided_slice(x, [1], [1], [10]), b),
        ),
        [(7, 10), (9, 5), (9, 5)],
    ),
    "reductions of different axes": (lambda x: (op.sum(x, 0), op.sum(x, 1)), [(9, 9)]),
    "elementwise": (lambda x: (op.exp(x), op.sin(x)), [(9, 9)]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    body, inputs = REFUSED[name]
    if name == "different inputs":  # what both read is a constant: a weight, not an activation
        weight = const([[0.5] * 5] * 9)
        before = graph(lambda x, y: body(x, y, weight), *inputs[:2])
    else:
        before = graph(body, *inputs)
    after = apply(before, EliminateLayoutTransforms)
    merged = transformed(after, MergeParallelOperators)
    assert len(kernels(merged)) == len(kernels(after)) > 1
    assert "merged" not in {d.fate for d in read_decisions(merged)}


def test_what_would_close_a_circle_through_a_merged_pair_stays():
    # a and d may merge, b and c may merge; b needs a, d needs c: not both.
    def body(x, y, w):
        a, c = op.matmul(x, w), op.matmul(y, w)
        b = op.matmul(y, op.exp(a))
        d = op.matmul(x, op.exp(c))
        return b, d, a, c

    before = graph(body, (6, 6), (6, 6), (6, 6))
    after = transformed(before, *STAGE)
    assert len(kernels(after)) < len(kernels(before))
    relax.analysis.well_formed(after)
