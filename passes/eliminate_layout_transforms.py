"""Replace operators that only move data by views in the operators that read them.

::

    B = transpose(A)      B[i, j] = A[j, i]
    C = reshape(B)        C[k] = B[k // 4, k % 4]          →   D[k] = exp(A[k % 4, k // 4])
    D = exp(C)            D[k] = exp(C[k])

Fixed operators (:mod:`smartmem_tvm.analysis.layout_class`) are relayouts and selections: slice,
split, pad, broadcast, concat, gather, window partition, roll. A view is composed in one step
through any number of them and simplified under the bounds of the reader's axes. Several readers get
a view each; several producers become one load with a condition on the index.

Kept, with the reason: what a graph output or an opaque operator reads, because nobody is left to
read through the view. (FuseOperators lets the producer write those in place.)

Requires: PrimFuncs (LegalizeOps). Guarantees: the same values; a fixed operator that is left is
read by a graph output or an opaque operator. Source: SmartMem, sections 3.1 and 3.2.1.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from smartmem_tvm.analysis.computation import Stage
from smartmem_tvm.analysis.decisions import Decision, with_decisions
from smartmem_tvm.analysis.index_divisions import (
    COMPOSED_DIVISIONS,
    ComposedView,
    composed_divisions,
    composed_view,
)
from smartmem_tvm.analysis.index_maps import count_divisions
from smartmem_tvm.analysis.layout_class import LayoutClass, classify_stages

from ._emit import rewrite_blocks
from ._graph import Graph, Node, OpaqueNode
from ._views import SimplifiedStages, View, apply_views, split_node, view_of

SCATTERED = "it computes where it stores an element, not where it reads one"


@tvm.transform.module_pass(opt_level=0, name="smartmem.EliminateLayoutTransforms")
class EliminateLayoutTransforms:
    """Turn relayouts and selections into index maps of their readers.

    Parameters
    ----------
    simplify
        Whether the composed maps are simplified; without it they are right but full of divisions.
    """

    def __init__(self, simplify: bool = True) -> None:
        self.simplify = simplify

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module without operators that only move data."""
        decisions: list[Decision] = []
        divisions: list[int] = []

        def rewrite(graph: Graph) -> None:
            composed = _composed_divisions(graph)
            decisions.extend(_eliminate(graph, simplify=self.simplify))
            divisions.extend(composed[node] for node in graph.kernels())

        mod = with_decisions(rewrite_blocks(mod, rewrite), decisions)
        return mod.with_attr(COMPOSED_DIVISIONS, tirx.IntImm("int64", sum(divisions)))


def _composed_divisions(graph: Graph) -> dict[Node, int]:
    """Divisions and modulos of each node that reads through the fixed ones, nothing simplified."""
    _split(graph)
    views: dict[Any, ComposedView] = {}
    counts = {}
    for node in graph.kernels():
        counts[node] = composed_divisions(node.stages, views)
        if classify_stages(node.stages) is LayoutClass.FIXED and view_of(node) is not None:
            views[node.outputs[0]] = composed_view(node.stages[0], views)
    return counts


def _split(graph: Graph) -> None:
    graph.nodes = [
        part
        for node in graph.nodes
        for part in ([node] if isinstance(node, OpaqueNode) else split_node(node))
    ]


def _eliminate(graph: Graph, *, simplify: bool) -> list[Decision]:
    views: dict[Any, View] = {}
    fixed: list[Node] = []
    maps: dict[Any, list[dict[str, object]]] = {}
    others: list[Decision] = []
    simplified = SimplifiedStages()
    readers = {
        buffer: tuple(reader.outputs[0].name for reader in nodes)
        for buffer, nodes in graph.consumers().items()
    }
    for node in graph.nodes:
        if isinstance(node, OpaqueNode):
            continue
        composed = apply_views(node.stages, views, simplify=False)
        simplest = [
            new if new is old else (simplified(new) if simplify else new)
            for old, new in zip(node.stages, composed, strict=True)
        ]
        for buffer in {load.source for stage in node.stages for load in stage.loads()} & set(views):
            maps.setdefault(buffer, []).append(_map_record(node, composed, simplest))
        node.stages = simplest
        if classify_stages(node.stages) is LayoutClass.FIXED:
            view = view_of(node)
            if view is None:
                others += [
                    Decision(buffer.name, node.name, LayoutClass.FIXED.value, "kept", (), SCATTERED)
                    for buffer in node.outputs
                ]
            else:
                views[node.outputs[0]] = view
                fixed.append(node)
    return [*others, *_drop_unread(graph, fixed, readers, maps)]


def _map_record(node: Node, before: list[Stage], after: list[Stage]) -> dict[str, object]:
    """What a reader's loads became, with the divisions and modulos in their indices."""
    record: dict[str, object] = {"reader": node.outputs[0].name}
    for name, stages in (("before", before), ("after", after)):
        loads = [load for stage in stages for load in stage.loads()]
        counts = count_divisions(*(index for load in loads for index in load.indices))
        record[name] = sorted({str(load) for load in loads})
        record[f"{name}_divisions"] = counts.divisions + counts.modulos
    return record


def _drop_unread(
    graph: Graph,
    fixed: list[Node],
    readers: dict[Any, tuple[str, ...]],
    maps: dict[Any, list[dict[str, object]]],
) -> list[Decision]:
    consumers, results = graph.consumers(), graph.result_buffers()
    decisions = []
    dropped = set()
    for node in reversed(fixed):
        (buffer,) = node.outputs
        opaque = [other for other in consumers.get(buffer, ()) if isinstance(other, OpaqueNode)]
        reason = ""
        if buffer in results:
            reason = "a graph output"
        elif opaque:
            reason = f"read by an opaque operator ({opaque[0].reason})"
        else:
            dropped.add(node)
        decisions.append(
            Decision(
                buffer.name,
                node.name,
                LayoutClass.FIXED.value,
                "kept" if reason else "eliminated",
                readers.get(buffer, ()),
                reason,
                tuple(maps.get(buffer, ())),
            )
        )
    graph.nodes = [node for node in graph.nodes if node not in dropped]
    return decisions[::-1]
