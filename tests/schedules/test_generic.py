"""Generic: kernels of no special form, and what it leaves to others."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from schedule_helpers import check, normal
from tvm import te, topi
from tvm.script import tirx as T

from smartmem_tvm.devices import load_profile
from smartmem_tvm.schedules import ApplySchedules, Generic, own_rules, refusals, rule_of


@T.prim_func(s_tir=True)
def product_of_products(
    x: T.Buffer((6, 5), "float32"),
    v: T.Buffer((5, 7), "float32"),
    w: T.Buffer((7, 3), "float32"),
    out: T.Buffer((6, 3), "float32"),
):
    m = T.sblock_alloc_buffer((6, 7))
    n = T.sblock_alloc_buffer((6, 3))
    for i, j, r in T.grid(6, 7, 5):
        with T.sblock("m"):
            vi, vj, vr = T.axis.remap("SSR", [i, j, r])
            with T.init():
                m[vi, vj] = T.float32(0)
            m[vi, vj] = m[vi, vj] + x[vi, vr] * v[vr, vj]
    for i, j, r in T.grid(6, 3, 7):
        with T.sblock("n"):
            vi, vj, vr = T.axis.remap("SSR", [i, j, r])
            with T.init():
                n[vi, vj] = T.float32(0)
            n[vi, vj] = n[vi, vj] + T.max(m[vi, vr], T.float32(0)) * w[vr, vj]
    for i, j in T.grid(6, 3):
        with T.sblock("sink"):
            vi, vj = T.axis.remap("SS", [i, j])
            out[vi, vj] = n[vi, vj] + T.float32(1)


def test_stage_inside_a_reduction(opencl_device):
    x, v, w = normal(6, 5), normal(5, 7, seed=1), normal(7, 3, seed=2)
    want = np.maximum(x @ v, 0) @ w + 1
    check(product_of_products, [x, v, w], [want], opencl_device, rule="Generic")


@T.prim_func(s_tir=True)
def shifted_rows(
    x: T.Buffer((8, 6), "float32"), at: T.Buffer((10,), "int32"), out: T.Buffer((10, 6), "float32")
):
    # A stage is read at other rows, under a condition, and gathered by data.
    s = T.sblock_alloc_buffer((8,))
    for i, r in T.grid(8, 6):
        with T.sblock("s"):
            vi, vr = T.axis.remap("SR", [i, r])
            with T.init():
                s[vi] = T.float32(0)
            s[vi] = s[vi] + x[vi, vr]
    for i, j in T.grid(10, 6):
        with T.sblock("sink"):
            vi, vj = T.axis.remap("SS", [i, j])
            out[vi, vj] = T.if_then_else(1 <= vi and vi < 9, s[vi - 1], T.float32(-1)) + s[at[vi]]


def test_views_of_stages(opencl_device):
    x = normal(8, 6)
    at = np.array([0, 7, 3, 3, 2, 1, 0, 5, 6, 4], "int32")
    s = x.sum(1)
    rows = np.concatenate([[-1], s, [-1]]).astype("float32") + s[at]
    want = np.repeat(rows[:, None], 6, 1)
    check(shifted_rows, [x, at], [want], opencl_device)


def test_every_kind_of_kernel_alone(opencl_device):
    a, b = te.placeholder((5, 17)), te.placeholder((17, 9))
    x, y = normal(5, 17), normal(17, 9, seed=1)
    cases = [
        (te.create_prim_func([a, b, topi.matmul(a, b)]), [x, y], x @ y),
        (te.create_prim_func([a, topi.exp(a)]), [x], np.exp(x)),
        (te.create_prim_func([a, topi.sum(a, 1)]), [x], x.sum(1)),
    ]
    target = load_profile("cpu").target()
    for func, inputs, want in cases:
        with target:
            func = ApplySchedules([Generic()])(tvm.IRModule({"main": func}))["main"]
        assert rule_of(func) == "Generic"
        built = tvm.tirx.build(tvm.IRModule({"main": func}), target=target, pipeline="s_tir")
        result = tvm.runtime.tensor(np.zeros_like(want), opencl_device)
        built["main"](*(tvm.runtime.tensor(i, opencl_device) for i in inputs), result)
        np.testing.assert_allclose(result.numpy(), want, rtol=1e-4, atol=1e-5)


def _declined(func):
    with load_profile("cpu").target():
        func = ApplySchedules(own_rules())(tvm.IRModule({"main": func}))["main"]
    assert rule_of(func) is None
    return refusals(func)


def test_much_repeated_work_is_declined():
    a, b, c = (te.placeholder((128, 128)) for _ in range(3))
    reasons = _declined(te.create_prim_func([a, b, c, topi.matmul(topi.matmul(a, b), c)]))
    assert any("a stage is read inside another reduction" in reason for reason in reasons)
    assert any("one launch would do" in reason for reason in reasons)


@T.prim_func(s_tir=True)
def index_after_maximum(
    x: T.Buffer((9, 40), "float32"), best: T.Buffer((9,), "float32"), at: T.Buffer((9,), "int32")
):
    for i, k in T.grid(9, 40):
        with T.sblock("best"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                best[vi] = T.float32(-1e30)
                at[vi] = 0
            best[vi] = T.max(best[vi], x[vi, vk])
            at[vi] = T.Select(x[vi, vk] == best[vi], vk, at[vi])


def test_a_result_that_reads_what_was_stored_before_it_is_declined():
    assert any("has just written" in reason for reason in _declined(index_after_maximum))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(13, 97), (97, 13), (1, 300)])
@pytest.mark.parametrize("profile", ["cpu", "adreno-740"])
def test_the_index_of_a_maximum(profile, shape, axis, opencl_device):
    x = te.placeholder(shape, name="x")
    func = te.create_prim_func([x, topi.argmax(x, axis)])
    target = load_profile(profile).target()
    with target:
        func = ApplySchedules(own_rules())(tvm.IRModule({"main": func}))["main"]
    assert rule_of(func) in ("Contraction", "RowReduction")
    built = tvm.tirx.build(tvm.IRModule({"main": func}), target=target, pipeline="s_tir")
    data = np.round(normal(*shape), 1)  # with equal elements: the first one counts
    want = data.argmax(axis).astype("int32")
    result = tvm.runtime.tensor(np.zeros_like(want), opencl_device)
    built["main"](tvm.runtime.tensor(data, opencl_device), result)
    np.testing.assert_array_equal(result.numpy(), want)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda a: topi.cumsum(a, 0), "has a schedule"),
    ],
)
def test_other_forms_are_declined_with_a_reason(build, reason):
    a = te.placeholder((32,))
    assert any(reason in text for text in _declined(te.create_prim_func([a, build(a)])))
