"""Merge heavy operators that read the same tensor in the same way into one kernel.

::

    q = matmul(x, wq)           q[i, j] = sum(x[i, k] * wq[k, j])
    k = matmul(x, wk)      →    k[i, j] = sum(x[i, k] * wk[k, j])      one kernel, outputs q, k, v
    v = matmul(x, wv)           v[i, j] = sum(x[i, k] * wv[k, j])

    m = mean(x);  s = variance(x)  →  one kernel, outputs m, s; the sum that both need, once

Legal when the last stages have the same spatial extents, the reductions the same reduced extents,
each reads one tensor that the other reads too and that is not a constant, and neither depends on
the other. Every output keeps its buffer. Elementwise operators that follow join later.

Requires: PrimFuncs. Guarantees: the same values; the reads of the shared tensor are shared.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm.ir.expr import GenericConst
from tvm_ffi import structural_equal

from smartmem_tvm.analysis.computation import Stage, is_int, substitute_in_stage
from smartmem_tvm.analysis.decisions import Decision, with_decisions

from ._emit import rewrite_blocks
from ._graph import Graph, Node, OpaqueNode


@tvm.transform.module_pass(opt_level=0, name="smartmem.MergeParallelOperators")
class MergeParallelOperators:
    """Merge parallel contractions, and parallel reductions, of one input."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with parallel operators merged."""
        decisions: list[Decision] = []
        mod = rewrite_blocks(mod, lambda graph: decisions.extend(_merge(graph)))
        return with_decisions(mod, decisions)


def _merge(graph: Graph) -> list[Decision]:
    decisions: list[Decision] = []
    groups: dict[Any, list[Node]] = {}
    constants = {b for b, expr in graph.external.items() if isinstance(expr, GenericConst)}
    for node in graph.kernels():
        shape = _shape(node)
        if shape is not None:
            for buffer in node.inputs():
                if buffer not in constants:
                    groups.setdefault((buffer, shape), []).append(node)
    merged: set[Node] = set()
    reaches = _Reachability(graph)
    for (buffer, _), nodes in groups.items():
        waiting = [node for node in nodes if node not in merged]
        while len(waiting) > 1:
            first, *others = waiting
            waiting = []
            for other in others:
                if _reads_alike(first, other, buffer) and reaches.independent(first, other):
                    _join(first, other)
                    reaches.join(first, other)
                    merged.add(other)
                    decisions.append(
                        Decision(
                            other.outputs[0].name,
                            other.name,
                            "ILD",
                            "merged",
                            (first.outputs[0].name,),
                            f"both read '{buffer.name}' in the same way",
                        )
                    )
                else:
                    waiting.append(other)
    graph.nodes = [node for node in graph.nodes if node not in merged]
    return decisions


def _shape(node: Node) -> tuple[Any, ...] | None:
    """Extents that two nodes must share; None for nodes that are not merged."""
    last = node.stages[-1]
    if not any(stage.is_reduction for stage in node.stages):
        return None
    if len(node.outputs) != 1 or {store.buffer for store in last.stores} != set(node.outputs):
        return None
    reduced = {
        tuple(str(axis.extent) for axis in stage.axes if axis.reduced)
        for stage in node.stages
        if stage.is_reduction
    }
    if len(reduced) != 1 or not last.is_pointwise(last.stores[0]):
        return None
    # Not the stages in between: what a variance squares has the rows' length as well.
    spatial = {
        tuple(str(a.extent) for a in s.spatial if not is_int(a.extent, 1))
        for s in node.stages
        if s.is_reduction or s is last
    }
    if len(spatial) != 1:
        return None
    return (tuple(str(a.extent) for a in last.spatial), reduced.pop())


def _reductions(node: Node) -> list[Stage]:
    return [stage for stage in node.stages if stage.is_reduction]


def _reads_alike(one: Node, other: Node, buffer: Any) -> bool:
    """Whether the first reductions load the buffer at the same place, axis by axis."""
    first, second = _reductions(one)[0], _reductions(other)[0]
    if [a.reduced for a in first.axes] != [a.reduced for a in second.axes]:
        return False
    if not all(
        structural_equal(a.extent, b.extent) for a, b in zip(first.axes, second.axes, strict=True)
    ):
        return False
    axes = {b.var: a.var for a, b in zip(first.axes, second.axes, strict=True)}
    mine = [list(load.indices) for load in first.loads() if load.source.same_as(buffer)]
    renamed = substitute_in_stage(second, axes)
    theirs = [list(load.indices) for load in renamed.loads() if load.source.same_as(buffer)]
    return bool(mine) and any(
        all(structural_equal(a, b) for a, b in zip(m, t, strict=True)) for m in mine for t in theirs
    )


def _join(first: Node, other: Node) -> None:
    """Add the other's stages; a stage that computes the same as an earlier one is shared."""
    replaced: dict[Any, Any] = {}
    for stage in other.stages:
        stage = substitute_in_stage(stage, replaced) if replaced else stage
        twin = _twin(first.stages, stage)
        if twin is None or stage.stores[0].buffer in other.outputs:
            first.stages.append(stage)
        else:
            replaced[stage.stores[0].buffer] = twin.stores[0].buffer
    first.outputs += other.outputs
    first.operators += other.operators


def _twin(stages: list[Stage], stage: Stage) -> Stage | None:
    if len(stage.stores) != 1:
        return None
    for other in stages:
        if len(other.stores) != 1 or len(other.axes) != len(stage.axes):
            continue
        names = {b.var: a.var for a, b in zip(other.axes, stage.axes, strict=True)}
        names[stage.stores[0].buffer] = other.stores[0].buffer
        renamed = substitute_in_stage(stage, names)
        if (
            all(
                a.reduced == b.reduced and structural_equal(a.extent, b.extent)
                for a, b in zip(other.axes, stage.axes, strict=True)
            )
            and structural_equal(renamed.stores[0].value, other.stores[0].value)
            and all(
                structural_equal(a, b)
                for a, b in zip(renamed.stores[0].indices, other.stores[0].indices, strict=True)
            )
            and structural_equal(list(renamed.initial), list(other.initial))
        ):
            return other
    return None


class _Reachability:
    """Which nodes a node depends on, as bit sets that grow when nodes are merged."""

    def __init__(self, graph: Graph) -> None:
        producers = graph.producers()
        self.number = {node: number for number, node in enumerate(graph.nodes)}
        self.before: list[int] = []
        for node in graph.nodes:
            bits = 0
            for buffer in node.inputs():
                producer = producers.get(buffer)
                if producer is not None:
                    bits |= self.before[self.number[producer]] | 1 << self.number[producer]
            self.before.append(bits)

    def independent(self, one: Node | OpaqueNode, other: Node | OpaqueNode) -> bool:
        """Whether neither node depends on the other."""
        a, b = self.number[one], self.number[other]
        return not (self.before[a] >> b & 1 or self.before[b] >> a & 1)

    def join(self, one: Node | OpaqueNode, other: Node | OpaqueNode) -> None:
        """The two are one node now: whoever depends on one depends on both."""
        a, b = self.number[one], self.number[other]
        together = self.before[a] | self.before[b]
        mask = 1 << a | 1 << b
        for number, bits in enumerate(self.before):
            if bits & mask or number in (a, b):
                self.before[number] = bits | together | (mask if number not in (a, b) else 0)
