"""Cutting what a stage makes into boxes in which it has no condition on an axis.

::

    C[i] = exp(if i < 4 then P[i] else Q[i - 4])        C[i] = exp(P[i])        i in [0, 4)
                                                   →    C[i + 4] = exp(Q[i])    i in [0, n - 4)
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import StructuralVisitor, structural_visit

from smartmem_tvm.analysis.computation import Axis, Stage, Store
from smartmem_tvm.analysis.expressions import substitute
from smartmem_tvm.analysis.index_maps import simplify_value
from smartmem_tvm.analysis.layout_class import IF_THEN_ELSE

# A tensor of more parts is left in one piece: every part is a launch's argument.
MOST_BOXES = 64


def cut_into_boxes(stage: Stage) -> list[Stage]:
    """Stages that together store what a pointwise stage with one store does; itself if one.

    Only axes of constant extent are cut, at the constants that conditions compare them with.
    """
    (store,) = stage.stores
    boxes: list[Stage] = []
    waiting = [Stage(stage.name, stage.axes, (store,))]
    while waiting:
        box = waiting.pop()
        found = _threshold_in(box)
        if found is None:
            boxes.append(box)
        else:
            waiting += [_part(box, *found, upper=upper) for upper in (True, False)]
        if len(boxes) + len(waiting) > MOST_BOXES:
            return [stage]
    return boxes


def _part(box: Stage, axis: Axis, limit: int, *, upper: bool) -> Stage:
    """The box below or from the limit of an axis on."""
    renamed = {}
    axes = []
    for own in box.axes:
        var = tirx.Var(own.var.name, own.var.ty)
        renamed[own.var] = var
        extent = own.extent
        if own is axis:
            size = int(extent) - limit if upper else limit
            extent = tirx.const(size, var.ty.dtype)
            if upper:
                renamed[own.var] = var + tirx.const(limit, var.ty.dtype)
        axes.append(Axis(var, extent))
    domain = {own.var: own.range for own in axes}
    (store,) = box.stores
    indices = tuple(simplify_value(substitute(i, renamed), domain) for i in store.indices)
    value = simplify_value(substitute(store.value, renamed), domain)
    return Stage(box.name, tuple(axes), (Store(store.buffer, indices, value),))


def _threshold_in(box: Stage) -> tuple[Axis, int] | None:
    """An axis and the value at which the outermost condition on one axis alone changes."""
    found: list[tuple[Axis, int]] = []
    axes = {axis.var: axis for axis in box.axes if isinstance(axis.extent, tirx.IntImm)}

    def choice(node: Any, visitor: StructuralVisitor) -> Any:
        if found:
            return None
        if isinstance(node, tirx.Select):
            condition = node.condition
        else:
            condition = node.args[0] if node.op.same_as(IF_THEN_ELSE) else None
        limit = None if condition is None else _limit(condition, axes)
        if limit is not None:
            found.append(limit)
            return None
        return visitor.default_visit(node)

    def load(_node: TensorLoad, _visitor: StructuralVisitor) -> Any:
        return None  # a condition in an index chooses an element, not a part

    kinds = [((tirx.Select, tvm.ir.Call), choice), (TensorLoad, load)]
    structural_visit(box.stores[0].value, kinds)
    return found[0] if found else None


def _limit(condition: Any, axes: dict[Any, Axis]) -> tuple[Axis, int] | None:
    """First value of the axis for which the comparison has the other result than for 0."""
    if not isinstance(condition, tirx.LT | tirx.LE | tirx.GT | tirx.GE):
        return None
    left, right = condition.a, condition.b
    greater = isinstance(condition, tirx.GT | tirx.GE)
    strict = isinstance(condition, tirx.GT | tirx.LT)
    if isinstance(left, tirx.IntImm):
        left, right, greater = right, left, not greater
    if left not in axes or not isinstance(right, tirx.IntImm):
        return None
    # x > k and x <= k part at k + 1; x >= k and x < k at k.
    limit = int(right) + (greater == strict)
    return (axes[left], limit) if 0 < limit < int(axes[left].extent) else None
