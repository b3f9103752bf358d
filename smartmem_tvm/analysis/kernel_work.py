"""What a kernel reads and writes for each point of its output, for choosing tiles.

Every load is written in the variables of the sink's axes and of reduced axes, whatever stages lie
between. A stage that is read along the axes ``axes`` of the sink is computed once for each of
their points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_equal, structural_visit

from .computation import Stage, point_of
from .expressions import const, static, substitute, uses
from .fused_kernel import Kernel
from .index_reading import IF_THEN_ELSE


@dataclass(frozen=True)
class Access:
    """An element of a parameter that is read or written, and the conditions around it."""

    buffer: Any
    indices: tuple[Any, ...]
    conditions: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Work:
    """A stage, or the sink, at a point of the sink's domain.

    Attributes
    ----------
    stage : Stage
        What is computed.
    axes : frozenset[int]
        Axes of the sink that distinguish its results.
    reduced : tuple of (variable, extent)
        Loops inside, the innermost last; symbolic extents as 1.
    repeats : int
        Product of those extents and of the loops of stages that it is computed for.
    accesses : tuple[Access, ...]
        Reads, and for the sink the writes after them.
    writes : int
        How many of the accesses, the last ones, are writes.
    weight : float
        Arithmetic of one update, in additions.
    nested : bool
        Whether it is computed inside the loops of another stage.
    """

    stage: Stage
    axes: frozenset[int]
    reduced: tuple[tuple[Any, int], ...]
    repeats: int
    accesses: tuple[Access, ...]
    writes: int
    weight: float
    nested: bool = False


def list_work(kernel: Kernel) -> list[Work]:
    """Stages as the sink reads them, each once, and the sink itself at the end."""
    found: list[Work] = []
    seen: list[tuple[Stage, list[Any]]] = []
    sink = kernel.sink
    axes = [axis.var for axis in sink.axes]

    def visit(expr: Any, repeats: int, loops: list[Any]) -> list[Access]:
        outside: list[Access] = []
        for access in _loads(expr):
            stage = kernel.makers.get(access.buffer)
            if stage is None:
                outside.append(access)
                continue
            point = point_of(stage, access.buffer, list(access.indices))
            at = [point[axis.var] for axis in stage.spatial]
            if any(
                stage is known
                and all(structural_equal(a, b) for a, b in zip(at, where, strict=True))
                for known, where in seen
            ):
                continue
            seen.append((stage, at))
            inside = [var for var in loops if any(uses(value, var) for value in at)]
            compute(stage, point, at, repeats if inside else 1, inside)
        return outside

    def compute(stage: Stage, point: Any, at: Any, repeats: int, inside: list[Any]) -> None:
        values = dict(point)
        reduced = []
        for axis in stage.axes:
            if axis.reduced:
                values[axis.var] = tirx.Var(axis.var.name, axis.var.ty)
                reduced.append((values[axis.var], static(axis.extent) or 1))
        for _, extent in reduced:
            repeats *= extent
        accesses: list[Access] = []
        weight = 0.0
        for store in stage.stores:
            value = substitute(store.value, values)
            weight += _weight(value)
            own = {s.buffer for s in stage.stores}
            accesses += [
                a
                for a in visit(value, repeats, [*inside, *(v for v, _ in reduced)])
                if a.buffer not in own
            ]
        along = frozenset(d for d, var in enumerate(axes) if any(uses(value, var) for value in at))
        found.append(
            Work(stage, along, tuple(reduced), repeats, _unique(accesses), 0, weight, bool(inside))
        )

    reads: list[Access] = []
    writes: list[Access] = []
    weight = 0.0
    for store in sink.stores:
        conditions = () if store.condition is None else (store.condition,)
        for part in (store.value, *store.indices, *conditions):
            reads += visit(part, 1, [])
            weight += _weight(part) if part is store.value else 0.0
        writes.append(Access(store.buffer, store.indices, conditions))
    everything = frozenset(range(len(axes)))
    accesses = (*_unique(reads), *writes)
    found.append(Work(sink, everything, (), 1, accesses, len(writes), weight))
    return found


def axes_of_rows(work: Sequence[Work], wide: Iterable[int]) -> tuple[int, ...]:
    """Axes, among some of the sink's, that no result of a reduction belongs to."""
    used = frozenset().union(*(part.axes for part in work[:-1]))
    return tuple(d for d in wide if d not in used)


def bounds_of(kernel: Kernel, work: list[Work]) -> sym.Analyzer:
    """Analyzer that knows the bounds of the sink's axes and of all reduced axes."""
    analyzer = sym.Analyzer()
    for axis in kernel.sink.axes:
        analyzer.bind(axis.var, axis.range)
    for part in work:
        for var, extent in part.reduced:
            analyzer.bind(var, tvm.ir.Range(const(0, var), const(extent, var)))
    return analyzer


def _loads(expr: Any) -> list[Access]:
    """Loads with the conditions of the choices around them; loads in indices included."""
    found: list[Access] = []
    conditions: list[Any] = []

    def load(node: TensorLoad, visitor: Any) -> Any:
        found.append(Access(node.source, tuple(node.indices), tuple(conditions)))
        return visitor.default_visit(node)

    def call(node: tvm.ir.Call, visitor: Any) -> Any:
        if not node.op.same_as(IF_THEN_ELSE):
            return visitor.default_visit(node)
        visitor.visit(node.args[0])
        conditions.append(node.args[0])
        for choice in node.args[1:]:
            visitor.visit(choice)
        conditions.pop()
        return None

    structural_visit(expr, [(TensorLoad, load), (tvm.ir.Call, call)])
    return found


def _unique(accesses: list[Access]) -> tuple[Access, ...]:
    unique: list[Access] = []
    for access in accesses:
        if not any(
            access.buffer.same_as(known.buffer)
            and all(
                structural_equal(a, b) for a, b in zip(access.indices, known.indices, strict=True)
            )
            for known in unique
        ):
            unique.append(access)
    return tuple(unique)


def _weight(value: Any) -> float:
    """Arithmetic of a value: calls of functions count as ten additions.

    Indices and conditions are free: where lanes share them, loops outside compute most of them.
    """
    total = 0.0

    def visit(node: Any, visitor: Any) -> Any:
        nonlocal total
        if isinstance(node, TensorLoad):
            return None
        if isinstance(node, tvm.ir.Call) and node.op.same_as(IF_THEN_ELSE):
            total += 1.0
            for choice in node.args[1:]:
                visitor.visit(choice)
            return None
        if isinstance(node, tvm.ir.Call):
            total += 10.0
        elif isinstance(node, tvm.ir.Expr) and not isinstance(
            node, (tvm.ir.Var, tirx.IntImm, tirx.FloatImm)
        ):
            total += 1.0
        return visitor.default_visit(node)

    structural_visit(value, [(tvm.ir.Expr, visit)])
    return max(total, 1.0)
