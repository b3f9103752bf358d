"""Reads and writes of a statement: where, under which conditions, for which iterations.

:func:`collect_statements` flattens a function's body or a launch into one record per store::

    for i, j in T.grid(8, 6):                            domain {vi: (0, 8), vj: (0, 6)}
        with T.sblock("b"):                              target C[vi, vj]
            vi, vj = T.axis.remap("SS", [i, j])          reads  A[vi, vj - 1] under 1 <= vj
            C[vi, vj] = T.if_then_else(1 <= vj, A[vi, vj - 1], T.float32(0))

Indices are written in variables that run freely over boxes. The iterators of a block are such
variables where TVM's iteration maps prove that the loops around it reach every point of their box;
otherwise they are replaced by their values in terms of the loops. Vector indices become a variable
of their own. What depends on data (a gather's index, a mask) is kept as it is and recognised by the
loads inside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlockRealize
from tvm_ffi import structural_equal, structural_map, structural_visit, structural_walk

from .expressions import substitute
from .launches import THREAD_EXTENT

Domain = dict[Any, tuple[int, int]]


@dataclass
class Access:
    """One read or write of a buffer; ``guards`` hold whenever it happens.

    ``whole`` says that the buffer is handed to an intrinsic, which may touch all of it.
    """

    buffer: Any
    indices: tuple[Any, ...]
    guards: tuple[Any, ...]
    whole: bool = False


@dataclass
class Statement:
    """One store with what it reads; ``target`` is None for conditions and calls."""

    domain: Domain
    target: Access | None
    reads: list[Access] = field(default_factory=list)


@dataclass
class Collected:
    """What :func:`collect_statements` finds.

    Attributes
    ----------
    statements
        In program order; the initial value of a reduction comes before its update.
    allocated
        Buffers that exist only inside.
    symbolic
        Whether a shape has no constant extents, or an access cannot be told.
    """

    statements: list[Statement] = field(default_factory=list)
    allocated: list[Any] = field(default_factory=list)
    symbolic: bool = False


def contains_load(expr: Any) -> bool:
    """Whether the value of the expression depends on data."""
    found: list[Any] = []
    structural_walk(expr, ((TensorLoad, tvm.ir.Call), lambda node: found.append(node)))
    return any(isinstance(node, TensorLoad) or not _is_pure(node) for node in found)


def conjuncts(condition: Any) -> list[Any]:
    """Conditions that hold together exactly when the condition holds."""
    if isinstance(condition, tirx.And):
        return conjuncts(condition.a) + conjuncts(condition.b)
    if isinstance(condition, tirx.Not) and isinstance(condition.a, tirx.Or):
        return conjuncts(tirx.Not(condition.a.a)) + conjuncts(tirx.Not(condition.a.b))
    if isinstance(condition, tvm.ir.Call) and _calls(condition, "prim.likely"):
        return conjuncts(condition.args[0])
    return [condition]


def _calls(expr: tvm.ir.Call, name: str) -> bool:
    return isinstance(expr.op, tvm.ir.Op) and expr.op.same_as(tvm.ir.Op.get(name))


def _is_pure(call: tvm.ir.Call) -> bool:
    return any(_calls(call, name) for name in ("prim.if_then_else", "prim.likely"))


def is_device_memory(buffer: Any) -> bool:
    """Whether launches can share the buffer: global memory or a texture."""
    scope = buffer.ty.storage_scope
    return scope in ("", "global") or scope.startswith("global.")


def static_extents(values: Iterable[Any]) -> tuple[int, ...] | None:
    """Extents as numbers, None when one is symbolic."""
    extents = list(values)
    if not all(isinstance(extent, (int, tirx.IntImm)) for extent in extents):
        return None
    return tuple(int(extent) for extent in extents)


def collect_statements(body: Any) -> Collected:
    """Flatten a statement into stores and what they read."""
    collector = Collector()
    collector.statement(body)
    return collector.found


class Collector:
    """Walks statements with the loops, values and conditions that are in force."""

    def __init__(self) -> None:
        self.found = Collected()
        self._domain: Domain = {}
        self._values: dict[Any, Any] = {}
        self._guards: list[Any] = []
        self._whole: list[Any] = []

    # Statements

    def statement(self, stmt: Any) -> None:
        """Collect from a statement and all inside it."""
        handlers: dict[type, Any] = {
            tirx.SeqStmt: self._sequence,
            tirx.For: self._loop,
            tirx.While: self._while,
            tirx.AttrStmt: self._attribute,
            tirx.IfThenElse: self._branch,
            tirx.Bind: self._bind,
            tirx.BufferStore: self._store,
            tirx.Evaluate: lambda s: self._effects(s.value),
            tirx.AssertStmt: lambda s: None,
            tirx.AllocBuffer: lambda s: self.found.allocated.append(s.buffer),
            SBlockRealize: self._block,
        }
        handler = handlers.get(type(stmt))
        if handler is not None:
            handler(stmt)
        elif hasattr(stmt, "body"):
            self.statement(stmt.body)

    def _sequence(self, stmt: tirx.SeqStmt) -> None:
        for item in stmt:
            self.statement(item)

    def _loop(self, stmt: tirx.For) -> None:
        self._effects(stmt.extent)
        kept = dict(self._domain)
        self._declare(stmt.loop_var, stmt.min, stmt.extent)
        self.statement(stmt.body)
        self._domain = kept

    def _while(self, stmt: tirx.While) -> None:
        self._effects(stmt.condition)
        self.statement(stmt.body)

    def _attribute(self, stmt: tirx.AttrStmt) -> None:
        if stmt.attr_key == THREAD_EXTENT or isinstance(stmt.node, tirx.IterVar):
            self._declare(stmt.node.var, 0, stmt.value)
        self.statement(stmt.body)

    def _branch(self, stmt: tirx.IfThenElse) -> None:
        condition = self._substituted(stmt.condition)
        self._effects(condition)
        for guard, branch in (
            (condition, stmt.then_case),
            (tirx.Not(condition), stmt.else_case),
        ):
            if branch is not None:
                self._guards.append(guard)
                self.statement(branch)
                self._guards.pop()

    def _bind(self, stmt: tirx.Bind) -> None:
        self._values[stmt.var] = self._substituted(stmt.value)

    def _block(self, stmt: SBlockRealize) -> None:
        block = stmt.block
        self.found.allocated += list(block.alloc_buffers)
        self._whole += [match.buffer for match in block.match_buffers]
        predicate = self._substituted(stmt.predicate)
        values = [self._substituted(value) for value in stmt.iter_values]
        guarded, kept = [*self._guards], dict(self._domain)
        if self._covers(block.iter_vars, values, tirx.all(predicate, *self._guards)):
            # Every condition so far is about loops that the iterators stand for.
            self._guards = []
            for iter_var in block.iter_vars:
                self._declare(iter_var.var, iter_var.dom.min, iter_var.dom.extent)
        else:
            self._guards.append(predicate)
            self._values.update({v.var: x for v, x in zip(block.iter_vars, values, strict=True)})
        if block.init is not None:
            self.statement(block.init)
        self.statement(block.body)
        self._guards, self._domain = guarded, kept

    def _covers(self, iter_vars: Any, values: list[Any], condition: Any) -> bool:
        """Whether the loops reach every point of the box of the iterators."""
        if not values or contains_load(condition):
            return False
        extents = static_extents(v.dom.extent for v in iter_vars)
        starts = static_extents(v.dom.min for v in iter_vars)
        if extents is None or starts is None or any(starts):
            return False
        ranges = {
            var: tvm.ir.Range.from_min_extent(
                tirx.IntImm(var.ty.dtype, low), tirx.IntImm(var.ty.dtype, extent)
            )
            for var, (low, extent) in self._domain.items()
        }
        result = sym.detect_iter_map(values, ranges, condition)
        sums = list(result.indices)
        if len(sums) != len(values):
            return False
        return all(
            _extent_of(item) == (0, extent) for item, extent in zip(sums, extents, strict=True)
        )

    def _store(self, stmt: tirx.BufferStore) -> None:
        kept = dict(self._domain)
        lanes: dict[int, Any] = {}
        target = self._access(stmt.buffer, stmt.indices, (), lanes)
        statement = Statement(self._domain, target)
        for index in target.indices:
            self._reads(index, (), statement, lanes)
        self._reads(self._substituted(stmt.value), (), statement, lanes)
        self._finish(statement)
        self._domain = kept

    def _effects(self, expr: Any) -> None:
        if contains_load(expr):
            statement = Statement(self._domain, None)
            self._reads(self._substituted(expr), (), statement, {})
            self._finish(statement)

    def _finish(self, statement: Statement) -> None:
        statement.domain = dict(self._domain)
        self.found.statements.append(statement)

    # Expressions

    def _reads(
        self, expr: Any, guards: tuple[Any, ...], into: Statement, lanes: dict[int, Any]
    ) -> None:
        """Record the loads of an expression, each under the conditions that guard it."""

        def visit(node: Any, visitor: Any) -> Any:
            if isinstance(node, TensorLoad):
                access = self._access(node.source, node.indices, guards, lanes)
                if not any(_same(access, known) for known in into.reads):
                    into.reads.append(access)
                for index in node.indices:
                    self._reads(index, guards, into, lanes)
            elif _calls(node, "prim.if_then_else"):
                condition, true, false = node.args
                self._reads(condition, guards, into, lanes)
                self._reads(true, (*guards, condition), into, lanes)
                self._reads(false, (*guards, tirx.Not(condition)), into, lanes)
            elif _calls(node, "tirx.address_of"):
                into.reads.append(Access(node.args[0].source, (), guards, whole=True))
            elif _calls(node, "tirx.tvm_access_ptr"):
                self.found.symbolic = True  # a pointer says neither which buffer nor how much
            else:
                return visitor.default_visit(node)
            return None

        structural_visit(expr, [((TensorLoad, tvm.ir.Call), visit)])

    def _access(
        self, buffer: Any, indices: Any, guards: tuple[Any, ...], lanes: dict[int, Any]
    ) -> Access:
        if static_extents(buffer.ty.shape) is None:
            self.found.symbolic = True
        whole = any(buffer.same_as(matched) for matched in self._whole)
        plain = tuple(self._scalar(self._substituted(index), lanes) for index in indices)
        return Access(buffer, plain, (*self._guards, *guards), whole)

    def _scalar(self, index: Any, lanes: dict[int, Any]) -> Any:
        """Index with each vector replaced by a variable that runs over the lanes."""

        def ramp(node: Any) -> Any:
            count = int(node.lanes)
            if isinstance(node, tirx.Broadcast):
                return node.value
            if count not in lanes:
                lanes[count] = tirx.Var("lane", node.base.ty.dtype)
            self._domain = {**self._domain, lanes[count]: (0, count)}
            return node.base + node.stride * lanes[count]

        return structural_map(index, ((tirx.Ramp, tirx.Broadcast), ramp))

    def _substituted(self, expr: Any) -> Any:
        return substitute(expr, self._values)

    def _declare(self, var: Any, low: Any, extent: Any) -> None:
        # Without constant bounds the variable is unknown, and so is what it indexes.
        bounds = static_extents((low, extent))
        if bounds is not None:
            self._domain[var] = (bounds[0], max(0, bounds[1]))


def _same(a: Access, b: Access) -> bool:
    return (
        a.buffer.same_as(b.buffer)
        and structural_equal(list(a.indices), list(b.indices))
        and structural_equal(list(a.guards), list(b.guards))
    )


def _extent_of(item: Any) -> tuple[int, int] | None:
    """First value and number of values of a sum of splits that leaves no gap; else None."""
    if not isinstance(item, sym.IterSumExpr) or not isinstance(item.base, tirx.IntImm):
        return None
    numbers = [static_extents((split.scale, split.extent)) for split in item.args]
    count = 1
    for pair in sorted(pair for pair in numbers if pair is not None and pair[1] > 1):
        if pair[0] != count:
            return None
        count *= pair[1]
    return None if None in numbers else (int(item.base), count)
