"""What a kernel does, from its index maps alone: its class and its arithmetic.

::

    M[i, j] += A[i, k] * B[k, j]            contraction    a product whose operands are used again
    M[c, y] += x[c, y * 2 + r] * w[c, r]    convolution    the same, one operand through a window
    M[i] = max(M[i], x[i, k])               reduction      nothing is multiplied, or nothing reused
    O[i, j] = x[j, i] + b[j]                elementwise    nothing is reduced

A window overlaps: there are values ``s`` of spatial and ``r`` of reduced axes with
``s1 + r1 == s2 + r2``. Where none do, as in ``x[4 * y + r]`` with ``r`` below 4 or in a head's
``q[32 * h + k]``, the sum only writes several dimensions as one, and the kernel is a contraction.
Poolings have windows and no product: they are reductions. The stage with the most arithmetic
decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_visit, structural_walk

from smartmem_tvm.analysis.computation import Stage
from smartmem_tvm.analysis.expressions import dtype_of, loads_of, static
from smartmem_tvm.analysis.fused_kernel import Kernel
from smartmem_tvm.analysis.index_evaluate import evaluate
from smartmem_tvm.analysis.index_reading import IF_THEN_ELSE

CLASSES = ("contraction", "convolution", "reduction", "elementwise")
_ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Min, tirx.Max)
# Values of an axis that are looked at: windows that overlap do so near the origin.
_NEAR = 64
_MOST_POINTS = 1 << 16


def class_of(kernel: Kernel) -> str:
    """Return the class of a kernel, one of :data:`CLASSES`."""
    if not kernel.reductions:
        return "elementwise"
    heaviest = max(kernel.reductions, key=operations_of)
    if not _multiplies_reused_operands(heaviest):
        return "reduction"
    windows = any(_is_window(index, heaviest) for index in _indices(heaviest))
    return "convolution" if windows else "contraction"


def operations_of(stage: Stage) -> int:
    """Floating-point operations of a stage, each value computed once.

    An addition, multiplication, division, minimum, maximum or call of a function counts as one, so
    a multiply-add counts as two. It counts for every point of the axes that its value depends on:
    a scaled operand of a product is scaled once, however often it is used. Choices, comparisons,
    casts and indices count nothing; both sides of a choice count, so padding counts as if it were
    data.
    """
    extents = {axis.var: static(axis.extent) or 0 for axis in stage.axes}
    return sum(
        prod(extents[var] for var in _variables(node) & extents.keys())
        for store in stage.stores
        for node in _arithmetic(store.value)
    )


def _arithmetic(value: Any) -> list[Any]:
    """Operations on floating-point numbers in a value, those in indices excepted."""
    found: list[Any] = []

    def visit(node: Any, visitor: Any) -> Any:
        if isinstance(node, TensorLoad):
            return None
        if isinstance(node, tvm.ir.Call) and node.op.same_as(IF_THEN_ELSE):
            for choice in node.args[1:]:
                visitor.visit(choice)
            return None
        if isinstance(node, (*_ARITHMETIC, tvm.ir.Call)) and dtype_of(node).startswith("float"):
            found.append(node)
        return visitor.default_visit(node)

    structural_visit(value, [(tvm.ir.Expr, visit)])
    return found


def _multiplies_reused_operands(stage: Stage) -> bool:
    """Whether a product of two operands is summed of which each is used at several points."""
    spatial = _long_axes(stage, reduced=False)
    reduced = _long_axes(stage, reduced=True)
    own = {store.buffer for store in stage.stores}
    found = False

    def visit(node: Any) -> None:
        nonlocal found
        sides = [[x for x in loads_of(side) if x.source not in own] for side in (node.a, node.b)]
        # Of the whole operand: a reduced axis may also choose between tensors.
        used = [_variables(side) for side in (node.a, node.b)]
        if all(sides) and all(side & reduced for side in used):
            found |= used[0] & spatial != used[1] & spatial

    for store in stage.stores:
        structural_walk(store.value, (tirx.Mul, visit))
    return found


def _long_axes(stage: Stage, reduced: bool) -> set[Any]:
    """Variables of the axes of one kind that have several values."""
    return {a.var for a in stage.axes if a.reduced == reduced and static(a.extent) != 1}


def _indices(stage: Stage) -> Iterator[Any]:
    for load in stage.loads():
        if not loads_of(list(load.indices)):
            yield from load.indices


def _is_window(index: Any, stage: Stage) -> bool:
    """Whether an index adds spatial and reduced axes so that several sums are the same."""
    spatial, reduced = (_long_axes(stage, reduced=kind) for kind in (False, True))
    found = False

    def visit(node: Any) -> None:
        nonlocal found
        terms = list(_terms(node, 1))
        along = [
            [(t, sign) for t, sign in terms if _variables(t) & axes and not _variables(t) & others]
            for axes, others in ((spatial, reduced), (reduced, spatial))
        ]
        if all(along):
            sums = [_values(part, stage) for part in along]
            together = np.add.outer(sums[0], sums[1])
            found |= np.unique(together).size < together.size

    structural_walk(index, [(tirx.Add, visit), (tirx.Sub, visit)])
    return found


def _terms(expr: Any, sign: int) -> Iterator[tuple[Any, int]]:
    if isinstance(expr, (tirx.Add, tirx.Sub)):
        yield from _terms(expr.a, sign)
        yield from _terms(expr.b, -sign if isinstance(expr, tirx.Sub) else sign)
    else:
        yield expr, sign


def _values(terms: list[tuple[Any, int]], stage: Stage) -> Any:
    """Distinct values of a sum near the origin of the axes that it uses."""
    used = set().union(*(_variables(term) for term, _ in terms))
    axes = [axis for axis in stage.axes if axis.var in used]
    near = _NEAR
    while True:
        extents = [min(static(axis.extent) or near, near) for axis in axes]
        if near == 2 or np.prod(extents, dtype=float) <= _MOST_POINTS:
            break
        near //= 2
    grids = np.meshgrid(*(np.arange(n) for n in extents), indexing="ij")
    points = {axis.var: grid.reshape(-1) for axis, grid in zip(axes, grids, strict=True)}
    return np.unique(sum(sign * evaluate(term, points) for term, sign in terms))


def _variables(expr: Any) -> set[Any]:
    found: set[Any] = set()
    structural_walk(expr, (tvm.ir.Var, found.add))
    return found
