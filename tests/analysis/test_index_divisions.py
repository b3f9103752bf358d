"""Divisions of composed maps, counted without building them, and those of inner loops."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax
from tvm.relax import op
from tvm.script import tirx as T

from smartmem_tvm.analysis.index_divisions import (
    COMPOSED_DIVISIONS,
    inner_divisions,
    total_divisions,
    written_divisions,
)
from smartmem_tvm.passes import EliminateLayoutTransforms


def legalised(body, *shape):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            made = builder.emit_output(builder.normalize(body(builder.emit, x)))
        builder.emit_func_output(made)
    with tvm.target.Target("llvm"):
        return relax.transform.LegalizeOps()(builder.get())


def windows(emit, x):
    x = emit(op.reshape(x, (1, 2, 3, 4, 5, 7)))
    x = emit(op.permute_dims(x, [0, 1, 3, 2, 4, 5]))
    return op.exp(emit(op.reshape(x, (8, 15, 7))))


def thrice(emit, x):
    for shape in ((42, 20), (8, 105), (3, 280)):
        x = emit(op.permute_dims(emit(op.reshape(x, shape))))
    return op.sum(x, [0])


@pytest.mark.parametrize("body", [windows, thrice])
def test_composed_divisions_are_those_of_the_composition(body):
    mod = legalised(body, 6, 20, 7)
    composed = EliminateLayoutTransforms(simplify=False)(mod)
    assert composed.get_attr(COMPOSED_DIVISIONS) == total_divisions(composed, written_divisions)
    simplified = EliminateLayoutTransforms()(mod)
    assert simplified.get_attr(COMPOSED_DIVISIONS) == composed.get_attr(COMPOSED_DIVISIONS)
    assert total_divisions(simplified, written_divisions) < composed.get_attr(COMPOSED_DIVISIONS)


def test_composition_multiplies():
    # Each reshape of the chain uses its axes several times, so the count grows with the product.
    counts = []
    for length in (1, 2, 3):

        def body(emit, x, length=length):
            for number in range(length):
                x = emit(op.permute_dims(x))
                x = emit(op.reshape(x, (30, 28) if number % 2 else (28, 30)))
            return op.exp(x)

        composed = EliminateLayoutTransforms()(legalised(body, 28, 30))
        counts.append(composed.get_attr(COMPOSED_DIVISIONS))
    assert counts[2] - counts[1] > counts[1] - counts[0] > 0


@T.prim_func(s_tir=True)
def kernel(a: T.Buffer((64, 8, 8)), b: T.Buffer((64, 512))):
    T.func_attr({"tirx.is_scheduled": True})
    for group in T.thread_binding(64, thread="blockIdx.x"):
        for r in range(64):
            for lane in T.vectorized(8):
                b[group, r * 8 + lane] = a[group, r // 8 + lane // 8, r % 8] + a[group // 8, 0, 0]


@T.prim_func(s_tir=True)
def flat(a: T.Buffer((64, 8, 8)), b: T.Buffer((64, 64))):
    T.func_attr({"tirx.is_scheduled": True})
    for group in T.thread_binding(64, thread="blockIdx.x"):
        for r in range(64):
            b[group, r] = a[group, r // 8, r % 8]


@T.prim_func(s_tir=True)
def swapped(a: T.Buffer((64, 8, 8)), b: T.Buffer((64, 64))):
    T.func_attr({"tirx.is_scheduled": True})
    for group in T.thread_binding(64, thread="blockIdx.x"):
        for r in range(64):
            b[group, r] = a[group, r % 8, r // 8]


@T.prim_func(s_tir=True)
def rolled(a: T.Buffer((64, 64)), b: T.Buffer((64, 64))):
    T.func_attr({"tirx.is_scheduled": True})
    for group in T.thread_binding(64, thread="blockIdx.x"):
        start: T.let = group // 2
        for r in range(64):
            b[group, r] = a[group, (r + start) % 64]


@T.prim_func(s_tir=True)
def copied(a: T.Buffer((64, 8, 8)), b: T.Buffer((64, 4))):
    T.func_attr({"tirx.is_scheduled": True})
    for group in T.thread_binding(64, thread="blockIdx.x"):
        for i in T.unroll(4):
            b[group, i] = a[group, i % 2, i // 2]


def found(func):
    return [(d.loop, d.kind, d.split) for d in inner_divisions(func)]


def test_what_is_divided_in_an_inner_loop():
    assert found(swapped) == [("r", "serial", 8), ("r", "serial", 8)]


def test_what_is_the_same_in_all_iterations_does_not_count():
    assert all("group" not in d.expr for d in inner_divisions(kernel))


def test_what_flat_storage_puts_together_again_does_not_count():
    assert found(flat) == []


def test_a_rotation_is_affine_on_no_stretch():
    ((loop, kind, split),) = found(rolled)
    assert (loop, kind, split) == ("r", "serial", None)


def test_what_unrolling_makes_constant_does_not_count():
    assert found(copied) == []
