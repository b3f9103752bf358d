"""What no loop changes is computed before it, unless a condition keeps it from being read."""

from __future__ import annotations

import numpy as np
from schedule_helpers import run, schedule
from tvm import te, tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_walk


def _serial_loads(func, name):
    """Loads of a tensor inside serial loops, each loop's own ones included."""
    loops, found = [], []
    structural_walk(func.body, (tirx.For, loops.append))
    for loop in loops:
        if loop.kind == tirx.ForKind.SERIAL and int(loop.extent) > 1:
            structural_walk(loop.body, (TensorLoad, found.append))
    return [load for load in found if load.source.name == name]


def test_what_data_say_of_an_index(opencl_device):
    """Attention to chosen windows: the window of a key is looked up once, not for each channel."""
    q = te.placeholder((9, 32), name="q")
    keys = te.placeholder((7, 7, 32), name="keys")
    at = te.placeholder((9, 20), "int64", name="at")
    k = te.reduce_axis((0, 32))
    scores = te.compute(
        (9, 20),
        lambda i, j: te.sum(
            q[i, k] * keys[tirx.floordiv(at[i, j], 7), tirx.floormod(at[i, j], 7), k], k
        ),
    )
    func = schedule(te.create_prim_func([q, keys, at, scores]))
    assert not _serial_loads(func, "at")
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(s).astype("float32") for s in ((9, 32), (7, 7, 32)))
    chosen = rng.integers(0, 49, (9, 20))
    want = np.einsum("ik,ijk->ij", x, y.reshape(49, 32)[chosen]).astype("float32")
    (got,) = run(func, [x, y, chosen], [want], opencl_device)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_an_index_under_a_condition_stays_there(opencl_device):
    """at[i - 30] lies outside of its tensor where the condition does not hold."""
    x = te.placeholder((50, 64), name="x")
    at = te.placeholder((30,), "int32", name="at")
    k = te.reduce_axis((0, 64))
    total = te.compute(
        (90,),
        lambda i: te.sum(
            tirx.if_then_else(tirx.all(i >= 30, i < 60), x[at[i - 30], k], tirx.const(0.0)), k
        ),
    )
    func = schedule(te.create_prim_func([x, at, total]))
    rng = np.random.default_rng(0)
    data = rng.standard_normal((50, 64)).astype("float32")
    chosen = rng.integers(0, 50, 30).astype("int32")
    want = np.zeros(90, "float32")
    want[30:60] = data[chosen].sum(1)
    (got,) = run(func, [data, chosen], [want], opencl_device)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
