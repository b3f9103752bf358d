"""Layout class of a function: how it depends on the layout of what it reads (SmartMem, table 4).

The class follows from the stages alone, never from a name:

=========  ==================================================================================
ILD        some axis is reduced: reading along it is what a layout can help; output variable
ILI        elementwise, broadcast operands included: any layout serves; output variable
FIXED      every element is a copy of one that is chosen by index: output order fixed by input
OPAQUE     anything else (sorts, scans, scatters, extern calls): kept as it is, with its reason
=========  ==================================================================================

A fixed function is a *relayout* when it reads every element of one tensor exactly once, otherwise a
*selection* (slice, pad, broadcast, concat, gather).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_walk

from .computation import OpaqueReason, Stage, is_int, read_stages, replace_in_stage
from .expressions import loads_of, substitute

IF_THEN_ELSE = tvm.ir.Op.get("prim.if_then_else")


class LayoutClass(enum.Enum):
    """Layout class of an operator; the value is the text of the attribute."""

    ILD = "ILD"
    ILI = "ILI"
    FIXED = "fixed"
    OPAQUE = "opaque"


@dataclass(frozen=True)
class Classification:
    """Class of one function.

    Attributes
    ----------
    layout_class
        The class.
    reduced
        For each input position, its dimensions that reduced axes run along.
    reason
        Why it is opaque, else empty.
    """

    layout_class: LayoutClass
    reduced: tuple[tuple[int, ...], ...] = ()
    reason: str = ""


def branches(value: Any) -> list[Any] | None:
    """Values that a chain of conditional copies chooses from, or None if the value is not one.

    Conditions may depend on indices, not on data.
    """
    if isinstance(value, tirx.Select):
        condition, *choices = value.condition, value.true_value, value.false_value
    elif isinstance(value, tvm.ir.Call) and value.op.same_as(IF_THEN_ELSE):
        condition, *choices = value.args
    else:
        return None
    return None if loads_of(condition) else choices


def is_copy(value: Any) -> bool:
    """Whether the value is an element that was chosen by index, or a constant in its place."""
    if isinstance(value, TensorLoad | tirx.IntImm | tirx.FloatImm):
        return True
    choices = branches(value)
    return choices is not None and all(is_copy(choice) for choice in choices)


def classify_stages(stages: list[Stage]) -> LayoutClass:
    """Class of a function with these stages."""
    if any(stage.is_reduction for stage in stages):
        return LayoutClass.ILD
    stores = [store for stage in stages for store in stage.stores]
    if any(loads_of(index) for store in stores for index in store.indices):
        return LayoutClass.OPAQUE
    copies = all(store.condition is None and is_copy(store.value) for store in stores)
    return LayoutClass.FIXED if copies else LayoutClass.ILI


def classify(func: tirx.PrimFunc) -> Classification:
    """Class of a PrimFunc, with the dimensions of each input that its reduced axes run along."""
    stages = read_stages(func)
    if isinstance(stages, OpaqueReason):
        return Classification(LayoutClass.OPAQUE, reason=stages.reason)
    stages = inline_copies(stages, {param for param in func.params})
    reduced = tuple(reduction_dimensions(stages, param) for param in func.params)
    found = classify_stages(stages)
    reason = "its data says where it stores" if found is LayoutClass.OPAQUE else ""
    return Classification(found, reduced, reason)


def reduction_dimensions(stages: list[Stage], buffer: Any) -> tuple[int, ...]:
    """Dimensions of a buffer whose index, in some load, moves with a reduced axis."""
    dimensions: set[int] = set()
    for stage in stages:
        reduced = {axis.var for axis in stage.axes if axis.reduced and not is_int(axis.extent, 1)}
        if not reduced:
            continue
        for load in stage.loads():
            if load.source.same_as(buffer):
                for number, index in enumerate(load.indices):
                    found: list[Any] = []
                    structural_walk(index, (tvm.ir.Var, found.append))
                    if any(var in reduced for var in found):
                        dimensions.add(number)
    return tuple(sorted(dimensions))


def inline_copies(stages: list[Stage], kept: set[Any]) -> list[Stage]:
    """Stages with intermediate copies (a convolution's padding) put into the loads of them.

    Buffers in `kept` are outputs and stay.
    """
    views: dict[Any, Any] = {}
    result = []
    for stage in stages:
        stage = replace_in_stage(stage, views) if views else stage
        store = stage.stores[0]
        if (
            len(stage.stores) == 1
            and not stage.is_reduction
            and store.buffer not in kept
            and stage.is_pointwise(store)
            and is_copy(store.value)
        ):

            def view(indices: list[Any], stage: Stage = stage, value: Any = store.value) -> Any:
                points = dict(zip((axis.var for axis in stage.axes), indices, strict=True))
                return substitute(value, points)

            views[store.buffer] = view
        else:
            result.append(stage)
    return result
