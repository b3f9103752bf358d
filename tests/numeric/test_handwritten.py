"""Functions that no importer writes, called from a graph: the same values as their blocks in order.

What is not read as stages is kept whole; a result must never depend on which of the two it is.
"""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op
from tvm.script import tirx as T

from smartmem_tvm.devices import load_profile
from smartmem_tvm.pipeline import register

pytestmark = pytest.mark.device


@T.prim_func(private=True, s_tir=True)
def stored_twice(X: T.Buffer((6, 8), "float32"), C: T.Buffer((6, 16), "float32")):
    for i, j in T.grid(6, 8):
        with T.sblock("part"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = X[vi, vj] * T.float32(2)
            C[vi, vj + 8] = X[vi, vj]


@T.prim_func(private=True, s_tir=True)
def copied_twice(X: T.Buffer((6, 8), "float32"), C: T.Buffer((6, 16), "float32")):
    for i, j in T.grid(6, 8):
        with T.sblock("part"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = X[vi, vj]
            C[vi, vj + 8] = X[vi, vj]


@T.prim_func(private=True, s_tir=True)
def stored_by_case(X: T.Buffer((6, 8), "float32"), C: T.Buffer((6, 8), "float32")):
    for i, j in T.grid(6, 8):
        with T.sblock("part"):
            vi, vj = T.axis.remap("SS", [i, j])
            if vj < 5:
                C[vi, vj] = X[vi, vj] * T.float32(2)
            if vj >= 5:
                C[vi, vj] = X[vi, vj] + T.float32(1)


@T.prim_func(private=True, s_tir=True)
def summed_twice(X: T.Buffer((6, 8), "float32"), C: T.Buffer((6, 2), "float32")):
    for i, k in T.grid(6, 8):
        with T.sblock("part"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                C[vi, 0] = T.float32(0)
                C[vi, 1] = T.float32(0)
            C[vi, 0] = C[vi, 0] + X[vi, vk]
            C[vi, 1] = C[vi, 1] + X[vi, vk] * X[vi, vk]


@T.prim_func(private=True, s_tir=True)
def twice_inside(X: T.Buffer((6, 8), "float32"), C: T.Buffer((6, 16), "float32")):
    B = T.sblock_alloc_buffer((6, 16))
    for i, j in T.grid(6, 8):
        with T.sblock("part"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = X[vi, vj] * T.float32(2)
            B[vi, vj + 8] = X[vi, vj]
    for i, j in T.grid(6, 16):
        with T.sblock("out"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = B[vi, vj] + T.float32(1)


@T.prim_func(private=True, s_tir=True)
def replaced_inside(X: T.Buffer((6, 8), "float32"), C: T.Buffer((6, 8), "float32")):
    B = T.sblock_alloc_buffer((6, 8))
    for i, j in T.grid(6, 8):
        with T.sblock("part"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = X[vi, vj]
            B[vi, vj] = X[vi, vj] * T.float32(2)
    for i, j in T.grid(6, 8):
        with T.sblock("out"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = B[vi, vj] + T.float32(1)


@T.prim_func(private=True, s_tir=True)
def rows_from_the_last(
    X: T.Buffer((6, 8), "float32"), C: T.Buffer((6, 1), "float32"), D: T.Buffer((6, 1), "float32")
):
    for i, k in T.grid(6, 8):
        with T.sblock("part"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                C[5 - vi, 0] = T.float32(0)
            C[5 - vi, 0] = C[5 - vi, 0] + X[vi, vk]
    for i in range(6):
        with T.sblock("out"):
            vi = T.axis.spatial(6, i)
            D[vi, 0] = C[vi, 0] + T.float32(1)


@T.prim_func(private=True, s_tir=True)
def turned(
    X: T.Buffer((6, 8), "float32"), C: T.Buffer((8, 6), "float32"), D: T.Buffer((8, 6), "float32")
):
    for i, j in T.grid(6, 8):
        with T.sblock("part"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[7 - vj, vi] = X[vi, vj] * T.float32(2)
    for i, j in T.grid(8, 6):
        with T.sblock("out"):
            vi, vj = T.axis.remap("SS", [i, j])
            D[vi, vj] = C[vi, vj] + T.float32(1)


def _and_one_more(first):
    return [first, first + 1]


CASES = {
    "stored_twice": (stored_twice, lambda x: [np.concatenate([2 * x, x], 1)]),
    "copied_twice": (copied_twice, lambda x: [np.concatenate([x, x], 1)]),
    "stored_by_case": (stored_by_case, lambda x: [np.concatenate([2 * x[:, :5], x[:, 5:] + 1], 1)]),
    "summed_twice": (summed_twice, lambda x: [np.stack([x.sum(1), (x * x).sum(1)], 1)]),
    "twice_inside": (twice_inside, lambda x: [np.concatenate([2 * x, x], 1) + 1]),
    "replaced_inside": (replaced_inside, lambda x: [2 * x + 1]),
    "rows_from_the_last": (
        rows_from_the_last,
        lambda x: _and_one_more(x.sum(1, keepdims=True)[::-1]),
    ),
    "turned": (turned, lambda x: _and_one_more(2 * x.T[::-1])),
}


def _called(func, before, after):
    """A graph that calls the function, with operators around it or alone."""
    shapes = [[int(dim) for dim in param.shape] for param in func.params]
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shapes[0], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            read = builder.emit(before(x))
            types = [relax.TensorType(shape, "float32") for shape in shapes[1:]]
            call = relax.call_tir(
                builder.add_func(func, "odd"),
                relax.Tuple([read]),
                types if len(types) > 1 else types[0],
            )
            made = builder.emit(call)
            parts = [made] if len(types) == 1 else [made[n] for n in range(len(types))]
            out = builder.emit_output(relax.Tuple([builder.emit(after(part)) for part in parts]))
        builder.emit_func_output(out)
    return builder.get()


AROUND = {
    "relayouts": (lambda x: op.permute_dims(op.reshape(x, (8, 6))), op.permute_dims),
    "arithmetic": (op.exp, lambda y: op.multiply(y, y)),
}
NUMPY = {
    "relayouts": (lambda x: x.reshape(8, 6).T, np.transpose),
    "arithmetic": (np.exp, np.square),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", CASES)
def test_values_of_handwritten_functions(name, around, opencl_device):
    register()
    func, reference = CASES[name]
    mod = _called(func, *AROUND[around])
    target = load_profile("cpu").target()
    built = tvm.compile(mod, target, relax_pipeline="smartmem", tir_pipeline="smartmem")
    machine = relax.VirtualMachine(built, [opencl_device] * 2)
    x = np.random.default_rng(0).standard_normal((6, 8)).astype("float32")
    made = machine["main"](tvm.runtime.tensor(x, opencl_device))
    before, after = NUMPY[around]
    wanted = [after(part) for part in reference(before(x))]
    assert len(made) == len(wanted)
    for got, want in zip(made, wanted, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-5)
