"""Divisions and remainders of index maps: composed, simplified, and left in a kernel's inner loops.

*Composed*: what the maps of a chain of operators hold when each is put into the next as it is
written. The expression itself grows with the product of its parts, so it is counted, not built:
a map that uses its axis i twice holds the divisions of what stands for i twice.

*Inner loops* are the serial, unrolled and vectorised loops inside those bound to threads. A
division counts if it must be evaluated anew in such a loop: it uses the loop's variable, itself or
through variables that are bound to values. One of other variables is computed once before the loop,
and one of nothing but unrolled and vectorised variables is a constant in each copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import WalkResult, structural_walk

from .computation import OpaqueReason, Stage, read_stages
from .expressions import substitute
from .index_reading import dtype_of
from .index_simplify import DIVISIONS, REMAINDERS, count_divisions
from .index_split import split_of_loop
from .kernels import count_calls
from .launches import is_host_function

DIVIDING = (*DIVISIONS, *REMAINDERS)
_FLATTEN = tvm.transform.Sequential(
    [
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.StmtSimplify(),
    ]
)
# Attribute of a module: what its kernels would divide if composed maps were not simplified.
COMPOSED_DIVISIONS = "smartmem.composed_divisions"
COPIED = (tirx.ForKind.UNROLLED, tirx.ForKind.VECTORIZED)


# ---- composed maps ------------------------------------------------------------------------------


@dataclass
class Occurrences:
    """What an expression holds when every view is put in place of its loads.

    Attributes
    ----------
    divisions
        Divisions and remainders of integers.
    variables
        How often each variable stands in it.
    """

    divisions: int = 0
    variables: dict[Any, int] = field(default_factory=dict)

    def add(self, other: Occurrences, times: int = 1) -> None:
        """Count another expression that stands so many times in this one."""
        self.divisions += times * other.divisions
        for var, count in other.variables.items():
            self.variables[var] = self.variables.get(var, 0) + times * count


@dataclass(frozen=True)
class ComposedView:
    """A fixed operator's map over its axes, with the maps that it reads through put in."""

    axes: tuple[Any, ...]
    inside: Occurrences

    def at(self, indices: Sequence[Occurrences]) -> Occurrences:
        """What stands in place of a load with these indices."""
        result = Occurrences(self.inside.divisions)
        points = dict(zip(self.axes, indices, strict=True))
        for var, count in self.inside.variables.items():
            if var in points:
                result.add(points[var], count)
            else:
                result.add(Occurrences(0, {var: 1}), count)
        return result


def occurrences(exprs: Sequence[Any], views: Mapping[Any, ComposedView]) -> Occurrences:
    """Divisions and variables of expressions with the views put in place of their loads."""
    found = Occurrences()

    def load(expr: TensorLoad) -> WalkResult:
        indices = [occurrences([index], views) for index in expr.indices]
        view = views.get(expr.source)
        for part in indices if view is None else [view.at(indices)]:
            found.add(part)
        return WalkResult.SKIP

    def division(expr: Any) -> None:
        if "int" in dtype_of(expr):
            found.divisions += 1

    def variable(var: Any) -> None:
        found.variables[var] = found.variables.get(var, 0) + 1

    structural_walk(
        list(exprs),
        [(TensorLoad, load), (DIVIDING, division), (tvm.ir.Var, variable)],
        order="pre",
    )
    return found


def composed_divisions(stages: Sequence[Stage], views: Mapping[Any, ComposedView]) -> int:
    """Divisions and remainders of stages that read through the views, nothing simplified."""
    return sum(occurrences(_parts(stage), views).divisions for stage in stages)


def composed_view(stage: Stage, views: Mapping[Any, ComposedView]) -> ComposedView:
    """View of a stage that writes one tensor element by element."""
    inside = occurrences([stage.stores[0].value], views)
    return ComposedView(tuple(axis.var for axis in stage.axes), inside)


def _parts(stage: Stage) -> list[Any]:
    parts = [part for s in stage.stores for part in (s.value, *s.indices, s.condition)]
    return [part for part in (*parts, *stage.initial) if part is not None]


def written_divisions(func: tirx.PrimFunc) -> int:
    """Divisions and remainders of an unscheduled function as it is written; 0 if it is opaque."""
    stages = read_stages(func)
    if isinstance(stages, OpaqueReason):
        return 0
    return sum(count_divisions(*_parts(stage)).total for stage in stages)


def total_divisions(mod: tvm.IRModule, count: Callable[[tirx.PrimFunc], int]) -> int:
    """Sum over the calls of one inference, with what `count` makes of each called function."""
    return sum(
        calls * count(mod[name])
        for name, calls in count_calls(mod, "main").items()
        if not is_host_function(mod[name])
    )


# ---- scheduled kernels --------------------------------------------------------------------------


@dataclass(frozen=True)
class InnerDivision:
    """One division or remainder that is evaluated in an inner loop.

    Attributes
    ----------
    expr
        The division, bound variables put in.
    loop
        Name of the innermost inner loop whose variable it uses.
    kind
        ``"serial"``, ``"unrolled"`` or ``"vectorized"``.
    split
        Extent of the inner one of two loops that the loop could become for the division to leave
        the inner one; None where there is none, as when the first point is not known to divide.
    """

    expr: str
    loop: str
    kind: str
    split: int | None


def inner_divisions(func: tirx.PrimFunc) -> list[InnerDivision]:
    """Divisions and remainders that the inner loops of a scheduled function evaluate.

    Counted once its buffers are flat, as they are in the kernel: ``A[i // 8, i % 8]`` of rows of 8
    elements is element i, and divides nothing.
    """
    counter = _InnerLoops()
    counter.visit(_FLATTEN(tvm.IRModule({"main": func}))["main"].body)
    return counter.found


class _InnerLoops:
    def __init__(self) -> None:
        self.found: list[InnerDivision] = []
        self.domain: dict[Any, tvm.ir.Range] = {}
        self.inner: dict[Any, tirx.For] = {}
        self.values: dict[Any, Any] = {}

    def visit(self, node: Any) -> None:
        """Note the divisions of a statement under the loops that are open."""

        def loop(stmt: tirx.For) -> WalkResult:
            self._count([stmt.min, stmt.extent])
            self._open(stmt)
            return WalkResult.SKIP

        def bind(stmt: tirx.Bind) -> WalkResult:
            self._count([stmt.value])
            self.values[stmt.var] = substitute(stmt.value, self.values)
            return WalkResult.SKIP

        def division(expr: Any) -> WalkResult:
            self._count([expr])
            return WalkResult.SKIP

        def attribute(stmt: tirx.AttrStmt) -> None:
            if stmt.attr_key == "thread_extent":
                zero = tirx.const(0, stmt.value.ty.dtype)
                self.domain[stmt.node.var] = tvm.ir.Range.from_min_extent(zero, stmt.value)

        visits = [
            (tirx.For, loop),
            (tirx.Bind, bind),
            (tirx.AttrStmt, attribute),
            (DIVIDING, division),
        ]
        structural_walk(node, visits, order="pre")

    def _open(self, stmt: tirx.For) -> None:
        self.domain[stmt.loop_var] = tvm.ir.Range.from_min_extent(stmt.min, stmt.extent)
        is_inner = stmt.kind != tirx.ForKind.THREAD_BINDING
        if is_inner:
            self.inner[stmt.loop_var] = stmt
        self.visit(stmt.body)
        if is_inner:
            del self.inner[stmt.loop_var]

    def _count(self, exprs: list[Any]) -> None:
        for expr in exprs:
            structural_walk(substitute(expr, self.values), (DIVIDING, self._note))

    def _note(self, expr: Any) -> None:
        if "int" not in dtype_of(expr):
            return
        used: dict[Any, None] = {}
        structural_walk(expr, (tvm.ir.Var, lambda var: used.setdefault(var, None)))
        loops = [loop for var, loop in self.inner.items() if var in used]
        copied = {var for var, loop in self.inner.items() if loop.kind in COPIED}
        scalars = {var for var in used if isinstance(var.ty, tvm.ir.PrimType)}
        if not loops or (scalars <= copied and len(scalars) == len(used)):
            return
        innermost = loops[-1]
        domain = {var: rng for var, rng in self.domain.items() if var in used}
        self.found.append(
            InnerDivision(
                str(expr),
                innermost.loop_var.name,
                tirx.ForKind(innermost.kind).name.lower(),
                split_of_loop([expr], innermost.loop_var, domain),
            )
        )
