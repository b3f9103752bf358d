"""Why every tensor lies as it does: records of the choice that was made for a graph.

The layouts are those that the kernels' attributes name; what other layouts would have cost is read
off the tables that they were chosen by, all other tensors as they are and every kernel in the walk
that then suits it best.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import tirx

from smartmem_tvm.analysis.expressions import dtype_of, static
from smartmem_tvm.analysis.layouts import Layout, layout_of, row_major
from smartmem_tvm.analysis.operand_readings import is_reduced, read_as
from smartmem_tvm.analysis.tensor_layouts import (
    READINGS,
    STRIDE_ONE,
    UNKNOWN,
    NextBest,
    Reading,
    TensorLayout,
)

from ._graph import Graph, Node
from ._layout_problem import KernelChoice, LayoutProblem, Operand, ProblemBuilder
from ._tensors import is_constant, is_reshape

Costs = NDArray[np.float64]
# From the reading that disturbs least to the one that disturbs most.
_RANK = {how: rank for rank, how in enumerate(READINGS)}


@dataclass
class _Kernel:
    """A kernel in its chosen walk.

    Attributes
    ----------
    accesses, operands : dict
        Numbers of the accesses of each tensor, and their costs; a second copy is one of them, with
        the costs of its tensor.
    total : array
        Cost under each walk, its tensors as they lie.
    walk : int
        The cheapest walk.
    """

    choice: KernelChoice
    accesses: dict[Any, list[int]]
    operands: dict[Any, Operand]
    total: Costs
    walk: int

    def costs(self, buffer: Any, chosen: Layout) -> Costs:
        """Cost under [walk, layout of the tensor], all other tensors as they lie."""
        operand = self.operands[buffer]
        own = operand.costs[:, operand.layouts.index(chosen)]
        return np.asarray((self.total - own)[:, None] + operand.costs)


def tensor_layouts(
    graph: Graph, stated: LayoutProblem, builder: ProblemBuilder
) -> list[TensorLayout]:
    """Records of all tensors of a graph, in the order in which kernels touch them.

    Parameters
    ----------
    graph
        Whose kernels have their layouts.
    stated
        The problem that they solve.
    builder
        That stated it.
    """
    return _Reasons(graph, stated, builder).records()


class _Reasons:
    def __init__(self, graph: Graph, stated: LayoutProblem, builder: ProblemBuilder) -> None:
        self.graph, self.stated, self.builder = graph, stated, builder
        self.copies = {copy.copy: copy for copy in stated.copies}
        self.kernels = {id(c.node): self._kernel(c) for c in stated.kernels}
        self.around: dict[Any, list[_Kernel]] = {}
        for kernel in self.kernels.values():
            for buffer in kernel.accesses:
                self.around.setdefault(buffer, []).append(kernel)
        self.readers: dict[Any, list[Node]] = {}
        self.names: dict[Any, str] = {}
        self.constants: dict[Any, str] = {}
        self.views: dict[Any, Any] = {}
        for node in graph.kernels():
            self._note_kernel(node)
        for node in graph.nodes:
            for buffer in (*node.inputs(), *node.outputs):
                if isinstance(buffer, tirx.Buffer):  # an opaque operator may have other things
                    self.names[self._root(buffer)] = self.constants.get(buffer, buffer.name)

    def _note_kernel(self, node: Node) -> None:
        number = 0
        for buffer in node.inputs():
            readers = self.readers.setdefault(self._root(buffer), [])
            if node not in readers:
                readers.append(node)
            if is_constant(self.graph, buffer):
                number += 1
                self.constants.setdefault(buffer, f"{node.outputs[0].name}.constant_{number}")
        if node.origin is not None and is_reshape(self.builder.mod[node.origin[0]]):
            (self.views[node.outputs[0]],) = node.inputs()

    def records(self) -> list[TensorLayout]:
        """All of them; a constant has one for each of its layouts."""
        found: list[TensorLayout] = []
        for buffer in self.names:
            if is_constant(self.graph, buffer):
                found += self._constant(buffer)
            elif buffer in self.stated.tensors or buffer in self.copies:
                found.append(self._free(buffer))
            else:
                found.append(self._fixed(buffer))
        return found

    def _root(self, buffer: Any) -> Any:
        return self.stated.roots.get(buffer, buffer)

    # ---- three kinds of tensors -------------------------------------------------------------

    def _free(self, buffer: Any) -> TensorLayout:
        copy = self.copies.get(buffer)
        layouts = self.stated.tensors[buffer if copy is None else copy.tensor]
        around = self.around.get(buffer, [])
        layout = self._layout(around[0].choice.node, buffer) if around else layouts[0]
        costs = np.zeros(len(layouts))
        for kernel in around:
            costs += kernel.costs(buffer, layout).min(axis=0)
        record = self._record(buffer, layout, layouts, costs, self.readers.get(buffer, []))
        if copy is None:
            return record
        saved = _share(-copy.gain, record.cost + copy.gain)
        reason = f"a second copy of '{self.names[copy.tensor]}': with it its kernels cost {saved}"
        return replace(record, reason=reason, copies=record.bytes or 0)

    def _constant(self, buffer: Any) -> list[TensorLayout]:
        by_layout: dict[Layout, list[Node]] = {}
        for node in self.readers.get(buffer, []):
            by_layout.setdefault(self._layout(node, buffer), []).append(node)
        if not by_layout:
            plain = row_major(len(buffer.shape))
            return [self._plain(buffer, plain, "no kernel reads it, only opaque operators")]
        found = []
        for layout, nodes in by_layout.items():
            around = [self.kernels[id(n)] for n in nodes if id(n) in self.kernels]
            extra = _bytes(buffer, layout) or 0 if found else 0
            if around:
                layouts = around[0].operands[buffer].layouts
                costs = np.zeros(len(layouts))
                for kernel in around:
                    costs += kernel.costs(buffer, layout).min(axis=0)
                record = self._record(buffer, layout, layouts, costs, nodes, extra)
            else:
                reason = str(self.builder.model(nodes[0]))
                record = self._plain(buffer, layout, f"its kernel has it row by row: {reason}")
            found.append(record)
        return found

    def _fixed(self, buffer: Any) -> TensorLayout:
        reason = self.stated.fixed.get(buffer, "no kernel has it")
        if buffer in self.views:
            reason = f"it is a view of '{self.names[self._root(self.views[buffer])]}'"
        return self._plain(buffer, row_major(len(buffer.shape)), reason)

    # ---- records ----------------------------------------------------------------------------

    def _plain(self, buffer: Any, layout: Layout, reason: str) -> TensorLayout:
        cost = sum(float(kernel.total[kernel.walk]) for kernel in self.around.get(buffer, ()))
        return TensorLayout(
            name=self.names[buffer],
            shape=_shape(buffer),
            dtype=dtype_of(buffer),
            layout=str(layout),
            row_by_row=layout.is_row_major,
            bytes=0 if buffer in self.views else _bytes(buffer, layout),
            reason=reason,
            forced=True,
            constant=is_constant(self.graph, buffer),
            cost=round(cost, 1),
            readings=self._readings(self.readers.get(buffer, []), buffer, layout, None),
        )

    def _record(
        self,
        buffer: Any,
        layout: Layout,
        layouts: list[Layout],
        costs: Costs,
        readers: list[Node],
        copies: int = 0,
    ) -> TensorLayout:
        chosen = float(costs[layouts.index(layout)])
        others = [n for n, other in enumerate(layouts) if other != layout]
        next_best = None
        reason = "its elements lie the same in every order of its dimensions"
        if others:
            best = min(others, key=lambda n: costs[n])
            extra = float(costs[best]) - chosen
            ratio = float(costs[best]) / chosen if chosen else 1.0
            next_best = NextBest(str(layouts[best]), round(extra, 1), round(ratio, 4))
            reason = _why(extra, chosen, bool(readers))
        return TensorLayout(
            name=self.names[buffer],
            shape=_shape(buffer),
            dtype=dtype_of(buffer),
            layout=str(layout),
            row_by_row=layout.is_row_major,
            bytes=_bytes(buffer, layout),
            reason=reason,
            constant=is_constant(self.graph, buffer),
            copies=copies,
            cost=round(chosen, 1),
            next_best=next_best,
            readings=self._readings(
                readers, buffer, layout, dict(zip(layouts, costs, strict=True))
            ),
        )

    # ---- readings ---------------------------------------------------------------------------

    def _readings(
        self, nodes: list[Node], buffer: Any, layout: Layout, costs: dict[Layout, float] | None
    ) -> tuple[Reading, ...]:
        """Readings of kernels; `costs` are those of all layouts, None where there is no choice."""
        found = (self._reading(node, buffer, layout, costs) for node in nodes)
        return tuple(reading for reading in found if reading is not None)

    def _reading(
        self, node: Node, buffer: Any, layout: Layout, costs: dict[Layout, float] | None
    ) -> Reading | None:
        """Reading of a kernel; None where it only writes parts of the tensor's memory."""
        name = node.outputs[0].name
        kernel = self.kernels.get(id(node))
        if kernel is None:
            reduces = any(stage.is_reduction for stage in node.stages)
            return Reading(name, UNKNOWN, reduces, str(self.builder.model(node)))
        walk = kernel.choice.walks[kernel.walk]
        model = kernel.choice.model.of(walk)
        reads = [number for number in kernel.accesses.get(buffer, ()) if not model.is_write(number)]
        along = [number for number in reads if is_reduced(model, number)]
        if not reads:
            return None
        how, cause = _worst(read_as(model, n, walk, layout) for n in along or reads)
        if how in STRIDE_ONE or not along:
            return Reading(name, how, bool(along))
        why = self._why_not(kernel, buffer, layout, along, costs)
        return Reading(name, how, True, f"{cause}; {why}")

    def _why_not(
        self,
        kernel: _Kernel,
        buffer: Any,
        layout: Layout,
        along: list[int],
        costs: dict[Layout, float] | None,
    ) -> str:
        """Cheapest layout of the tensor and walk of the kernel that read it with stride one."""
        chosen = float(kernel.total[kernel.walk])
        model, walks = kernel.choice.model, kernel.choice.walks

        def good(number: int, layout: Layout) -> bool:
            walk = walks[number]
            how, _ = _worst(read_as(model.of(walk), n, walk, layout) for n in along)
            return how in STRIDE_ONE

        if costs is None:
            fixed = self.stated.fixed.get(buffer, "an opaque operator has it")
            plain = [kernel.total[w] for w in range(len(walks)) if good(w, layout)]
            if not plain:
                return f"it lies row by row: {fixed}"
            more = _share(float(min(plain)) - chosen, chosen)
            return f"it lies row by row ({fixed}), and a walk with stride one would cost {more}"
        table = kernel.costs(buffer, layout)
        best: tuple[float, Layout] | None = None
        for column, other in enumerate(kernel.operands[buffer].layouts):
            elsewhere = costs[other] - float(table[:, column].min())
            for row in range(len(walks)):
                cost = elsewhere + float(table[row, column])
                if (best is None or cost < best[0]) and good(row, other):
                    best = (cost, other)
        if best is None:
            return "no layout gives it stride one in a walk that could pay"
        extra = _share(best[0] - costs[layout], costs[layout])
        if best[1] == layout:
            return f"a walk with stride one would cost {extra}"
        return f"stride one takes {best[1]}, which would cost {extra}"

    def _kernel(self, choice: KernelChoice) -> _Kernel:
        global_var, arguments = choice.node.origin or (None, [])
        actual = dict(zip(self.builder.mod[global_var].params, arguments, strict=True))
        accesses: dict[Any, list[int]] = {}
        for number, parameter in enumerate(choice.model.buffers):
            accesses.setdefault(self._root(actual[parameter]), []).append(number)
        operands = {operand.buffer: operand for operand in (*choice.free, *choice.own)}
        inputs = choice.node.inputs() if self.copies else []
        for copy in self.copies.values():
            if copy.copy in inputs:  # instead of the tensor
                accesses[copy.copy] = accesses.pop(copy.tensor)
                operands[copy.copy] = operands.pop(copy.tensor)
            elif copy.copy in choice.node.outputs:  # beside it
                accesses[copy.copy] = accesses[copy.tensor]
                operands[copy.copy] = operands[copy.tensor]
        total = choice.base.copy()
        for buffer, operand in operands.items():
            total += operand.costs[:, operand.layouts.index(self._layout(choice.node, buffer))]
        return _Kernel(choice, accesses, operands, total, int(total.argmin()))

    def _layout(self, node: Node, buffer: Any) -> Layout:
        """Layout of a tensor, as a kernel's attribute has it."""
        for own, index_map in node.layouts.items():
            if self._root(own).same_as(buffer):
                layout = layout_of(index_map)
                if layout is not None:
                    return layout
        return row_major(len(buffer.shape))


def _worst(readings: Iterable[tuple[str, str]]) -> tuple[str, str]:
    return max(readings, key=lambda reading: _RANK[reading[0]])


def _why(extra: float, cost: float, is_used: bool) -> str:
    if not is_used:
        return "nothing reads it"
    if extra < 0:
        return f"left so, although the next best by itself would cost {_share(extra, cost)}"
    if extra == 0:
        return "as cheap for its kernels as the next best"
    return "cheapest for its kernels"


def _share(extra: float, cost: float) -> str:
    if extra == 0 or cost == 0:
        return "as much"
    share = abs(extra) / cost
    text = f"{share:.1%}" if share >= 0.001 else "under 0.1%"
    return f"{text} {'more' if extra > 0 else 'less'}"


def _shape(buffer: Any) -> tuple[int | str, ...]:
    return tuple(static(n) if static(n) is not None else str(n) for n in buffer.shape)


def _bytes(buffer: Any, layout: Layout) -> int | None:
    extents = [static(n) for n in layout.shape(list(buffer.shape))]
    if any(extent is None for extent in extents):
        return None
    return prod(int(n) for n in extents if n is not None) * tvm.DataType(dtype_of(buffer)).itemsize
