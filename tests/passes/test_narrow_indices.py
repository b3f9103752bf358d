"""Which functions get 32-bit indices, and what stands in the attribute of those that do not."""

from __future__ import annotations

import pytest
import tvm
from relax_graphs import graph, kernels
from tvm import relax, tirx
from tvm.relax import op
from tvm.s_tir import SBlock
from tvm.script import tirx as T
from tvm_ffi import structural_walk

from smartmem_tvm.passes import NarrowIndices
from smartmem_tvm.passes.narrow_indices import WIDE
from smartmem_tvm.schedules import ApplySchedules, schedule_rules

TARGET = tvm.target.Target("opencl", host="llvm")


def scheduled(body, *inputs, **bounds):
    mod = graph(body, *inputs)
    mod["main"] = mod["main"].with_attr("tir_var_upper_bound", bounds)
    with TARGET:
        return ApplySchedules(schedule_rules())(mod)


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


def test_64_bit_data():
    func = narrowed(scheduled(lambda x, y: op.take(x, y, 0), (symbol(), 4), ((3,), "int64"), n=5))
    assert func.attrs[WIDE] == "'x1' holds int64"


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
