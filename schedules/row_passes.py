"""Loops over a row that compute the same values.

::

    for k: S[i] += exp(x[i, k] - M[i])         in variables of the sink, k being j:
    for j: O[i, j] = exp(x[i, j] - M[i])   →   both compute exp(x[i, j] - M[i])
               / S[i]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import tvm
import tvm_ffi
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm.ir.prim import expr as prim
from tvm.tirx import BufferLoad
from tvm_ffi import structural_equal, structural_walk

from smartmem_tvm.analysis.computation import Axis, Stage, point_of
from smartmem_tvm.analysis.expressions import (
    const,
    loads_of,
    simplify_indices,
    static,
    substitute,
    uses,
)
from smartmem_tvm.analysis.fused_kernel import Kernel
from smartmem_tvm.analysis.index_reading import IF_THEN_ELSE

from .lanes import is_float

# Calls that cost no more than reading their result.
_CHEAP = tuple(
    tvm.ir.Op.get(name)
    for name in (
        "prim.ceil",
        "prim.if_then_else",
        "tirx.fabs",
        "tirx.floor",
        "tirx.fma",
        "tirx.nearbyint",
        "tirx.reinterpret",
        "tirx.round",
        "tirx.trunc",
    )
)


@dataclass
class Pass:
    """A stage that goes over the row.

    Attributes
    ----------
    stage : Stage
        A reduction, or the sink.
    values : dict
        Its axes in variables of the sink.
    var : tvm.ir.Var
        The axis that runs along the row.
    result : TensorLoad or None
        What a reduction makes, as the sink would read it.
    """

    stage: Stage
    values: dict[Any, Any]
    var: Any
    result: TensorLoad | None


def list_passes(kernel: Kernel, axis: Axis, analyzer: sym.Analyzer) -> list[Pass]:
    """Reductions along the row whose results all readers find at one place, in order."""
    found: list[Pass] = []
    asked: list[TensorLoad] = kernel.sink.loads()
    lost: set[Any] = set()
    for stage in reversed(kernel.stages):
        made = {store.buffer for store in stage.stores}
        values = None if made & lost else _point(kernel, stage, axis, asked, analyzer)
        row = None if values is None else _along(stage, axis)
        if values is None or row is None:
            lost |= {load.source for load in stage.loads()}
            continue
        for reduced in stage.axes:
            if reduced.reduced:
                is_row = reduced.var.same_as(row)
                values[reduced.var] = axis.var if is_row else const(0, reduced.var)
        result = next(load for load in asked if load.source in made)
        found.append(Pass(stage, values, row, result))
        asked = [*asked, *(substitute(load, values) for load in stage.loads())]
    return found[::-1]


def _point(
    kernel: Kernel, stage: Stage, axis: Axis, asked: list[TensorLoad], analyzer: sym.Analyzer
) -> dict[Any, Any] | None:
    """Values of a stage's axes at which its results are asked for; None for several."""
    points: list[dict[Any, Any]] = []
    for load in asked:
        if kernel.makers.get(load.source) is stage:
            points.append(point_of(stage, load.source, list(load.indices)))
    if not points:
        return None
    first = list(points[0].values())
    if any(uses(value, axis.var) for value in first):
        return None
    same = all(
        structural_equal(analyzer.simplify(point[var]), analyzer.simplify(value))
        for point in points[1:]
        for var, value in points[0].items()
    )
    return dict(points[0]) if same else None


def _along(stage: Stage, axis: Axis) -> Any:
    """The only reduced axis that has several points, if it is as long as the row."""
    reduced = [a for a in stage.axes if a.reduced and static(a.extent) != 1]
    if len(reduced) != 1 or static(reduced[0].extent) != int(axis.extent):
        return None
    return reduced[0].var if reduced[0].var.ty == axis.var.ty else None


def common_value(kernel: Kernel, passes: list[Pass], analyzer: sym.Analyzer) -> Any:
    """A largest costly value of the first pass that a later one computes too, None without one.

    In variables of the sink.
    """
    first, *later = passes
    own = {store.buffer for store in first.stage.stores}
    found: list[Any] = []

    def legal(value: Any) -> bool:
        return not any(
            load.source in own
            or (load.source in kernel.makers and any(uses(i, first.var) for i in load.indices))
            for load in loads_of(value)
        )

    def visit(node: Any, mutator: Any) -> Any:
        if found or isinstance(node, TensorLoad) or not _is_costly(node, first.var):
            return node
        if is_float(node) and legal(node):
            value = substitute(node, first.values)
            if any(_computes(other, value, analyzer) for other in later):
                found.append(value)
                return node
        return node if _is_choice(node) else mutator.default_mutate(node)

    for store in first.stage.stores:
        tvm_ffi.structural_mutate(store.value, (tvm.ir.Expr, visit))
    return found[0] if found else None


def _computes(one: Pass, value: Any, analyzer: sym.Analyzer) -> bool:
    """Whether a pass computes a value."""
    hits: list[Any] = []
    for store in one.stage.stores:
        _replaced(store.value, one, value, lambda node: hits.append(node) or node, analyzer)
    return bool(hits)


def read_from(buffer: Any, value: Any, one: Pass, analyzer: sym.Analyzer) -> Stage:
    """A pass's stage that reads a value, where it computes it, from an array of the row."""
    load = BufferLoad(buffer, [one.var])
    stores = tuple(
        replace(store, value=_replaced(store.value, one, value, lambda _: load, analyzer))
        for store in one.stage.stores
    )
    return replace(one.stage, stores=stores)


def _replaced(
    expr: Any, one: Pass, value: Any, by: Callable[[Any], Any], analyzer: sym.Analyzer
) -> Any:
    """Expression of a pass whose parts that are equal to a value are replaced."""
    plain = simplify_indices(value, analyzer)

    def visit(node: Any, mutator: Any) -> Any:
        if isinstance(node, TensorLoad) or not _is_costly(node, one.var):
            return node
        if type(node) is type(plain) and structural_equal(
            simplify_indices(substitute(node, one.values), analyzer), plain
        ):
            return by(node)
        return mutator.default_mutate(node)

    return tvm_ffi.structural_mutate(expr, (tvm.ir.Expr, visit))


def _is_choice(node: Any) -> bool:
    """Whether a part of a value is computed under a condition."""
    if isinstance(node, tirx.Select):
        return True
    return isinstance(node, tvm.ir.Call) and bool(node.op.same_as(IF_THEN_ELSE))


def _is_costly(node: Any, var: Any) -> bool:
    """Whether a value takes a function or a quotient of what changes along the row."""
    found: list[Any] = []
    structural_walk(node, ((tvm.ir.Call, prim.Div), found.append))
    return any(is_float(part) and _is_slow(part) and uses(part, var) for part in found)


def _is_slow(part: Any) -> bool:
    if isinstance(part, tvm.ir.Call):
        return not any(part.op.same_as(op) for op in _CHEAP)
    # Compilers multiply by the reciprocal where it is exact.
    by_power = isinstance(part.b, tirx.FloatImm) and abs(math.frexp(part.b.value)[0]) == 0.5
    return not by_power
