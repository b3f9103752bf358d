"""Orders in which the loops over a row may run.

::

    S[g] += x[8 * g + k // 196, k % 196]        →    p: 196, c: 8    S[g] += x[8 * g + c, p]
    O[8 * g + k // 196, k % 196] = … S[g] …                          O[8 * g + c, p] = … S[g] …

So it is in a normalisation over groups of channels: what is reduced, and what every result is then
used for, are channels and pixels taken as one, in the order of the graph. Where a layout has them
in another order, the loops follow it: views that divide an axis say which loops it amounts to, and
any of them may be the innermost one.

Legal for reductions by an operator that may be reordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from tvm import sym, tirx
from tvm.ir.prim import expr as prim
from tvm_ffi import structural_walk

from .computation import Axis, Stage, map_stage
from .expressions import const, simplify_indices, static, substitute
from .fused_kernel import Kernel
from .kernel_work import axes_of_rows, list_work
from .reductions import split_updates


def loop_orders(kernel: Kernel) -> list[Kernel]:
    """The kernel, and the same with another loop of its rows innermost.

    Only the kernel itself where the sink covers no rows, or they have one loop.
    """
    free = _axes_of_rows(kernel)
    if not free:
        return [kernel]
    sink, rows = _apart(kernel, kernel.sink, free)
    stages = {id(stage): _apart(kernel, stage, _reduced(stage)) for stage in kernel.stages}
    found = [kernel]
    for place in range(max(len(rows), *(len(reduced) for _, reduced in stages.values())) - 1):
        turned = {number: _turned(*parts, place) for number, parts in stages.items()}
        makers = {buffer: turned[id(stage)] for buffer, stage in kernel.makers.items()}
        found.append(replace(kernel, makers=makers, sink=_turned(sink, rows, place)))
    return found


def _axes_of_rows(kernel: Kernel) -> list[Axis]:
    """Axes of the sink that no result of a reduction belongs to."""
    if not kernel.reductions:
        return []
    axes = kernel.sink.axes
    wide = [d for d, axis in enumerate(axes) if static(axis.extent) != 1]
    return [axes[d] for d in axes_of_rows(list_work(kernel), wide)]


def _reduced(stage: Stage) -> list[Axis]:
    """Reduced axes of a stage that may be reordered."""
    if split_updates(stage) is None:
        return []
    return [axis for axis in stage.axes if axis.reduced]


def _turned(stage: Stage, axes: list[Axis], place: int) -> Stage:
    """Stage with one of some axes, by its place among them, as the innermost of them."""
    if place >= len(axes) - 1:
        return stage
    last = axes[place]
    order = iter([*(axis for axis in axes if axis is not last), last])
    mine = {axis.var for axis in axes}
    return replace(
        stage, axes=tuple(next(order) if axis.var in mine else axis for axis in stage.axes)
    )


def with_axes(stage: Stage, axes: Sequence[Axis], values: dict[Any, Any]) -> Stage:
    """Stage over other axes, whose old axis variables are expressions of the new ones."""
    analyzer = sym.Analyzer()
    for axis in axes:
        analyzer.bind(axis.var, axis.range)

    changed = map_stage(stage, lambda expr: simplify_indices(substitute(expr, values), analyzer))
    stores = tuple(
        replace(store, indices=tuple(analyzer.simplify(i) for i in store.indices))
        for store in changed.stores
    )
    return replace(changed, axes=tuple(axes), stores=stores)


def _apart(kernel: Kernel, stage: Stage, axes: list[Axis]) -> tuple[Stage, list[Axis]]:
    """Stage with some axes as the loops that views divide them into, and those loops."""
    all_axes: list[Axis] = []
    loops: list[Axis] = []
    values: dict[Any, Any] = {}
    for axis in stage.axes:
        if not any(axis is one for one in axes):
            all_axes.append(axis)
            continue
        sizes = _digits(axis, stage, kernel.makers)
        parts = [axis]
        if sizes is not None:
            names = [f"{axis.var.name}_{number}" for number in range(len(sizes))]
            variables = [tirx.Var(name, axis.var.ty) for name in names]
            parts = [
                Axis(var, const(size, var), axis.reduced)
                for var, size in zip(variables, sizes, strict=True)
            ]
            values[axis.var] = variables[0]
            for part in parts[1:]:
                values[axis.var] = values[axis.var] * part.extent + part.var
        all_axes += parts
        loops += parts
    return (with_axes(stage, all_axes, values) if values else stage), loops


def _digits(axis: Axis, stage: Stage, makers: dict[Any, Stage]) -> list[int] | None:
    """Extents into which indices divide an axis, the outermost first; None where they do not."""
    extent = static(axis.extent)
    if extent is None:
        return None
    divisors: set[int] = set()

    def divided(node: Any) -> None:
        size = static(node.b)
        inner = node.a
        if size is not None and isinstance(inner, prim.FloorDiv) and static(inner.b) is not None:
            size, inner = size * int(inner.b), inner.a
        if size is not None and inner.same_as(axis.var) and 1 < size < extent:
            divisors.add(size)

    indices = [i for s in stage.stores if s.buffer not in makers for i in s.indices]
    for load in stage.loads():
        if load.source not in makers:
            indices += load.indices
    for index in indices:
        structural_walk(index, ((prim.FloorDiv, prim.FloorMod), divided))
    bounds = [1, *sorted(divisors), extent]
    sizes = [b // a for a, b in pairwise(bounds)]
    if not divisors or any(b % a for a, b in pairwise(bounds)):
        return None
    return sizes[::-1]
