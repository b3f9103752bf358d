"""Join every elementwise operator with a kernel next to it, so that only heavy kernels remain.

Tried in this order, for operators in the order of the graph (DNNFusion's one-to-one, shuffle and
one-to-many mappings; :mod:`._join` has the sketches):

1. *epilogue* of the kernel that makes its latest operand, through any bijective map;
2. *broadcast epilogue* of a kernel that reduces over as many elements;
3. *last stage* of a kernel of which each point reads several elements, all of them once, as a gate
   does that multiplies the halves of a row (:mod:`._join_places`);
4. *prologue* of every reader: computed where it is read, as often as it is read, when the cost
   model finds that cheaper than a kernel of its own (:mod:`._cost`);
5. what is left stays a kernel, with the reasons of the refusals.

A fixed operator that :class:`EliminateLayoutTransforms` had to keep joins the kernel that makes its
operand in the same way: the kernel writes the graph output in its final order.

Requires: PrimFuncs. Guarantees: the same values up to the order of no operation; every kernel has
one stage that writes all its outputs. Source: SmartMem, tables 5 and 6; DNNFusion, table 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm

from smartmem_tvm.analysis.decisions import Decision, with_decisions
from smartmem_tvm.analysis.index_maps import Refusal
from smartmem_tvm.analysis.layout_class import LayoutClass, classify_stages

from ._cost import recomputation_is_cheaper
from ._emit import rewrite_blocks
from ._graph import Graph, Node, OpaqueNode
from ._join import Joined, join_broadcast, join_epilogue
from ._join_places import join_places
from ._views import apply_views, view_of

Join = Callable[[Node, Node, set[Any]], Joined | Refusal]
LEFT_ALONE = "fixed operators do not take part in fusion"


@tvm.transform.module_pass(opt_level=0, name="smartmem.FuseOperators")
class FuseOperators:
    """Fuse elementwise operators into the kernels before or after them.

    Parameters
    ----------
    fixed
        Whether fixed operators join as well. Without it each stays the kernel that it is, which is
        what fusion alone does to a model whose layout transforms are not eliminated.
    simplify
        Whether composed index maps are simplified; without it they are right but full of divisions.
    """

    def __init__(self, fixed: bool = True, simplify: bool = True) -> None:
        self.fixed = fixed
        self.simplify = simplify

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with elementwise operators fused."""
        decisions: list[Decision] = []
        mod = rewrite_blocks(
            mod,
            lambda graph: decisions.extend(
                _Fusion(graph, fixed=self.fixed, simplify=self.simplify).run()
            ),
        )
        return with_decisions(mod, decisions)


class _Fusion:
    def __init__(self, graph: Graph, *, fixed: bool, simplify: bool) -> None:
        self.graph = graph
        self.fixed = fixed
        self.simplify = simplify
        self.producers = graph.producers()
        self.consumers = {buffer: set(nodes) for buffer, nodes in graph.consumers().items()}
        self.results = graph.result_buffers()
        self.position = {node: number for number, node in enumerate(graph.nodes)}
        self.gone: set[Node | OpaqueNode] = set()
        self.decisions: list[Decision] = []

    def run(self) -> list[Decision]:
        for node in list(self.graph.nodes):
            if self._is_left_alone(node):
                self.decisions += [
                    Decision(b.name, node.name, LayoutClass.FIXED.value, "kept", (), LEFT_ALONE)
                    for b in node.outputs
                ]
            elif isinstance(node, Node) and view_of(node) is not None:
                self._fuse(node, classify_stages(node.stages))
        self.graph.nodes = [node for node in self.graph.nodes if node not in self.gone]
        return self.decisions

    def _is_left_alone(self, node: Node | OpaqueNode) -> bool:
        return (
            not self.fixed
            and isinstance(node, Node)
            and classify_stages(node.stages) is LayoutClass.FIXED
        )

    def _fuse(self, node: Node, layout_class: LayoutClass) -> None:
        refusals: list[str] = []
        into = (
            self._into_producer(node, refusals, self._epilogue)
            or self._into_producer(node, refusals, self._broadcast)
            or self._into_producer(node, refusals, self._places)
            or self._into_readers(node, refusals)
        )
        name = node.outputs[0].name
        if into:
            fate = Decision(name, node.name, layout_class.value, "fused", tuple(into))
        else:
            fate = Decision(name, node.name, layout_class.value, "kept", (), "; ".join(refusals))
        self.decisions.append(fate)

    def _epilogue(self, kernel: Node, node: Node, needed: set[Any]) -> Joined | Refusal:
        partial = bool(set(node.outputs) & self.results)
        return join_epilogue(kernel, node, needed, partial=partial, simplify=self.simplify)

    def _broadcast(self, kernel: Node, node: Node, needed: set[Any]) -> Joined | Refusal:
        return join_broadcast(kernel, node, needed)

    def _places(self, kernel: Node, node: Node, needed: set[Any]) -> Joined | Refusal:
        return join_places(kernel, node.stages, needed)

    def _into_producer(self, node: Node, refusals: list[str], join: Join) -> list[str]:
        kernels = {self.producers[b] for b in node.inputs() if b in self.producers}
        latest_first = sorted(kernels, key=lambda k: self.position[k], reverse=True)
        for number, kernel in enumerate(latest_first):
            if isinstance(kernel, OpaqueNode):
                refusals.append(f"'{kernel.outputs[0].name}' is opaque")
                continue
            if self._is_left_alone(kernel):
                refusals.append(f"'{kernel.outputs[0].name}' is moved by a fixed operator")
                continue
            if view_of(kernel) is not None and kernel.outputs[0] not in self.results:
                continue  # elementwise itself: it was left for its readers
            if number and self._depends_on_any(latest_first[:number], kernel):
                refusals.append(f"its other operands depend on '{kernel.name}'")
                continue
            needed = {
                buffer
                for buffer in kernel.outputs
                if buffer in self.results or self.consumers.get(buffer, set()) - {node}
            }
            joined = join(kernel, node, needed)
            if isinstance(joined, Refusal):
                refusals.append(f"not {kernel.name}'s epilogue: {joined.reason}")
                continue
            self._replace(kernel, node, joined)
            if number:
                self._sort()
            return [kernel.outputs[0].name]
        return []

    def _replace(self, kernel: Node, node: Node, joined: Any) -> None:
        for buffer in node.inputs():
            self.consumers[buffer].discard(node)
        for buffer in kernel.outputs:
            if buffer not in joined.outputs:  # internal from now on: its work is the reader's
                made = (node.outputs[0].name,)
                self.decisions.append(Decision(buffer.name, kernel.name, "ILD", "kernel", made))
        kernel.stages, kernel.outputs = list(joined.stages), list(joined.outputs)
        kernel.operators += node.operators
        for buffer in kernel.inputs():
            self.consumers.setdefault(buffer, set()).add(kernel)
        for buffer in kernel.outputs:
            self.producers[buffer] = kernel
        self.gone.add(node)

    def _sort(self) -> None:
        self.graph.nodes = [node for node in self.graph.nodes if node not in self.gone]
        self.graph.sort()
        self.position = {node: number for number, node in enumerate(self.graph.nodes)}

    def _depends_on_any(self, nodes: list[Any], kernel: Node) -> bool:
        """Whether one of the nodes is, or reads from, what the kernel makes."""
        seen: set[Any] = set()
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            if node is kernel:
                return True
            if node in seen:
                continue
            seen.add(node)
            for buffer in node.inputs():
                producer = self.producers.get(buffer)
                if producer is not None and self.position[producer] >= self.position[kernel]:
                    waiting.append(producer)
        return False

    def _into_readers(self, node: Node, refusals: list[str]) -> list[str]:
        (buffer,) = node.outputs
        readers = self.consumers.get(buffer, set())
        if buffer in self.results:
            refusals.append("a graph output")
            return []
        opaque = next((reader for reader in readers if isinstance(reader, OpaqueNode)), None)
        if opaque is not None:
            refusals.append(f"read by an opaque operator ({opaque.reason})")
            return []
        if any(self._is_left_alone(reader) for reader in readers):
            refusals.append("read by a fixed operator")
            return []
        refusal = recomputation_is_cheaper(node, sorted(readers, key=self.position.__getitem__))
        if refusal is not None:
            refusals.append(refusal)
            return []
        view = view_of(node)
        for reader in readers:
            reader.stages = apply_views(reader.stages, {buffer: view}, simplify=self.simplify)
            for read in reader.inputs():
                self.consumers.setdefault(read, set()).add(reader)
        for read in node.inputs():
            self.consumers[read].discard(node)
        self.gone.add(node)
        return [reader.outputs[0].name for reader in readers]
