"""Planned modules hold every tensor until its last use, and compute the same."""

from __future__ import annotations

from math import prod

import numpy as np
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_memory import (
    ALONE,
    PLACED,
    STORAGE,
    TVM,
    Replay,
    calls,
    planned,
    run_on_host,
    storages,
    with_allocations,
)
from relax_graphs import graph
from tvm import relax
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from smartmem_tvm.analysis.memory_plan import ScopeMemory, read_memory
from smartmem_tvm.passes import PlanMemory


def elements(x):
    return prod(int(extent) for extent in x.ty.shape.values)


OPERATORS = [
    lambda x, y: op.nn.relu(x),
    lambda x, y: op.exp(x),
    lambda x, y: op.reshape(x, (-1,)),
    lambda x, y: op.sum(x, axis=0, keepdims=True),
    lambda x, y: op.concat([op.reshape(x, (-1,)), op.reshape(y, (-1,))]),
    lambda x, y: op.astype(op.astype(x, "float16"), "float32"),
    lambda x, y: op.multiply(x, op.sum(y)),
    lambda x, y: op.split(op.reshape(x, (-1,)), [1])[0],
]


@st.composite
def graphs(draw):
    """Operators over tensors of several sizes and types; an early one may be read late."""
    step = st.tuples(st.sampled_from(OPERATORS), st.integers(0, 2), st.integers(0, 99))
    steps = draw(st.lists(step, min_size=2, max_size=14))
    results = draw(st.integers(1, 3))

    def body(x):
        made = [x]
        for operator, back, anywhere in steps:
            builder = relax.BlockBuilder.current()
            one, other = made[-1 - back % len(made)], made[anywhere % len(made)]
            if elements(one) + elements(other) > 2_000:
                other = x
            made.append(builder.emit(operator(one, other)))
        return tuple(made[-results:])

    return graph(body, (4, 6))


@settings(deadline=None, max_examples=40)
@given(graphs())
def test_random_graphs(mod):
    after = planned(mod)
    Replay(after["main"])
    total = sum(storages(after))
    memory = read_memory(after).scopes.get("global", ScopeMemory())
    assert total == memory.planned
    assert memory.live <= memory.planned <= memory.unplanned
    assert total <= sum(storages(planned(mod, TVM)))
    assert len(calls(after["main"], ALONE)) == len(calls(planned(mod, TVM)["main"], ALONE))


@I.ir_module
class Chain:
    """Six vectors one after another, of which the third is written in two parts."""

    @T.prim_func(private=True, s_tir=True)
    def f(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.sblock("add"):
                vi = T.axis.spatial(8, i)
                b[vi] = a[vi] + T.float32(1)

    @T.prim_func(private=True, s_tir=True)
    def first(a: T.Buffer((8,), "float32"), b: T.Buffer((16,), "float32")):
        for i in range(8):
            with T.sblock("twice"):
                vi = T.axis.spatial(8, i)
                b[vi] = a[vi] * T.float32(2)

    @T.prim_func(private=True, s_tir=True)
    def second(a: T.Buffer((8,), "float32"), b: T.Buffer((16,), "float32")):
        for i in range(8):
            with T.sblock("thrice"):
                vi = T.axis.spatial(8, i)
                b[vi + 8] = a[vi] * T.float32(3)

    @T.prim_func(private=True, s_tir=True)
    def fold(a: T.Buffer((2, 8), "float32"), b: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.sblock("fold"):
                vi = T.axis.spatial(8, i)
                b[vi] = a[0, vi] + a[1, vi]

    @R.function
    def main(x: R.Tensor((8,), "float32")):
        cls = Chain
        with R.dataflow():
            a = R.call_tir(cls.f, (x,), out_ty=R.Tensor((8,), "float32"))
            part = R.call_tir(cls.first, (a,), out_ty=R.Tensor((16,), "float32"))
            b = R.call_tir(cls.f, (a,), out_ty=R.Tensor((8,), "float32"))
            whole = R.call_tir_inplace(
                cls.second, (b, part), inplace_indices=[1], out_ty=R.Tensor((16,), "float32")
            )
            view = R.reshape(whole, (4, 4))
            again = R.reshape(view, (2, 8))
            c = R.call_tir(cls.f, (a,), out_ty=R.Tensor((8,), "float32"))
            d = R.call_tir(cls.fold, (again,), out_ty=R.Tensor((8,), "float32"))
            e = R.call_tir(cls.f, (d,), out_ty=R.Tensor((8,), "float32"))
            g = R.add(c, e)
            R.output(g)
        return g


def test_written_in_place_and_read_through_views():
    mod = relax.transform.LegalizeOps()(Chain)
    after = planned(mod)
    Replay(after["main"])
    # The part's storage lies untouched until `fold`: a, b, c and d, e share what is left.
    assert sorted(storages(after)) == [32, 32, 64]
    x = np.arange(8, dtype="float32")
    b = x + 2
    np.testing.assert_allclose(run_on_host(after, x)[0], b + ((x + 1) * 2 + b * 3 + 1))


def test_the_sketch_of_the_module():
    def body(x):
        a = op.nn.relu(x)
        b = op.sum(a, axis=1)
        c = op.multiply(b, op.sum(b))
        return op.sum(op.concat([c, c]))

    after = planned(graph(body, (64, 64)))
    kept = [call.args[0] for call in calls(after["main"], PLACED)]
    assert len(set(kept)) < len(kept)
    assert all(call.args[3].value == "uint8" for call in calls(after["main"], STORAGE))
    assert sum(storages(after)) == read_memory(after).scopes["global"].planned


def test_element_types_share():
    """Where TVM's planner has one pool for each."""

    def body(x):
        half = op.exp(op.abs(op.astype(op.nn.relu(x), "float16")))
        return op.nn.relu(op.astype(half, "float32"))

    mod = graph(body, (64,))
    # Bytes of the chain: 256, 128, 128, 128 and 256.
    assert sorted(storages(planned(mod))) == [128, 256]
    assert sorted(storages(planned(mod, TVM))) == [128, 128, 256]


def test_results_stay_out_of_the_plan():
    def body(x):
        a = op.nn.relu(x)
        b = op.exp(a)
        return op.reshape(b, (8, 2)), op.abs(op.negative(b)), x

    after = planned(graph(body, (4, 4)))
    Replay(after["main"])
    assert len(calls(after["main"], ALONE)) == 2
    reasons = [reason for _, reason in read_memory(after).refused]
    assert reasons == ["a result of the function"] * 2
    assert storages(after) == [64]


def test_nothing_to_plan():
    mod = with_allocations(graph(lambda x: op.nn.relu(x), (4, 4)))
    after = PlanMemory()(mod)
    tvm.ir.assert_structural_equal(after["main"], mod["main"])
    assert read_memory(after).scopes == {}


def test_functions_are_planned_one_by_one():
    builder = relax.BlockBuilder()
    for name in ("main", "other"):
        x = relax.Var("x", relax.TensorType((16,), "float32"))
        with builder.function(name, [x]):
            with builder.dataflow():
                y = x
                for make in (op.nn.relu, op.exp, op.abs, op.negative):
                    y = builder.emit(make(y))
                y = builder.emit_output(y)
            builder.emit_func_output(y)
    after = planned(relax.transform.LegalizeOps()(builder.get()))
    assert storages(after) == storages(after, "other") == [64, 64]
    assert read_memory(after).scopes == {"global": ScopeMemory(256, 256, 384)}


@I.ir_module
class Branches:
    @T.prim_func(private=True, s_tir=True)
    def f(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.sblock("add"):
                vi = T.axis.spatial(8, i)
                b[vi] = a[vi] + T.float32(1)

    @T.prim_func(private=True, s_tir=True)
    def g(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32"), c: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.sblock("multiply"):
                vi = T.axis.spatial(8, i)
                c[vi] = a[vi] * b[vi]

    @R.function
    def main(x: R.Tensor((8,), "float32"), yes: R.Tensor((), "bool")):
        cls = Branches
        free = R.call_tir(cls.f, (x,), out_ty=R.Tensor((8,), "float32"))
        used = R.call_tir(cls.f, (free,), out_ty=R.Tensor((8,), "float32"))
        later = R.call_tir(cls.f, (used,), out_ty=R.Tensor((8,), "float32"))
        if yes:
            one = R.call_tir(cls.f, (used,), out_ty=R.Tensor((8,), "float32"))
            two = R.call_tir(cls.g, (one, used), out_ty=R.Tensor((8,), "float32"))
            three = R.call_tir(cls.f, (two,), out_ty=R.Tensor((8,), "float32"))
            made = R.call_tir(cls.g, (three, one), out_ty=R.Tensor((8,), "float32"))
        else:
            four = R.call_tir(cls.f, (x,), out_ty=R.Tensor((8,), "float32"))
            made = R.call_tir(cls.g, (four, x), out_ty=R.Tensor((8,), "float32"))
        last = R.call_tir(cls.g, (made, later), out_ty=R.Tensor((8,), "float32"))
        end = R.call_tir(cls.f, (last,), out_ty=R.Tensor((8,), "float32"))
        out = R.call_tir(cls.f, (end,), out_ty=R.Tensor((8,), "float32"))
        return out


def test_branches_share_what_is_free_around_them():
    after = planned(Branches)
    # At `three`: used, later, one, two and three. Nothing more is taken after the conditional.
    assert storages(after) == [32] * 5
    reasons = [reason for _, reason in read_memory(after).refused]
    assert reasons == ["a result of a branch"] * 2 + ["a result of the function"]
    x = np.arange(8, dtype="float32")
    later, one = x + 3, x + 3
    for yes, made in ((True, (one * (x + 2) + 1) * one), (False, (x + 1) * x)):
        (out,) = run_on_host(after, x, np.array(yes))
        np.testing.assert_allclose(out, made * later + 2)


def symbolic(**attributes):
    """Tensors of n, n, 2n, n and n elements, then three of m, of which the last is the result."""
    n, m = tvm.tirx.Var("n", "int64"), tvm.tirx.Var("m", "int64")
    x = relax.Var("x", relax.TensorType((n,), "float32"))
    y = relax.Var("y", relax.TensorType((m,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, y], attrs=attributes or None):
        with builder.dataflow():
            a = builder.emit(op.nn.relu(x))
            b = builder.emit(op.exp(a))
            c = builder.emit(op.concat([a, b]))
            d = builder.emit(op.add(op.sum(c), b))
            e = builder.emit(op.cos(d))
            g = builder.emit(op.add(op.sum(e), y))
            h = builder.emit(op.cos(g))
            out = builder.emit_output(op.cos(h))
        builder.emit_func_output(out)
    return relax.transform.LegalizeOps()(builder.get())


def test_open_sizes_share_as_multiples_of_one_product():
    after = planned(symbolic())
    analyzer = tvm.sym.Analyzer()
    n, m = (param.ty.shape.values[0] for param in after["main"].params)
    found = [size for size in storages(after) if not isinstance(size, int)]
    wanted = [4 * n, 4 * n, 8 * n, 4 * m, 4 * m]
    assert len(found) == len(wanted)
    for size in wanted:  # each once, in any order
        place = next(i for i, other in enumerate(found) if analyzer.can_prove_equal(size, other))
        found.pop(place)
    for n_, m_ in ((3, 5), (7, 1)):
        x, y = np.linspace(-1, 1, n_, dtype="float32"), np.linspace(0, 1, m_, dtype="float32")
        a = np.maximum(x, 0)
        d = np.exp(a) + a.sum() + np.exp(a).sum()
        wanted = np.cos(np.cos(y + np.cos(d).sum()))
        np.testing.assert_allclose(run_on_host(after, x, y)[0], wanted, rtol=1e-4)


def test_bounds_of_extents_make_sizes_constant():
    after = planned(symbolic(tir_var_upper_bound={"n": 8, "m": 4}))
    found = storages(after)
    assert all(isinstance(size, int) for size in found)
    assert sum(found) == read_memory(after).scopes["global"].planned
    assert sum(found) <= sum(storages(planned(symbolic(tir_var_upper_bound={"n": 8, "m": 4}), TVM)))
    assert len(calls(after["main"], ALONE)) == 1


def test_results_take_the_size_of_their_bound_where_that_is_asked_for():
    asked = "relax.memory_plan_dynamic_func_output"
    mod = symbolic(tir_var_upper_bound={"n": 8, "m": 4}, **{asked: True})
    after, of_tvm = planned(mod), planned(mod, TVM)
    for one in (after, of_tvm):
        assert calls(one["main"], ALONE) == []
        assert asked not in one["main"].attrs
    assert storages(after)[-1] == storages(of_tvm)[-1] == 16
