"""Factors leave sums where that keeps the value, and stay where it would not."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import te, topi
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_equal

from smartmem_tvm.analysis.expressions import loads_of
from smartmem_tvm.analysis.fused_kernel import read_kernel
from smartmem_tvm.devices import load_profile
from smartmem_tvm.schedules import ApplySchedules, own_rules


def _operands(func):
    """Names of what the one sum multiplies, and of what its result is multiplied with."""
    kernel = read_kernel(func)
    (stage,) = kernel.reductions
    own = {store.buffer for store in stage.stores}
    inside = {x.source.name for s in stage.stores for x in loads_of(s.value) if x.source not in own}
    after = {x.source.name for s in kernel.sink.stores for x in loads_of(s.value)}
    return inside, after - {buffer.name for buffer in own}


def _run(func, inputs, want, device):
    target = load_profile("cpu").target()
    with target:
        mod = ApplySchedules(own_rules())(tvm.IRModule({"main": func}))
    built = tvm.tirx.build(mod, target=target, pipeline="smartmem")
    result = tvm.runtime.tensor(np.zeros_like(want), device)
    built["main"](*(tvm.runtime.tensor(x, device) for x in inputs), result)
    np.testing.assert_allclose(result.numpy(), want, rtol=2e-5, atol=2e-5)


def _placeholders(*shapes, dtype="float32"):
    return [te.placeholder(shape, dtype, name) for shape, name in zip(shapes, "abcd", strict=False)]


def _normal(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


def test_scale_of_both_operands(opencl_device):
    a, b, c = _placeholders((9, 20), (20, 17), (1,))
    k = te.reduce_axis((0, 20))
    func = te.create_prim_func(
        [a, b, c, te.compute((9, 17), lambda i, j: te.sum(a[i, k] * c[0] * (b[k, j] * c[0]), k))]
    )
    assert _operands(func) == ({"a", "b"}, {"c"})
    x, y, s = _normal((9, 20), (20, 17), (1,))
    _run(func, [x, y, s], (x * s) @ (y * s), opencl_device)


def test_factors_of_rows_and_divisors(opencl_device):
    """They are taken at the element that is read, through whatever view of the sum."""
    a, b, c, d = _placeholders((9, 20), (20, 6), (9,), (6,))
    k = te.reduce_axis((0, 20))
    total = te.compute((9, 6), lambda i, j: te.sum(a[i, k] * c[i] * b[k, j] / (d[j] * 2.0), k))
    func = te.create_prim_func([a, b, c, d, topi.transpose(total, (1, 0))])
    assert _operands(func) == ({"a", "b"}, {"c", "d"})
    x, y, s, t = _normal((9, 20), (20, 6), (9,), (6,))
    t = np.abs(t) + 1
    _run(
        func, [x, y, s, t], np.ascontiguousarray(((x * s[:, None]) @ y / (2 * t)).T), opencl_device
    )


def test_a_constant_of_a_mean(opencl_device):
    (a,) = _placeholders((9, 50))
    k = te.reduce_axis((0, 50))
    func = te.create_prim_func([a, te.compute((9,), lambda i: te.sum(a[i, k] * 0.02, k))])
    kernel = read_kernel(func)
    (stage,) = kernel.reductions
    (value,) = (s.value for s in stage.stores)
    assert isinstance(value.b, TensorLoad)
    (x,) = _normal((9, 50))
    _run(func, [x], x.mean(1), opencl_device)


def _narrow():
    a, b, c = _placeholders((9, 20), (20, 17), (1,), dtype="float16")
    k = te.reduce_axis((0, 20))
    return [a, b, c, te.compute((9, 17), lambda i, j: te.sum(a[i, k] * c[0] * b[k, j], k))]


def _maximum():
    a, _, c = _placeholders((9, 20), (20, 17), (1,))
    k = te.reduce_axis((0, 20))
    return [a, c, te.compute((9,), lambda i: te.max(a[i, k] * c[0], k))]


def _moving_divisor():
    a, b = _placeholders((9, 20), (20, 17))
    k = te.reduce_axis((0, 20))
    return [a, b, te.compute((9, 17), lambda i, j: te.sum(a[i, k] / b[k, j], k))]


def _sum_of_a_sum():
    a, b, c = _placeholders((9, 20), (20, 17), (9,))
    k = te.reduce_axis((0, 20))
    return [a, b, c, te.compute((9, 17), lambda i, j: te.sum((a[i, k] + c[i]) * b[k, j], k))]


@pytest.mark.parametrize("build", [_narrow, _maximum, _moving_divisor, _sum_of_a_sum])
def test_what_could_change_the_value_stays(build):
    """Narrow sums overflow; a maximum turns with the sign; the rest are no factors."""
    func = te.create_prim_func(build())
    inside, after = _operands(func)
    assert inside == {p.name for p in func.params[:-1]}
    assert not after


def test_a_sum_that_another_reduction_reads_stays():
    a, c = _placeholders((9, 20), (9,))
    k, r = te.reduce_axis((0, 20)), te.reduce_axis((0, 20))
    total = te.compute((9,), lambda i: te.sum(a[i, k] * c[i], k), name="total")
    func = te.create_prim_func(
        [a, c, te.compute((9,), lambda i: te.sum((a[i, r] - total[i]) * a[i, r], r))]
    )
    first, _ = read_kernel(func).reductions
    assert {x.source.name for s in first.stores for x in loads_of(s.value)} >= {"a", "b"}


def test_nothing_to_take_out():
    a, b = _placeholders((9, 20), (20, 17))
    func = te.create_prim_func([a, b, topi.matmul(a, b)])
    kernel = read_kernel(func)
    (stage,) = kernel.reductions
    (store,) = kernel.sink.stores
    assert isinstance(store.value, TensorLoad)
    assert structural_equal(stage.initial[0], tvm.tirx.const(0, "float32"))
