"""Blocks whose batch is open up to a bound: right for every batch, and no 64-bit indices."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from smartmem_tvm.compiler import compile as compile_model
from smartmem_tvm.errors import SmartMemError

pytestmark = pytest.mark.device

BOUND = 5
WIDE = re.compile(r"\b(convert_)?u?long\d*\b|\b(u?int64)\b")
rng = np.random.default_rng(0)
MATRICES = [rng.standard_normal((24, 24)).astype("float32") / 5 for _ in range(4)]
FILTERS = [rng.standard_normal((6, 6, 3, 3)).astype("float32") / 7 for _ in range(2)]
BIAS = rng.standard_normal((1, 6, 1, 1)).astype("float32")


def module(body, *shape, bound: int | None = BOUND) -> tvm.IRModule:
    n = tirx.Var("n", "int64")
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([n, *shape], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(body(builder.emit, x, n))
        builder.emit_func_output(result)
    mod = builder.finalize()
    if bound is not None:
        mod["main"] = mod["main"].with_attr("tir_var_upper_bound", {"n": bound})
    return mod


def attention(emit, x, n):
    op = relax.op
    h = emit(op.subtract(x, emit(op.mean(x, [-1], True))))
    q, k, v = (
        emit(
            op.permute_dims(
                emit(op.reshape(emit(op.matmul(h, relax.const(w))), (n, 7, 3, 8))), axes
            )
        )
        for w, axes in zip(MATRICES, ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)), strict=False)
    )
    weights = emit(op.nn.softmax(emit(op.matmul(q, k)), -1))
    heads = emit(op.permute_dims(emit(op.matmul(weights, v)), [0, 2, 1, 3]))
    return op.add(x, emit(op.matmul(emit(op.reshape(heads, (n, 7, 24))), relax.const(MATRICES[3]))))


def attention_of(x):
    h = x - x.mean(-1, keepdims=True)
    q, k, v = ((h @ w).reshape(-1, 7, 3, 8).transpose(0, 2, 1, 3) for w in MATRICES[:3])
    weights = np.exp(q @ k.transpose(0, 1, 3, 2))
    weights /= weights.sum(-1, keepdims=True)
    return x + (weights @ v).transpose(0, 2, 1, 3).reshape(-1, 7, 24) @ MATRICES[3]


def convolutions(emit, x, n):
    op = relax.op
    h = emit(op.nn.conv2d(x, relax.const(FILTERS[0]), padding=1))
    h = emit(op.nn.relu(emit(op.add(h, relax.const(BIAS)))))
    h = emit(op.nn.conv2d(h, relax.const(FILTERS[1]), padding=1))
    # Channels shuffled in two groups, as between grouped convolutions.
    h = emit(op.reshape(emit(op.add(x, h)), (n, 2, 3, 9, 11)))
    return op.reshape(emit(op.permute_dims(h, [0, 2, 1, 3, 4])), (n, 6, 9, 11))


def convolutions_of(x):
    def convolved(x, weight):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        return np.einsum("nihwyx,oiyx->nohw", windows, weight, optimize=True)

    h = x + convolved(np.maximum(convolved(x, FILTERS[0]) + BIAS, 0), FILTERS[1])
    return h.reshape(-1, 2, 3, 9, 11).transpose(0, 2, 1, 3, 4).reshape(x.shape)


BLOCKS = {
    "attention": (attention, attention_of, (7, 24)),
    "convolutions": (convolutions, convolutions_of, (6, 9, 11)),
}


def wide_lines(artifact) -> list[str]:
    """Lines with 64-bit integers, but for the kernels' parameters."""
    lines = [line for source in artifact.sources.values() for line in source.splitlines()]
    return [line for line in lines if not line.startswith("__kernel") and WIDE.search(line)]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_batch_is_right_in_32_bits(block):
    body, reference, shape = BLOCKS[block]
    artifact = compile_model(module(body, *shape))
    assert artifact.sources
    assert wide_lines(artifact) == []
    for batch in (1, 3, BOUND):
        x = np.random.default_rng(batch).standard_normal((batch, *shape)).astype("float32")
        (ours,) = artifact.run([x]).values()
        np.testing.assert_allclose(ours, reference(x), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("block", BLOCKS)
def test_without_a_bound_indices_are_wide(block):
    body, reference, shape = BLOCKS[block]
    artifact = compile_model(module(body, *shape, bound=None))
    assert wide_lines(artifact)
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype("float32")
    (ours,) = artifact.run([x]).values()
    np.testing.assert_allclose(ours, reference(x), rtol=2e-4, atol=2e-5)


def test_a_batch_above_the_bound():
    artifact = compile_model(module(attention, 7, 24))
    with pytest.raises(SmartMemError, match=r"input 'x'.* 'n' up to 5: dimension 0 is 6"):
        artifact.run([np.zeros((6, 7, 24), "float32")])
