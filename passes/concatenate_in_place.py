"""Let the kernels that make the parts of a concatenation write into its buffer.

::

    P = kernel_1(x);  Q = kernel_2(y)              B = kernel_1(x)        writes C[i] = P[i]
    C[i] = if i < 4 then P[i] else Q[i - 4]   →    C = kernel_2(y, B)     in place: C[i + 4] = Q[i]

EliminateLayoutTransforms and FuseOperators leave a concatenation that a graph output, or an opaque
operator, reads. Its value is cut along the constants with which its conditions compare an axis,
until no box of it has such a condition. A box joins the kernel that makes the latest of what it
reads, in one of two ways:

1. as its *epilogue* (:mod:`._join`), stored at an offset;
2. as its *last stage* (:mod:`._join_places`), where a point reads several elements of the kernel's
   output and the boxes' points are so few that each element is still computed once::

       M[r] = sum(X[r, k])                            N[r] = sum(X[r, k])    both at r in [0, 2)
       C[r] = if r < 2 then M[r + 2] - M[r]      →    C[r] = N[r + 2] - N[r]
              else M[r - 2] + M[r]                    C[r + 2] = N[r] + N[r + 2]

The first kernel in the graph's order allocates the buffer, the others write into what they are
given (``call_tir_inplace``), so that the chain adds no circle. What reads the concatenation reads
the last kernel's result.

Legal when every box joins a kernel. Otherwise the concatenation stays as it is, with the reason.

Requires: PrimFuncs; to be run after FuseOperators, because nothing can join a kernel that writes a
part only. Guarantees: the same values. Source: SmartMem, section 3.2.1.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from smartmem_tvm.analysis.computation import Stage, substitute_in_stage
from smartmem_tvm.analysis.decisions import Decision, read_decisions, with_decisions
from smartmem_tvm.analysis.index_maps import Refusal
from smartmem_tvm.analysis.layout_class import classify_stages

from ._boxes import cut_into_boxes
from ._emit import rewrite_blocks
from ._graph import Graph, Node, OpaqueNode
from ._join import Joined, join_epilogue
from ._join_places import join_places
from ._views import view_of


@tvm.transform.module_pass(opt_level=0, name="smartmem.ConcatenateInPlace")
class ConcatenateInPlace:
    """Write the parts of concatenations where they belong, from the kernels that make them."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with concatenations written in place."""
        decisions: list[Decision] = []
        kept = {d.operator: d.reason for d in read_decisions(mod) if d.fate == "kept"}
        mod = rewrite_blocks(mod, lambda graph: decisions.extend(_Concatenation(graph, kept).run()))
        return with_decisions(mod, decisions)


class _Concatenation:
    def __init__(self, graph: Graph, kept: dict[str, str]) -> None:
        self.graph = graph
        self.kept = kept  # why an operator is a kernel of its own
        self.producers = graph.producers()
        self.consumers = {buffer: set(nodes) for buffer, nodes in graph.consumers().items()}
        self.results = graph.result_buffers()
        self.position = {node: number for number, node in enumerate(graph.nodes)}
        self.parts: set[Any] = set()  # buffers of which no one kernel makes all
        self.decisions: list[Decision] = []

    def run(self) -> list[Decision]:
        for node in list(self.graph.nodes):
            if isinstance(node, OpaqueNode) or view_of(node) is None:
                continue
            boxes = cut_into_boxes(node.stages[0])
            if len(boxes) > 1:
                self._concatenate(node, boxes)
        return self.decisions

    def _concatenate(self, node: Node, boxes: list[Stage]) -> None:
        (whole,) = node.outputs
        layout_class = classify_stages(node.stages).value
        joined = self._join(node, boxes)
        if isinstance(joined, Refusal):
            read = "a graph output" if whole in self.results else "read by others as a whole"
            reason = f"{read}; not written in place: {joined.reason}"
            self.decisions.append(Decision(whole.name, node.name, layout_class, "kept", (), reason))
            return
        kernels = sorted(joined, key=self.position.__getitem__)
        before = None
        for number, kernel in enumerate(kernels):
            part = whole
            if kernel is not kernels[-1]:
                name = f"{whole.name}_part{number}"
                part = tirx.decl_buffer(whole.shape, whole.dtype, name, layout=None)
            self._write(kernel, joined[kernel], {whole: part})
            if before is not None:
                kernel.inplace[part] = before
                self.consumers[before] = {kernel}
            before = part
            self.parts.add(part)
            self.producers[part] = kernel
        self.graph.nodes.remove(node)
        for buffer in node.inputs():
            self.consumers[buffer].discard(node)
        made = tuple(kernel.outputs[0].name for kernel in kernels)
        self.decisions.append(Decision(whole.name, node.name, layout_class, "fused", made))

    def _write(self, kernel: Node, joined: Joined, names: dict[Any, Any]) -> None:
        outputs = [names.get(buffer, buffer) for buffer in joined.outputs]
        for buffer in kernel.outputs:
            if buffer not in outputs:
                made = (outputs[0].name,)
                self.decisions.append(Decision(buffer.name, kernel.name, "ILD", "kernel", made))
        kernel.stages = [substitute_in_stage(stage, names) for stage in joined.stages]
        kernel.outputs = outputs
        for buffer in kernel.inputs():
            self.consumers.setdefault(buffer, set()).add(kernel)

    def _join(self, node: Node, boxes: list[Stage]) -> dict[Node, Joined] | Refusal:
        """What each kernel becomes that makes a part of the node's tensor."""
        shares: dict[Node, list[Stage]] = {}
        for box in boxes:
            kernel = self._kernel_of(box)
            if isinstance(kernel, Refusal):
                return kernel
            shares.setdefault(kernel, []).append(box)
        joined: dict[Node, Joined] = {}
        for kernel, share in shares.items():
            needed = {
                buffer
                for buffer in kernel.outputs
                if buffer in self.results or self.consumers.get(buffer, set()) - {node}
            }
            found = _epilogues(kernel, share, needed)
            if isinstance(found, Refusal):
                last = join_places(kernel, share, needed)
                if isinstance(last, Refusal):
                    return Refusal(f"{found.reason}; {last.reason}")
                found = last
            joined[kernel] = found
        return joined

    def _kernel_of(self, box: Stage) -> Node | Refusal:
        """The kernel that makes the latest of what the box reads: it may read all the rest."""
        made = {load.source for load in box.loads() if load.source in self.producers}
        if made & self.parts:
            return Refusal("it reads a tensor that several kernels make")
        kernels = sorted({self.producers[b] for b in made}, key=self.position.__getitem__)
        if not kernels:
            return Refusal("no kernel makes a part of it")
        if isinstance(kernels[-1], OpaqueNode):
            return Refusal(f"a part is made by an opaque operator ({kernels[-1].reason})")
        return kernels[-1]


def _epilogues(kernel: Node, boxes: list[Stage], needed: set[Any]) -> Joined | Refusal:
    """Kernel that stores every box after its own work."""
    (whole,) = {store.buffer for box in boxes for store in box.stores}
    made = Node(kernel.name, kernel.stages, kernel.outputs)
    for number, box in enumerate(boxes, start=1):
        # What a later box reads has to be there until it is joined.
        kept = needed if number == len(boxes) else set(kernel.outputs)
        reader = Node("box", [box], [whole])
        joined = join_epilogue(made, reader, {*kept, whole}, partial=True)
        if isinstance(joined, Refusal):
            return Refusal(f"not {kernel.name}'s epilogue: {joined.reason}")
        made = Node(kernel.name, joined.stages, list(dict.fromkeys(joined.outputs)))
    return Joined(made.stages, made.outputs)
