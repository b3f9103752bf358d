"""How accesses go through memory, for every kind of walk and layout."""

from __future__ import annotations

import pytest
from tvm.script import tirx as T

from smartmem_tvm.analysis.fused_kernel import read_kernel
from smartmem_tvm.analysis.layouts import Layout, innermost, row_major
from smartmem_tvm.analysis.operand_readings import is_reduced, read_as
from smartmem_tvm.analysis.tensor_layouts import (
    ALONG_LANES,
    ALONG_REDUCTION,
    GATHERED,
    SHARED,
    SINGLE,
)
from smartmem_tvm.analysis.transactions import KernelCost, Memory, Walk
from smartmem_tvm.devices import load_profile

ROWS, COLUMNS, DEPTH = 32, 48, 64
PLAIN = row_major(2)
TRANSPOSED = innermost(2, 0)


@T.prim_func(private=True, s_tir=True)
def product(A: T.Buffer((32, 64)), B: T.Buffer((48, 64)), D: T.Buffer(48), C: T.Buffer((32, 48))):
    M = T.sblock_alloc_buffer((32, 48))
    for i, j, k in T.grid(32, 48, 64):
        with T.sblock("product"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                M[vi, vj] = T.float32(0)
            M[vi, vj] += A[vi, vk] * B[vj, vk]
    for i, j in T.grid(32, 48):
        with T.sblock("bias"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = M[vi, vj] + D[vj]


@T.prim_func(private=True, s_tir=True)
def padded(x: T.Buffer((64,)), y: T.Buffer((64,))):
    for i, k in T.grid(64, 3):
        with T.sblock("window"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                y[vi] = T.float32(0)
            y[vi] += T.if_then_else(1 <= vi + vk and vi + vk < 65, x[vi + vk - 1], T.float32(0))


@T.prim_func(private=True, s_tir=True)
def looked_up(rows: T.Buffer((64,), "int32"), x: T.Buffer((32, 16)), y: T.Buffer((64,))):
    for i, k in T.grid(64, 16):
        with T.sblock("sum"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                y[vi] = T.float32(0)
            y[vi] += x[rows[vi], vk]


def model(func):
    return KernelCost(read_kernel(func), Memory.of(load_profile("cpu")))


def access(found, name):
    (number,) = [n for n, buffer in enumerate(found.buffers) if buffer.name == name]
    return number


@pytest.mark.parametrize(
    ("name", "walk", "layout", "how"),
    [
        ("A", Walk((1,), 16), PLAIN, ALONG_REDUCTION),
        ("A", Walk((1,), 16), TRANSPOSED, SHARED),
        ("A", Walk((0,), 16), PLAIN, GATHERED),
        ("A", Walk((0,), 16), TRANSPOSED, ALONG_LANES),
        ("B", Walk((1,), 16), PLAIN, GATHERED),
        ("B", Walk((1,), 16), TRANSPOSED, ALONG_LANES),
        ("B", Walk((1,), 16), Layout((0, 1), (0, 16)), ALONG_LANES),
        ("B", Walk(None, 16, along_reduction=True), PLAIN, ALONG_REDUCTION),
        ("B", Walk(None, 16, along_reduction=True), TRANSPOSED, GATHERED),
        ("B", Walk(), PLAIN, ALONG_REDUCTION),
        ("B", Walk(), TRANSPOSED, SINGLE),
    ],
)
def test_operands_of_a_product(name, walk, layout, how):
    found = model(product)
    number = access(found, name)
    assert not found.is_write(number)
    assert is_reduced(found, number)
    reading, cause = read_as(found, number, walk, layout)
    assert reading == how
    assert bool(cause) == (how not in (ALONG_LANES, ALONG_REDUCTION))


def test_the_cause_says_how_far_apart():
    found = model(product)
    read = read_as(found, access(found, "B"), Walk((1,), 16), PLAIN)
    assert read == (GATHERED, f"its lanes are {DEPTH} elements apart")
    _, cause = read_as(found, access(found, "A"), Walk((1,), 16), TRANSPOSED)
    assert cause == f"along its reduction its elements are {ROWS} elements apart"


def test_what_only_the_sink_touches_is_not_reduced():
    found = model(product)
    assert not is_reduced(found, access(found, "D"))
    assert found.is_write(access(found, "C"))
    assert read_as(found, access(found, "D"), Walk((0,), 16), row_major(1)) == (SHARED, "")


def test_a_condition_that_lanes_disagree_on_gathers():
    found = model(padded)
    how, cause = read_as(found, access(found, "x"), Walk((0,), 16), row_major(1))
    assert (how, cause) == (GATHERED, "a condition around it differs from lane to lane")


def test_data_as_an_index_gathers():
    found = model(looked_up)
    how, cause = read_as(found, access(found, "x"), Walk((0,), 16), PLAIN)
    assert (how, cause) == (GATHERED, "its lanes are where data says")


@T.prim_func(private=True, s_tir=True)
def chosen(one: T.Buffer((1,)), x: T.Buffer((32, 16)), y: T.Buffer((32,))):
    for i, k in T.grid(32, 16):
        with T.sblock("sum"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                y[vi] = T.float32(0)
            y[vi] += T.if_then_else(vk < 8, one[0], x[vi, vk])


def test_a_condition_alone_is_no_way_along_a_reduction():
    found = model(chosen)
    assert not is_reduced(found, access(found, "one"))
    assert is_reduced(found, access(found, "x"))
