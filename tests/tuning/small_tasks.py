"""Small kernels as they reach the schedule rules, and a schedule that fits each."""

from __future__ import annotations

from tvm import te, tirx
from tvm.script import tirx as T

from smartmem_tvm.schedules.choice import Choice
from smartmem_tvm.schedules.tile import Tile


def _matmul():
    a = te.placeholder((64, 48), name="A")
    b = te.placeholder((48, 32), name="B")
    k = te.reduce_axis((0, 48), name="k")
    c = te.compute((64, 32), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="C")
    return te.create_prim_func([a, b, c])


def doubled(value=lambda x, _i: x * 2.0, rows=64):
    """Twice the input, unless told otherwise; the output has 64 rows, whatever is written."""
    a = te.placeholder((64, 64), name="A")
    o = te.compute((rows, 64), lambda i, j: value(a[i, j], i), name="O")
    return te.create_prim_func([a, o])


def _root():
    a = te.placeholder((64, 64), name="A")
    o = te.compute((64, 64), lambda i, j: te.sqrt(a[i, j]) - 3.0, name="O")
    return te.create_prim_func([a, o])


def _half():
    a = te.placeholder((64, 64), name="A", dtype="float16")
    o = te.compute((64, 64), lambda i, j: a[i, j] * a[i, j] + tirx.const(1, "float16"), name="O")
    return te.create_prim_func([a, o])


def _gather():
    table = te.placeholder((9, 16), name="table")
    index = te.placeholder((20,), name="index", dtype="int64")
    o = te.compute((20, 16), lambda i, j: table[index[i], j], name="O")
    return te.create_prim_func([table, index, o])


@T.prim_func(s_tir=True)
def in_place(A: T.Buffer((64, 64), "float32"), O: T.Buffer((64, 64), "float32")):  # noqa: E741
    for i, j in T.grid(64, 64):
        with T.sblock("O"):
            vi, vj = T.axis.remap("SS", [i, j])
            O[vi, vj] = O[vi, vj] * T.float32(0.5) + A[vi, vj]


@T.prim_func(s_tir=True)
def part_of_image(
    A: T.Buffer((8, 6), "float32"),
    O: T.Buffer((1, 8, 4, 4), "float32", scope="global.texture"),  # noqa: E741
):
    # Six of sixteen elements of a row: the second texel has padding, the others stay as they are.
    for i, j in T.grid(8, 6):
        with T.sblock("O"):
            vi, vj = T.axis.remap("SS", [i, j])
            O[0, vi, vj // 4, vj % 4] = A[vi, vj] + T.float32(1)


TASKS = {
    "matmul": _matmul(),
    "doubled": doubled(),
    "root": _root(),
    "half": _half(),
    "gather": _gather(),
    "in_place": in_place,
}
MATMUL = Choice(Tile(rows=((0, 4),), lane=1, width=8, group=4))
NO_SUCH_AXIS = Choice(Tile(lane=7))
