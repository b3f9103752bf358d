"""Small statements that rules build kernels from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.prim import expr as prim
from tvm.s_tir import SBlock, SBlockRealize
from tvm.tirx import ForKind
from tvm_ffi import structural_visit, structural_walk

from smartmem_tvm.analysis.expressions import const, substitute
from smartmem_tvm.analysis.index_reading import IF_THEN_ELSE

_DIVISIONS = (prim.FloorDiv, prim.FloorMod)
# What the lines of a conditional expression are as long as, beside what is in them.
_OF_BRANCH = 9
TRUE = tirx.IntImm("bool", 1)


def loop(var: Any, extent: Any, body: Any, kind: ForKind = ForKind.SERIAL) -> tirx.For:
    """Loop from 0. An unrolled or vectorised one gets a variable of its own.

    The variables of a tile run in many such loops, and a variable may be defined only once.
    """
    if kind in (ForKind.SERIAL, ForKind.UNROLLED, ForKind.VECTORIZED):
        own = tirx.Var(var.name, var.ty)
        body, var = substitute(body, {var: own}), own
    return tirx.For(var, const(0, var), extent, kind, body)


def loops(nest: Sequence[tuple[Any, Any]], body: Any, kind: ForKind = ForKind.SERIAL) -> Any:
    """Loops around a body, the first outermost."""
    for var, extent in reversed(nest):
        body = loop(var, extent, body, kind)
    return body


def bound(var: Any, extent: Any, tag: str, body: Any) -> tirx.For:
    """Loop that runs along a thread axis."""
    thread = tirx.IterVar(
        tvm.ir.Range(const(0, var), extent),
        tirx.Var(tag, var.ty),
        tirx.IterVar.ThreadIndex,
        tag,
    )
    return tirx.For(var, const(0, var), extent, ForKind.THREAD_BINDING, body, thread)


def sequence(statements: Sequence[Any]) -> Any:
    """Statements one after the other."""
    flat: list[Any] = []
    for statement in statements:
        flat += statement.seq if isinstance(statement, tirx.SeqStmt) else [statement]
    return flat[0] if len(flat) == 1 else tirx.SeqStmt(flat)


def when(condition: Any, body: Any) -> Any:
    """Body under a condition; None stands for true."""
    return body if condition is None else tirx.IfThenElse(condition, body, None)


def both(one: Any, other: Any) -> Any:
    """Conjunction of conditions; None stands for true."""
    if one is None or other is None:
        return other if one is None else one
    return tirx.And(one, other)


def private(name: str, shape: Sequence[int], dtype: str, scope: str = "local") -> Any:
    """Buffer that a work-item (or a work-group) has for itself."""
    return tirx.decl_buffer(list(shape), dtype, name, scope=scope, layout=None)


def size_written(stmt: Any) -> int:
    """Expressions of a statement's source, where unrolled loops are written out.

    A division rounds towards zero in OpenCL C, and where what is divided may be negative TVM writes
    it twice to round down. A conditional expression is then written twice indeed, a variable and
    two branches each: no value that depends on a branch is kept for both.
    """
    total = 0
    copies = 1

    def unrolled(node: tirx.For, visitor: Any) -> Any:
        nonlocal copies
        times = int(node.extent) if node.kind == ForKind.UNROLLED else 1
        copies *= times
        visitor.visit(node.body)
        copies //= times
        return None

    def expression(node: Any, visitor: Any) -> Any:
        nonlocal total
        total += copies
        return visitor.default_visit(node)

    def division(node: Any, visitor: Any) -> Any:
        nonlocal copies, total
        branches = _branches(node.a)
        times = 2 if branches else 1
        copies *= times
        total += copies * branches * _OF_BRANCH
        expression(node, visitor)
        copies //= times
        return None

    visits = [(tirx.For, unrolled), (_DIVISIONS, division), (tvm.ir.Expr, expression)]
    structural_visit(stmt, visits)
    return total


def _branches(expr: Any) -> int:
    """Conditional expressions in an expression."""
    found: list[Any] = []

    def call(node: Any) -> None:
        if node.op.same_as(IF_THEN_ELSE):
            found.append(node)

    structural_walk(expr, [(tvm.ir.Call, call), (tirx.Select, found.append)])
    return len(found)


def kernel_function(func: tirx.PrimFunc, body: Any) -> tirx.PrimFunc:
    """The function with another body, in the form that a schedule is made from."""
    root = SBlock([], [], [], "root", body)
    whole = SBlockRealize([], TRUE, root)
    return tirx.PrimFunc(func.params, whole, func.ret_type, func.attrs)


def work_item(body: Any, buffers: Sequence[Any]) -> SBlockRealize:
    """Block of one work-item, with its buffers."""
    return SBlockRealize([], TRUE, SBlock([], [], [], "work_item", body, None, list(buffers)))
