"""Builders of kernels that are not what they should be, mostly for the task `doubled`.

Which one is planted is said by the choice's `group`; any other choice is built as it is.
"""

from __future__ import annotations

import os

import small_tasks
from tvm import te, tirx
from tvm.script import tirx as T

from smartmem_tvm.schedules.choice import Choice
from smartmem_tvm.schedules.tile import Tile
from smartmem_tvm.tuning.candidate import build_candidate

SCALED, ELEMENT, UNWRITTEN, LATER, HANG, ABORT, RAISE, SLOW, IN_PLACE = range(1001, 1010)
WRONG = (SCALED, ELEMENT, UNWRITTEN, LATER)
# Launches of it take about a second.
LONG = 3_000_000


def plant(kind):
    """Choice for which the builder plants a kernel."""
    return Choice(Tile(group=kind))


def _updated(value):
    """Output from itself and the input; with bound loops, as no rule schedules such a function."""

    @T.prim_func(s_tir=True)
    def func(A: T.Buffer((64, 64), "float32"), O: T.Buffer((64, 64), "float32")):  # noqa: E741
        T.func_attr({"tirx.is_scheduled": True})
        for i in T.thread_binding(64, thread="blockIdx.x"):
            for j in T.thread_binding(64, thread="threadIdx.x"):
                with T.sblock("O"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    O[vi, vj] = value(O[vi, vj], A[vi, vj])

    return func


def _later(o, a):
    """Twice the input at the first launch, seven at all others."""
    return tirx.if_then_else(tirx.any(o == a * 2.0, o == 7.0), T.float32(7), a * 2.0)


@T.prim_func(s_tir=True)
def _rows_left_out(A: T.Buffer((64, 64), "float32"), O: T.Buffer((64, 64), "float32")):  # noqa: E741
    for i, j in T.grid(63, 64):
        with T.sblock("O"):
            vi, vj = T.axis.remap("SS", [i, j])
            O[vi, vj] = A[vi, vj] * T.float32(2)


def long(times):
    """The right result, after a loop of so many steps for each element."""
    a = te.placeholder((64, 64), name="A")
    k = te.reduce_axis((tirx.const(0, "int64"), tirx.const(times, "int64")), name="k")

    def value(i, j):
        return te.max(a[i, j] * 2.0 - k.astype("float32") * tirx.const(0.001, "float32"), axis=k)

    return te.create_prim_func([a, te.compute((64, 64), value, name="O")])


def build(func, target, choice):
    """What a worker calls in place of `build_candidate`."""
    kind = None if choice is None else choice.tile.group
    own = None
    if kind == SCALED:
        own = small_tasks.doubled(lambda x, _: x * 2.01)
    elif kind == ELEMENT:
        own = small_tasks.doubled(
            lambda x, i: tirx.Select(i == 63, x * 2.0 + 0.1 * te.exp(-(x * x) * 99.0), x * 2.0)
        )
    elif kind == UNWRITTEN:
        own = _rows_left_out
    elif kind == LATER:
        own = _updated(_later)
    elif kind == IN_PLACE:
        own = _updated(lambda o, a: o * 0.5 + a)
    elif kind == HANG:
        own = long(2**50)
    elif kind == SLOW:
        own = long(LONG)
    elif kind == ABORT:
        print("about to abort", flush=True)
        os.abort()
    elif kind == RAISE:
        raise KeyError("a mistake in the builder")
    if own is None:
        return build_candidate(func, target, choice)
    return build_candidate(own, target, None)
