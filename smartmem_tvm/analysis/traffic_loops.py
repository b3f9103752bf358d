"""Reads and writes of a launch with the loops that run them.

Unlike :func:`.traffic_accesses.collect_statements`, which asks which elements are touched, this
asks how often: iterators of blocks are replaced by their values, every thread axis is one variable
however often it is bound, and a statement under ``threadIdx.x`` of 16 in a work-group of 64 has the
condition ``threadIdx.x < 16`` that lowering gives it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.s_tir import SBlockRealize

from .expressions import substitute, uses
from .launches import Launch, bound_thread
from .traffic_accesses import Collected, Collector, Domain, Statement, static_extents

_REDUCTION = 2
_SHORT = 8  # iterations of a loop that compilers unroll unasked
_UNROLL_STEPS = "pragma_auto_unroll_max_step"


@dataclass
class Execution:
    """A statement and what runs it.

    Attributes
    ----------
    statement
        What is stored and read; its domain holds threads and loops.
    loops
        Serial loops from the outside in.
    merged
        Thread axes whose work-items reduce together and store once.
    alone
        Thread axes of which one work-item runs it: it uses the result of such a reduction.
    rolled
        Loops that stay loops: neither short nor marked to be unrolled.
    """

    statement: Statement
    loops: tuple[Any, ...]
    merged: tuple[Any, ...]
    alone: tuple[Any, ...]
    rolled: tuple[Any, ...]


@dataclass
class Executions:
    """Statements of a launch, its thread axes, and whether extents are symbolic."""

    found: list[Execution] = field(default_factory=list)
    threads: Domain = field(default_factory=dict)
    symbolic: bool = False


def collect_executions(launch: Launch) -> Executions:
    """Statements of a launch with their loops."""
    collector = _LoopCollector(launch)
    if not collector.symbolic:
        collector.statement(launch.body)
    collected: Collected = collector.found
    executions = [
        Execution(statement, *about)
        for statement, about in zip(collected.statements, collector.about, strict=True)
    ]
    symbolic = collector.symbolic or collected.symbolic
    return Executions(executions, collector.threads, symbolic)


class _LoopCollector(Collector):
    """Keeps loops apart instead of looking through them."""

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        extents = static_extents(launch.threads.values())
        self.symbolic = extents is None
        self.about: list[tuple[tuple[Any, ...], ...]] = []
        self._loops: list[Any] = []
        self._merged: tuple[Any, ...] = ()
        self._reduced: list[Any] = []
        self._bound: list[Any] = []
        self._rolled: list[Any] = []
        self._unrolling = False
        self._axes: dict[str, Any] = {}
        self.threads: Domain = {}
        for tag, extent in zip(launch.threads, extents or (), strict=False):
            if not tag.startswith("vthread"):
                self._axes[tag] = tirx.Var(tag.replace(".", "_"), "int64")
                self.threads[self._axes[tag]] = (0, extent)
        self._domain = dict(self.threads)

    def _bind_thread(self, tag: str, var: Any, extent: Any, body: Any) -> None:
        axis = self._axes[tag]
        self._values[var] = axis
        self._bound.append(axis)
        numbers = static_extents((extent,))
        narrow = numbers is not None and numbers[0] < self.threads[axis][1]
        if narrow:
            self._guards.append(axis < tirx.IntImm("int64", int(extent)))
        self.statement(body)
        self._bound.pop()
        if narrow:
            self._guards.pop()

    def _loop(self, stmt: tirx.For) -> None:
        outer = self._unrolling
        self._unrolling = outer or _UNROLL_STEPS in (stmt.annotations or {})
        self._enter(stmt)
        self._unrolling = outer

    def _enter(self, stmt: tirx.For) -> None:
        bound = bound_thread(stmt)
        if bound is not None and bound[0] in self._axes:
            self._bind_thread(bound[0], stmt.loop_var, stmt.extent, stmt.body)
            return
        self._loops.append(stmt.loop_var)
        extent = static_extents((stmt.extent,))
        plain = stmt.kind == tirx.ForKind.SERIAL and not self._unrolling
        if plain and extent is not None and extent[0] > _SHORT:
            self._rolled.append(stmt.loop_var)
        super()._loop(stmt)
        self._rolled = [var for var in self._rolled if not var.same_as(stmt.loop_var)]
        self._loops.pop()

    def _attribute(self, stmt: tirx.AttrStmt) -> None:
        bound = bound_thread(stmt)
        if bound is not None and bound[0] in self._axes:
            self._bind_thread(bound[0], stmt.node.var, stmt.value, stmt.body)
        else:
            super()._attribute(stmt)

    def _block(self, stmt: SBlockRealize) -> None:
        outer, kept = self._merged, dict(self._domain)
        for iter_var, value in zip(stmt.block.iter_vars, stmt.iter_values, strict=True):
            plain = substitute(value, self._values)
            if int(iter_var.iter_type) == _REDUCTION:
                self._merged += tuple(axis for axis in self.threads if uses(plain, axis))
        super()._block(stmt)
        self._reduced += [axis for axis in self._merged if axis not in self._reduced]
        self._merged, self._domain = outer, kept

    def _covers(self, iter_vars: Any, values: list[Any], condition: Any) -> bool:
        return False

    def _finish(self, statement: Statement) -> None:
        super()._finish(statement)
        # What follows a reduction across work-items is done by one of them.
        alone = tuple(axis for axis in self._reduced if axis not in self._bound)
        self.about.append((tuple(self._loops), self._merged, alone, tuple(self._rolled)))
