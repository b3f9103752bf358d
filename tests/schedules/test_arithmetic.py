"""Functions by arithmetic are as exact as promised, and vectors stay vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
from schedule_helpers import run, schedule, source_of
from tvm import te, tirx, topi
from tvm_ffi import structural_equal, structural_walk

from smartmem_tvm.schedules.arithmetic import by_arithmetic

ERROR = 5e-7
POINTS = np.concatenate(
    [
        np.linspace(-6, 6, 4001),
        np.logspace(-30, 0, 61),
        -np.logspace(-30, 0, 61),
        [0.0, -0.0, 3.9, -3.9, 4.0, -4.0, 100.0, -100.0, 1e30, -1e30, np.inf, -np.inf],
    ]
).astype("float32")


def _function(build, shape, dtype="float32"):
    x = te.placeholder(shape, name="x", dtype=dtype)
    return te.create_prim_func([x, te.compute(shape, lambda *i: build(x[i]), name="y")])


def _erf(values):
    return np.array([math.erf(float(v)) for v in values.reshape(-1)]).reshape(values.shape)


@pytest.mark.parametrize("pieces", [1, 5])
def test_error_function_everywhere(pieces, opencl_device):
    """Alone in its kernel, with lanes and, where an extent fits no vector, without."""
    points = POINTS[: len(POINTS) // pieces * pieces].reshape(-1, pieces)
    func = schedule(_function(te.erf, points.shape))
    (got,) = run(func, [points], [points], opencl_device)
    np.testing.assert_allclose(got, _erf(points), atol=ERROR, rtol=0)


def test_gelu_is_a_vector(opencl_device):
    def gelu(x):
        return 0.5 * x * (1.0 + te.erf(x * 0.7071067811865476))

    points = POINTS[np.abs(POINTS) < 50][:4096].reshape(64, 64)
    func = schedule(_function(gelu, points.shape))
    _, source = source_of(func)
    assert "erf" not in source.replace("compute", "")
    assert "vload16" in source
    (got,) = run(func, [points], [points], opencl_device)
    want = 0.5 * points * (1 + _erf(points * 0.7071067811865476))
    np.testing.assert_allclose(got, want, atol=4e-6, rtol=1e-6)


def test_a_product_keeps_the_argument_in_registers(opencl_device):
    a, b = te.placeholder((20, 33), name="a"), te.placeholder((33, 50), name="b")
    product = topi.matmul(a, b)
    func = te.create_prim_func([a, b, te.compute((20, 50), lambda i, j: te.erf(product[i, j]))])
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(s).astype("float32") / 4 for s in ((20, 33), (33, 50)))
    (got,) = run(schedule(func), [x, y], [np.zeros((20, 50), "float32")], opencl_device)
    np.testing.assert_allclose(got, _erf(x.astype("float64") @ y), atol=3e-6, rtol=0)


def test_nothing_is_read_ahead_of_its_condition(opencl_device):
    """A choice's operand may lie outside of its tensor where the other one is chosen."""
    x = te.placeholder((40, 16), name="x")

    def shifted(i, j):
        inside = tirx.all(i >= 30, i < 60)
        return te.if_then_else(inside, te.erf(x[i - 30, j] * 2.0), tirx.const(7.0, "float32"))

    func = te.create_prim_func([x, te.compute((90, 16), shifted)])
    data = np.random.default_rng(0).standard_normal((40, 16)).astype("float32")
    want = np.full((90, 16), 7, "float32")
    want[30:60] = _erf(data[:30] * 2)
    (got,) = run(schedule(func), [data], [want], opencl_device)
    np.testing.assert_allclose(got, want, atol=ERROR, rtol=0)
    kept = []
    value = tirx.if_then_else(tirx.Var("c", "bool"), tirx.erf(tirx.Var("v", "float32")), 0.0)
    assert not structural_equal(by_arithmetic(value, lambda e: kept.append(e) or e), value)
    assert not kept


def test_half_is_computed_in_float32():
    v = tirx.Var("v", "float16")
    kept = []
    value = by_arithmetic(tirx.erf(v), lambda e: kept.append(e) or e)
    assert str(value.ty.dtype) == "float16"
    assert {str(e.ty.dtype) for e in kept} == {"float32"}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_reciprocal_square_root(dtype):
    v = tirx.Var("v", dtype)
    want = tirx.const(1, dtype) / tirx.sqrt(v)
    assert structural_equal(by_arithmetic(tirx.rsqrt(v), lambda e: e), want)


def test_what_it_does_not_know_stays():
    v = tirx.Var("v", "float64")
    for value in (tirx.erf(v), tirx.exp(v), v + 1.0):
        assert structural_equal(by_arithmetic(value, lambda e: e), value)


def test_quotients_of_a_row_are_computed_once(opencl_device):
    """The mean and the deviation of a row do not stand in its loops."""
    x = te.placeholder((9, 100), name="x")
    k, r = te.reduce_axis((0, 100)), te.reduce_axis((0, 100))
    total = te.compute((9,), lambda i: te.sum(x[i, k], k), name="total")
    squares = te.compute(
        (9,), lambda i: te.sum((x[i, r] - total[i] / 100.0) * (x[i, r] - total[i] / 100.0), r)
    )
    normal = te.compute(
        (9, 100), lambda i, j: (x[i, j] - total[i] / 100.0) * te.rsqrt(squares[i] / 100.0 + 1e-6)
    )
    func = schedule(te.create_prim_func([x, normal]))
    loops, divided = [], []
    structural_walk(func.body, (tirx.For, loops.append))
    for loop in loops:
        if loop.kind == tirx.ForKind.SERIAL and int(loop.extent) > 1:
            structural_walk(loop.body, (tvm.ir.prim.expr.Div, divided.append))
    assert not divided
    data = np.random.default_rng(0).standard_normal((9, 100)).astype("float32")
    want = (data - data.mean(1, keepdims=True)) / np.sqrt(data.var(1, keepdims=True) + 1e-6)
    (got,) = run(func, [data], [want], opencl_device)
    np.testing.assert_allclose(got, want, atol=2e-5, rtol=0)
