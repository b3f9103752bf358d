"""Vectors that lie in one piece become one built-in; all others stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.ir import assert_structural_equal
from tvm.script import tirx as T

from smartmem_tvm.devices import load_profile
from smartmem_tvm.passes import LowerVectors


def lowered(func):
    return LowerVectors()(tvm.IRModule({"main": func}))["main"]


def copy(first, lanes, dtype="float32", size=64, stride=1):
    """``b[first …] = a[first …] + 1`` as one vector, `first` made from the variable n."""
    a, b = (tirx.decl_buffer((size,), dtype, name) for name in "ab")
    n = tirx.Var("n", "int32")
    ramp = tirx.Ramp(first(n), stride, lanes)
    one = tirx.Broadcast(tirx.const(1, dtype), lanes)
    body = tirx.BufferStore(b, tirx.BufferLoad(a, [ramp]) + one, [ramp])
    return tirx.PrimFunc([a, b, n], body), (a, b, n, one)


def filled(value, name, lanes):
    return tirx.call_pure_extern(f"{value.ty.dtype}x{lanes}", f"({name}{lanes})", value)


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
@pytest.mark.parametrize(("dtype", "name"), [("float32", "float"), ("int32", "int")])
def test_a_start_anywhere(lanes, dtype, name):
    func, (a, b, n, one) = copy(lambda n: n * 7 + 3, lanes, dtype)

    def at(buffer):
        return tirx.address_of(tirx.BufferLoad(buffer, [n * 7 + 3]))

    loaded = tirx.call_pure_extern(f"{dtype}x{lanes}", f"vload{lanes}", 0, at(a))
    value = loaded + filled(one.value, name, lanes)
    stored = tirx.Evaluate(tirx.call_extern("void", f"vstore{lanes}", value, 0, at(b)))
    assert_structural_equal(lowered(func), func.with_body(stored))


def test_a_proved_start_stays():
    """The generator has built-ins for it; only the constant is filled at once."""
    func, (_, _, _, one) = copy(lambda n: n * 32 + 16, 16)
    made = lowered(func)
    assert isinstance(made.body, tirx.BufferStore)
    assert_structural_equal(made.body.value.a, func.body.value.a)
    assert_structural_equal(made.body.value.b, filled(one.value, "float", 16))


@pytest.mark.parametrize(
    ("first", "lanes", "dtype", "stride"),
    [
        (lambda n: n + 1, 16, "float32", 2),  # elements apart
        (lambda n: n + 1, 5, "float32", 1),  # no such vector
        (lambda n: n + 1, 4, "bool", 1),
        (lambda n: n + 1, 4, "int8", 1),
    ],
)
def test_what_has_no_built_in_stays(first, lanes, dtype, stride):
    func, _ = copy(first, lanes, "float32", 64, stride) if dtype == "float32" else _bytes(dtype)
    made = lowered(func)
    assert isinstance(made.body, tirx.BufferStore)
    assert_structural_equal(made.body.indices, func.body.indices)


def _bytes(dtype):
    a, b = (tirx.decl_buffer((64,), dtype, name) for name in "ab")
    n = tirx.Var("n", "int32")
    ramp = tirx.Ramp(n + 1, 1, 4)
    return tirx.PrimFunc([a, b, n], tirx.BufferStore(b, tirx.BufferLoad(a, [ramp]), [ramp])), None


def test_scalars_stay():
    @T.prim_func
    def func(a: T.Buffer((8,), "float32"), n: T.int32):
        a[n] = a[n] + 1.0

    assert lowered(func).same_as(func) or tvm.ir.structural_equal(lowered(func), func)


@pytest.mark.parametrize("width", [67, 64])
def test_numbers_and_source(width, opencl_device):
    """An odd width puts every row's vectors at another alignment."""

    @T.prim_func(s_tir=True)
    def func(x: T.Buffer((9, width), "float32"), y: T.Buffer((9, width), "float32")):
        T.func_attr({"global_symbol": "main", "tirx.is_scheduled": True, "tirx.noalias": True})
        for i in T.thread_binding(9, thread="blockIdx.x"):
            for t in T.serial(width // 16):
                for lane in T.vectorized(16):
                    with T.sblock("y"):
                        vi = T.axis.spatial(9, i)
                        vj = T.axis.spatial(width, t * 16 + lane)
                        y[vi, vj] = x[vi, vj] * T.float32(3)

    target = load_profile("cpu").target()
    built = tvm.tirx.build(tvm.IRModule({"main": func}), target=target, pipeline="smartmem")
    source = built.imports[0].inspect_source()
    assert source.count("vload16") == 1
    assert source.count("vstore16") == 1
    assert "(float16)(3.000000e+00f)" in source
    data = np.random.default_rng(0).standard_normal((9, width)).astype("float32")
    x = tvm.runtime.tensor(data, opencl_device)
    y = tvm.runtime.tensor(np.zeros_like(data), opencl_device)
    built["main"](x, y)
    whole = width // 16 * 16
    np.testing.assert_array_equal(y.numpy()[:, :whole], data[:, :whole] * 3)
