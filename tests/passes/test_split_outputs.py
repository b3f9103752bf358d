from __future__ import annotations

import numpy as np
import pytest
from relax_graphs import STAGE, apply, assert_same_values, const, graph, kernels
from tvm import tirx
from tvm.relax import op

from smartmem_tvm.analysis.computation import read_stages
from smartmem_tvm.passes import SplitOutputs

RNG = np.random.default_rng(1)


def weights(*shape):
    return const(RNG.standard_normal(shape))


def attention(x, wide=24):
    """One projection makes q, k and v."""
    made = op.matmul(x, weights(8, wide))
    third = wide // 3
    q, k, v = (op.strided_slice(made, [1], [n * third], [(n + 1) * third]) for n in range(3))
    scores = op.matmul(q, op.permute_dims(k))
    return op.matmul(scores, v)


def outputs(mod):
    """Output shapes of every kernel."""
    shapes = []
    for func in kernels(mod):
        written = [p for p in func.params if p not in reads(func)]
        shapes.append([[int(d) for d in p.shape] for p in written])
    return shapes


def reads(func):
    stages = read_stages(func)
    made = {store.buffer for stage in stages for store in stage.stores}
    return {p for p in func.params if p not in made}


def test_parts_with_readers_of_their_own_become_tensors():
    joined = apply(graph(attention, [5, 8]), *STAGE)
    split = apply(joined, SplitOutputs)
    assert outputs(joined)[0] == [[5, 24]]
    assert outputs(split)[0] == [[5, 8], [5, 8], [5, 8]]
    assert len(kernels(split)) == len(kernels(joined)) == 3
    assert_same_values(joined, split)


def test_parts_along_any_dimension_and_in_any_order():
    def body(x):
        made = op.nn.relu(op.matmul(x, weights(8, 3)))
        last = op.strided_slice(made, [0], [4], [7])
        first = op.strided_slice(made, [0], [0], [3])
        return op.matmul(last, op.permute_dims(first))

    joined = apply(graph(body, [7, 8]), *STAGE)
    split = apply(joined, SplitOutputs)
    assert outputs(split)[0] == [[3, 3], [3, 3]]  # row 3 has no reader
    assert_same_values(joined, split)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda x: both(x, 0, 5, 4, 8), id="the ranges overlap"),
        pytest.param(lambda x: both(x, 0, 8, 0, 8), id="both read all of it"),
        pytest.param(lambda x: both(x, 0, 4, 4, 8, result=True), id="a result of the graph"),
    ],
)
def test_near_misses_stay(body):
    joined = apply(graph(body, [6, 8]), *STAGE)
    split = apply(joined, SplitOutputs)
    assert outputs(split) == outputs(joined)
    assert_same_values(joined, split)


W = weights(8, 8)


def both(x, a, b, c, d, result=False):
    made = op.matmul(x, W)
    left = op.strided_slice(made, [1], [a], [b])
    right = op.strided_slice(made, [1], [c], [d])
    total = op.add(op.sum(op.nn.softmax(left), [1]), op.sum(op.nn.softmax(right), [1]))
    return (total, made) if result else total


def test_an_input_of_the_graph_stays():
    def body(x):
        q = op.strided_slice(x, [1], [0], [4])
        k = op.strided_slice(x, [1], [4], [8])
        return op.matmul(q, op.permute_dims(k))

    joined = apply(graph(body, [5, 8]), *STAGE)
    assert outputs(apply(joined, SplitOutputs)) == outputs(joined)


def test_what_an_opaque_operator_reads_stays():
    def body(x):
        made = op.matmul(x, W)
        left = op.strided_slice(made, [1], [0], [4])
        right = op.strided_slice(made, [1], [4], [8])
        return op.matmul(left, op.permute_dims(right)), op.sort(made, axis=1)

    joined = apply(graph(body, [5, 8]), *STAGE)
    split = apply(joined, SplitOutputs)
    assert [5, 4] not in [shape for kernel in outputs(split) for shape in kernel]


def test_a_symbolic_batch_is_no_obstacle():
    n = tirx.Var("n", "int64")
    joined = apply(graph(attention, [n, 8]), *STAGE)
    split = apply(joined, SplitOutputs)
    assert len(kernels(split)) == 3
    assert_same_values(joined, split, n=4)


def test_twice_changes_nothing_more():
    split = apply(graph(attention, [5, 8]), *STAGE, SplitOutputs)
    assert outputs(apply(split, SplitOutputs)) == outputs(split)
