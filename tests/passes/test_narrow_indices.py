"""Which functions get 32-bit indices, and what stands in the attribute of those that do not."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from relax_graphs import graph, kernels
from tvm import relax, tirx
from tvm.ir.expr import TensorLoad
from tvm.relax import op
from tvm.s_tir import SBlock
from tvm.script import tirx as T
from tvm_ffi import structural_walk

import smartmem_tvm
from smartmem_tvm.analysis.data_bounds import data_bounds, known_bounds, with_bounds
from smartmem_tvm.passes import ClassifyOperators, FuseOperators, NarrowIndices
from smartmem_tvm.passes.narrow_indices import WIDE
from smartmem_tvm.schedules import ApplySchedules, schedule_rules

TARGET = tvm.target.Target("opencl", host="llvm")


def scheduled(body, *inputs, **bounds):
    mod = graph(body, *inputs)
    mod["main"] = mod["main"].with_attr("tir_var_upper_bound", bounds)
    with TARGET:
        return ApplySchedules(schedule_rules())(mod)


def joined(body, *inputs, **bounds):
    """Scheduled, elementwise operators in one kernel with what reads them."""
    mod = graph(body, *inputs)
    mod["main"] = mod["main"].with_attr("tir_var_upper_bound", bounds)
    with TARGET:
        return ApplySchedules(schedule_rules())(FuseOperators()(ClassifyOperators()(mod)))


def narrowed(mod):
    (func,) = kernels(NarrowIndices()(mod))
    return func


def is_wide(func):
    return "int64" in func.without_attr(WIDE).script(show_meta=False)


def allocated(func):
    found = []
    structural_walk(func.body, (SBlock, lambda block: found.extend(block.alloc_buffers)))
    return found


def symbol(name="n"):
    return tirx.Var(name, "int64")


def test_a_bounded_symbol():
    n = symbol()
    mod = scheduled(lambda x: op.permute_dims(op.reshape(x, (n, 8, 5))), (n, 40), n=16)
    for func in kernels(NarrowIndices()(mod)):
        assert WIDE not in func.attrs
        assert not is_wide(func)


def test_without_a_bound():
    func = narrowed(scheduled(op.exp, (symbol(), 9)))
    assert func.attrs[WIDE] == "the symbolic extent 'n' has no declared upper bound"
    assert is_wide(func)


def test_one_of_two_symbols_has_a_bound():
    func = narrowed(scheduled(op.exp, (symbol(), symbol("m")), n=4))
    assert "'m' has no declared upper bound" in func.attrs[WIDE]


@pytest.mark.parametrize(("bound", "wide"), [(2**31 // 64 - 1, False), (2**31 // 64, True)])
def test_a_buffer_must_have_fewer_than_2_31_elements(bound, wide):
    func = narrowed(scheduled(lambda x: op.sum(x, [1]), (symbol(), 64), n=bound))
    assert is_wide(func) == wide
    if wide:
        assert f"has up to {2**31} elements" in func.attrs[WIDE]


def test_bounds_come_from_the_calls_not_from_names():
    # What the function calls n is up to 3 * 5 in the one call, and 5 in the other.
    n = symbol()

    def body(x, y):
        return op.exp(op.reshape(x, (n * 3, 4))), op.exp(y)

    mod = NarrowIndices()(scheduled(body, (n, 12), (n, 4), n=5))
    assert all(WIDE not in func.attrs for func in kernels(mod))
    mod = NarrowIndices()(scheduled(body, (n, 12), (n, 4), m=5))
    assert all(WIDE in func.attrs for func in kernels(mod))


def number(value):
    return relax.const(value, "int64")


def wide_values(func):
    """Loops, indices and private integers of 64 bits."""
    found = [buffer for buffer in allocated(func) if str(buffer.dtype) == "int64"]

    def access(node):
        found.extend(index for index in node.indices if "int64" in str(index.ty.dtype))

    def loop(node):
        if "int64" in str(node.loop_var.ty.dtype):
            found.append(node)

    structural_walk(func.body, [((TensorLoad, tirx.BufferStore), access), (tirx.For, loop)])
    return found


@pytest.mark.parametrize("table", [(50, 4), (symbol(), 4)])
def test_64_bit_data_that_is_an_index(table):
    def body(x, y):
        return op.take(x, op.subtract(op.add(number(9), y), number(7)), 0)

    (func,) = kernels(NarrowIndices()(joined(body, table, ((6,), "int64"), n=50)))
    assert WIDE not in func.attrs
    assert "int64" in [str(param.dtype) for param in func.params]
    assert wide_values(func) == []


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (lambda y: op.floor_mod(y, number(8)), "may be an element for data of more than 32 bits"),
        (lambda y: op.floor_divide(y, number(8)), "may be an element for data"),
        (lambda y: op.maximum(y, number(0)), "may be an element for data"),
        (lambda y: op.where(op.less(y, number(9)), y, number(9)), "may be an element for data"),
        (lambda y: op.multiply(y, y), "may be an element for data"),
        (lambda y: op.add(y, y), "may be an element for data"),
        (lambda y: op.add(y, number(2**33)), "may be from"),
    ],
)
def test_64_bit_data_that_may_not_fit(index, said):
    mod = joined(lambda x, y: op.take(x, index(y), 0), (50, 4), ((6,), "int64"))
    (func,) = kernels(NarrowIndices()(mod))
    assert said in func.attrs[WIDE]
    assert wide_values(func)


@pytest.mark.parametrize(
    "body",
    [
        lambda y: op.add(y, number(1)),
        lambda y: op.astype(y, "float32"),
        lambda y: op.where(op.equal(y, number(2)), number(0), y),
        lambda y: op.permute_dims(y),
    ],
)
def test_64_bit_data_that_is_computed_with(body):
    (func,) = kernels(NarrowIndices()(joined(body, ((6, 5), "int64"))))
    assert re.search("' holds int64|may be an element for data", func.attrs[WIDE])


def thirds(x, where):
    """Rows and columns from one number each: nothing in that bounds the number."""
    three = number(3)
    rows = op.take(x, op.floor_divide(where, three), 0)
    return op.add(rows, op.take(x, op.floor_mod(where, three), 0))


@pytest.mark.parametrize(
    ("values", "narrow"),
    [
        ([3, 131, 0, 7, 149], True),
        ([-1, 2**30, -(2**30)], True),
        ([3, 2**30 + 1], False),
        ([3, -(2**40)], False),
    ],
)
def test_constants_are_as_large_as_their_values(values, narrow):
    mod = joined(lambda x: thirds(x, relax.const(values, "int64")), (50, 4))
    for func in kernels(NarrowIndices()(mod)):
        assert (WIDE not in func.attrs) == narrow
        assert (wide_values(func) == []) == narrow


@pytest.mark.parametrize(("known", "narrow"), [([(0, 149)], True), ([], False), (None, False)])
def test_a_function_alone_is_told_what_its_data_is(known, narrow):
    mod = joined(lambda x: thirds(x, relax.const([3, 131], "int64")), (50, 4))
    func = next(one for one in kernels(mod) if wide_values(one))
    places = [n for n, param in enumerate(func.params) if str(param.dtype) == "int64"]
    if known is not None:
        func = with_bounds(func, dict(zip(places, known, strict=False)))
    after = NarrowIndices()(tvm.IRModule({"alone": func}))["alone"]
    assert (wide_values(after) == []) == narrow
    assert (WIDE in after.attrs) == (known == [])  # without the attribute nothing is tried


def test_bounds_of_several_callers_hold_for_all():
    once = with_bounds(shown, {0: (0, 3)})
    assert known_bounds(once) == {0: (0, 3)}
    assert known_bounds(with_bounds(once, {0: (-2, 1)})) == {0: (-2, 3)}
    assert known_bounds(with_bounds(once, {})) == {}
    assert known_bounds(with_bounds(with_bounds(once, {}), {0: (0, 1)})) == {}


def test_results_are_as_large_as_what_is_stored_in_them():
    def body(x, y):
        return thirds(x, op.argmax(op.reshape(x, (4, 50)), 1)), op.argmax(y, 1)

    before = joined(body, (50, 4), (3, 2**20))
    after = NarrowIndices()(before)
    assert set(before.functions) == set(after.functions)
    for func in kernels(after):
        assert WIDE not in func.attrs
        assert wide_values(func) == []


@T.prim_func(private=True, s_tir=True)
def kept_rows(
    x: T.Buffer((24, 3), "float32"), index: T.Buffer((4,), "int64"), out: T.Buffer((4,), "float32")
):
    T.func_attr({"tirx.is_scheduled": True})
    for i in T.thread_binding(4, thread="blockIdx.x"):
        with T.sblock("copy"):
            v = T.axis.spatial(4, i)
            kept = T.sblock_alloc_buffer((1,), "int64", scope="local")
            kept[0] = (
                T.Select(index[v] < T.int64(0), index[v] + T.int64(9), index[v])
                // T.int64(3)
                * T.int64(8)
                + v
            )
            out[v] = x[
                kept[0],
                T.Select(index[v] < T.int64(0), index[v] + T.int64(9), index[v]) % T.int64(3),
            ]


@pytest.mark.parametrize("values", [[3, -1, 8, 0], [3, 2**30, 8, 0], None])
def test_kept_indices_are_computed_from_data_of_known_bounds(values):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([24, 3], "float32"))
    y = relax.Var("y", relax.TensorType([4], "int64"))
    with builder.function("main", [x, y]):
        read = y if values is None else relax.const(values, "int64")
        called = builder.add_func(kept_rows, "kept_rows")
        call = relax.call_tir(called, [x, read], relax.TensorType([4], "float32"))
        builder.emit_func_output(builder.emit(call))
    func = narrowed(builder.get())
    if values == [3, -1, 8, 0]:
        assert WIDE not in func.attrs
        assert wide_values(func) == []
        assert "int64(3)" not in func.script()
    else:  # the product has more than 32 bits, or may have
        assert re.search("may be from|holds int64", func.attrs[WIDE])


@T.prim_func(private=True, s_tir=True)
def shown(index: T.Buffer((4,), "int64"), out: T.Buffer((4,), "int64")):
    T.func_attr({"tirx.is_scheduled": True})
    for i in T.thread_binding(4, thread="blockIdx.x"):
        with T.sblock("copy"):
            v = T.axis.spatial(4, i)
            out[v] = index[v] * T.int64(5) + v


@pytest.mark.parametrize(
    ("steps", "bounds"),
    [
        (["const"], [(-2, 9)]),
        (["input"], [None]),
        (["const", "last"], [(-10, 48)]),
        (["const", "other"], [(-2, 40)]),
        (["const", "input"], [None]),
        (["far"], [None]),
        (["large"], [(0, 2**29)]),
        (["large", "last"], [None]),
    ],
)
def test_bounds_hold_for_every_call(steps, bounds):
    given = {
        "const": [-2, 9, 0, 1],
        "other": [40, 1, 2, 3],
        "far": [0, 2**31, 0, 0],
        "large": [0, 2**29, 0, 0],
    }
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([4], "int64"))
    with builder.function("main", [x]):
        called = builder.add_func(shown, "shown")
        last, results = x, []
        for step in steps:
            read = relax.const(given[step], "int64") if step in given else x
            function = (
                builder.add_func(shown.with_attr("n", 1), "next") if step == "last" else called
            )
            read = last if step == "last" else read
            last = builder.emit(relax.call_tir(function, [read], x.ty))
            results.append(last)
        builder.emit_func_output(builder.emit(relax.Tuple(results)))
    found = data_bounds(builder.get())
    name = "next" if "last" in steps else "shown"
    (places,) = [places for gv, places in found.items() if gv.name_hint == name]
    assert [places.get(0)] == bounds


def test_64_bit_results_are_cast_where_they_are_stored():
    mod = joined(lambda x: op.argmax(x, 1), (12, 40))
    for func in kernels(NarrowIndices()(mod)):
        assert WIDE not in func.attrs
        assert str(func.params[-1].dtype) == "int64"
        assert wide_values(func) == []


def test_a_result_that_does_not_fit_stays_wide():
    (func,) = kernels(NarrowIndices()(joined(lambda x: op.astype(x, "int64"), (12, 40))))
    assert "may be from" in func.attrs[WIDE]


def test_32_bit_data_that_is_an_index():
    def body(x, y):
        return op.take(op.strided_slice(x, [1], [2], [8]), y, 1)

    mod = scheduled(body, (symbol(), 8), ((3,), "int32"), n=5)
    assert not any(is_wide(func) for func in kernels(NarrowIndices()(mod)))


def test_a_kept_index_of_a_static_function():
    # The first point of the last vector is stored and read back; TVM sees no bounds of it.
    func = narrowed(scheduled(op.exp, (3, 13)))
    assert any(str(buffer.dtype) == "int32" for buffer in allocated(func))
    assert not is_wide(func)


@T.prim_func(private=True, s_tir=True)
def in_place(x: T.Buffer((320,)), whole: T.Buffer((640,))):
    T.func_attr({"tirx.is_scheduled": True})
    for i in T.thread_binding(T.int64(320), thread="blockIdx.x"):
        with T.sblock("work_item"):
            T.reads()
            T.writes()
            first = T.sblock_alloc_buffer((1,), "int32", scope="local")
            first[0] = T.Cast("int32", i)
            whole[T.Cast("int64", first[0])] = x[T.Cast("int64", first[0])]


def test_a_kept_index_of_a_kernel_that_writes_in_place():
    builder = relax.BlockBuilder()
    types = (relax.TensorType((n,), "float32") for n in (320, 640))
    x, whole = (relax.Var(name, ty) for name, ty in zip("xy", types, strict=True))
    with builder.function("main", [x, whole]):
        func = builder.add_func(in_place, "in_place")
        call = relax.call_tir_inplace(func, [x, whole], [1], relax.TensorType((640,), "float32"))
        builder.emit_func_output(builder.emit(call))
    mod = builder.get()
    assert is_wide(mod["in_place"])
    assert not is_wide(NarrowIndices()(mod)["in_place"])


def test_functions_with_neither_are_left_to_tvm():
    mod = scheduled(op.matmul, (4, 8), (8, 8))
    assert narrowed(mod).same_as(kernels(mod)[0])


def test_a_part_of_an_index_that_does_not_fit():
    @T.prim_func(private=True, s_tir=True)
    def far(x: T.handle, y: T.handle):
        T.func_attr({"tirx.is_scheduled": True})
        n = T.int64()
        a = T.match_buffer(x, (n,))
        b = T.match_buffer(y, (n,))
        for i in T.thread_binding(n, thread="blockIdx.x"):
            with T.sblock("copy"):
                v = T.axis.spatial(n, i)
                b[v] = a[v * T.int64(400000000) % n]

    n = symbol()
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([n], "float32"))
    with builder.function("main", [x], attrs={"tir_var_upper_bound": {"n": 8}}):
        called = builder.add_func(far, "far")
        builder.emit_func_output(builder.emit(relax.call_tir(called, [x], x.ty)))
    func = narrowed(builder.get())
    assert "may be from 0 to 2800000000" in func.attrs[WIDE]


@pytest.mark.parametrize("profile", ["cpu", "adreno-740"])
def test_data_of_known_bounds_on_a_device(profile, opencl_device):
    constant = np.array([3, 131, -7, 2**40 + 2])

    def body(x):
        large = op.take(x, op.floor_mod(relax.const(constant, "int64"), number(9)), 0)
        return thirds(x, op.argmax(op.reshape(x, (8, 48)), 1)), large

    model = smartmem_tvm.compile(graph(body, (48, 8)), profile)
    x = np.random.default_rng(0).standard_normal((48, 8)).astype("float32")
    found, large = model.run([x]).values()
    where = x.reshape(8, 48).argmax(1)
    np.testing.assert_allclose(found, x[where // 3] + x[where % 3], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(large, x[constant % 9])


@pytest.mark.parametrize("profile", ["cpu", "adreno-740"])
def test_64_bit_indices_on_a_device(profile, opencl_device):
    def body(x, y):
        counted = op.where(op.less(y, number(0)), op.add(y, number(50)), y)
        return op.nn.softmax(op.take(x, counted, 0)), op.argmax(x, 1)

    model = smartmem_tvm.compile(graph(body, (50, 8), ((6,), "int64")), profile)
    assert "convert_int(" in "".join(model.sources.values())
    x = np.random.default_rng(0).standard_normal((50, 8)).astype("float32")
    y = np.array([3, -1, -50, 49, 0, 17])
    rows, largest = model.run([x, y]).values()
    expected = np.exp(x[y]) / np.exp(x[y]).sum(1, keepdims=True)
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(largest, x.argmax(1))
    assert largest.dtype == np.int64
