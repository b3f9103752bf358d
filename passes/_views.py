"""Views: what stands in place of a load when the kernel that made the tensor is gone.

::

    B[i, j] = A[j, i]          view of B:  B[x, y] → A[y, x]
    C[i, j] = B[i, j + 1] * 2  with it:    C[i, j] = A[j + 1, i] * 2
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tvm
from tvm import tirx
from tvm_ffi import structural_equal, structural_hash, structural_walk

from smartmem_tvm.analysis.computation import (
    Stage,
    Store,
    replace_in_stage,
    structure_of,
    substitute_in_stage,
    with_fresh_axes,
)
from smartmem_tvm.analysis.expressions import loads_of, substitute
from smartmem_tvm.analysis.index_maps import simplify_value
from smartmem_tvm.analysis.layout_class import inline_copies

from ._graph import Node

View = Callable[[list[Any]], Any]


def view_of(node: Node) -> View | None:
    """View of the one tensor that a node without reductions makes; None if it has another form."""
    if len(node.outputs) != 1 or len(node.stages) != 1:
        return None
    (stage,) = node.stages
    if stage.is_reduction or len(stage.stores) != 1 or not stage.is_pointwise(stage.stores[0]):
        return None
    variables = [axis.var for axis in stage.axes]
    value = stage.stores[0].value

    def view(indices: list[Any]) -> Any:
        cast = [_of_type(index, var) for index, var in zip(indices, variables, strict=True)]
        return substitute(value, dict(zip(variables, cast, strict=True)))

    return view


def _of_type(index: Any, var: Any) -> Any:
    """Index in the variable's type: one that is data may be of another."""
    return index if index.ty.dtype == var.ty.dtype else tirx.Cast(var.ty, index)


def split_node(node: Node) -> list[Node]:
    """One node for each tensor that a node without reductions makes; others without their copies.

    A split of a tensor in three becomes three slices; the padding inside a convolution becomes a
    condition on its loads.
    """
    outputs = set(node.outputs)
    if any(stage.is_reduction for stage in node.stages):
        node.stages = inline_copies(node.stages, outputs)
        return [node]
    if len(node.stages) == 1 and len(node.stages[0].stores) == 1:
        return [node]
    parts, internal = [], {}
    for stage in node.stages:
        stage = replace_in_stage(stage, internal) if internal else stage
        for store in stage.stores:
            alone = with_fresh_axes(Stage(stage.name, stage.axes, (store,)), {})
            part = Node(node.name, [alone], [store.buffer], node.operators, node.attrs)
            view = view_of(part)
            if store.buffer in outputs:
                parts.append(part)
            elif view is None:
                return [node]
            else:
                internal[store.buffer] = view
    return parts


def apply_views(
    stages: list[Stage], views: dict[Any, View], *, simplify: bool = True
) -> list[Stage]:
    """Stages with loads of the viewed buffers replaced and the result simplified."""
    return [apply_to_stage(stage, views, simplify=simplify) for stage in stages]


def apply_to_stage(stage: Stage, views: dict[Any, View], *, simplify: bool = True) -> Stage:
    """Stage with loads of the viewed buffers replaced and the result simplified."""
    if not any(load.source in views for load in stage.loads()):
        return stage
    composed = replace_in_stage(stage, views)
    return simplified(composed) if simplify else composed


def simplified(stage: Stage) -> Stage:
    """Stage with every index, condition and value simplified under the ranges of its axes.

    What is stored under a condition need only be the same where it holds.
    """
    return replace(stage, stores=tuple(_simplified(store, stage.domain) for store in stage.stores))


def _simplified(store: Store, domain: dict[Any, tvm.ir.Range]) -> Store:
    condition = store.condition
    known = None if condition is None or loads_of(condition) else condition
    return Store(
        store.buffer,
        tuple(simplify_value(index, domain, known) for index in store.indices),
        simplify_value(store.value, domain, known),
        None if condition is None else simplify_value(condition, domain),
    )


class SimplifiedStages:
    """Simplified stages, each structure only once: blocks of a network repeat.

    Two stages have the same structure where they differ in the identity of variables and buffers
    alone; what one was simplified to is then, with these exchanged, what the other is.
    """

    def __init__(self) -> None:
        self._known: dict[int, list[tuple[list[Any], Stage]]] = {}

    def __call__(self, stage: Stage) -> Stage:
        """The stage as :func:`simplified` makes it."""
        structure = structure_of(stage)
        bucket = self._known.setdefault(structural_hash(structure, map_free_vars=True), [])
        for known, result in bucket:
            if structural_equal(known, structure, map_free_vars=True):
                return _exchanged(stage, result, known, structure)
        result = simplified(stage)
        bucket.append((structure, result))
        return result


def _exchanged(stage: Stage, result: Stage, known: list[Any], structure: list[Any]) -> Stage:
    """Result of the known structure, over the stage's own variables and buffers."""
    values = dict(zip(_variables(known), _variables(structure), strict=True))
    axes = {ours.var: theirs.var for ours, theirs in zip(result.axes, stage.axes, strict=True)}
    renamed = substitute_in_stage(result, values)
    own = tuple(replace(a, var=axes[a.var]) for a in renamed.axes)
    return replace(renamed, name=stage.name, axes=own)


def _variables(structure: list[Any]) -> list[Any]:
    """Variables in the order in which they stand in a structure."""
    found: dict[Any, None] = {}
    structural_walk(structure, (tvm.ir.Var, lambda var: found.setdefault(var, None)))
    return list(found)
