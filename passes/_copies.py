"""A second copy of a tensor, in another layout, where its readers disagree enough.

::

    M = kernel(x)                               M, N = kernel(x)         both in one launch
    A[i] = sum(M[i, k])      along rows         A[i] = sum(M[i, k])
    B[j] = sum(M[k, j])      along columns  →   B[j] = sum(N[k, j])      N lies as (i, j) → (j, i)

The copy is one more output of the launch that makes the tensor, never a kernel. It is made when
what its readers gain, all else as chosen, is clearly more than what writing it costs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx

from smartmem_tvm.analysis.computation import substitute_in_stage
from smartmem_tvm.analysis.index_maps import Refusal
from smartmem_tvm.analysis.layouts import Layout

from ._graph import Graph
from ._join import with_sink
from ._layout_problem import KernelChoice, LayoutProblem, Operand

# A copy takes memory: it has to gain this share of what the kernels around the tensor cost.
PAYS = 0.01


@dataclass(frozen=True)
class Copy:
    """A second copy.

    Attributes
    ----------
    tensor, copy : tvm.tirx.Buffer
        What is copied, and the copy.
    layout : Layout
        Of the copy.
    gain : float
        What the kernels cost less with it, in the model's unit.
    """

    tensor: Any
    copy: Any
    layout: Layout
    gain: float


def add_copies(graph: Graph, stated: LayoutProblem, chosen: dict[Any, Layout]) -> list[Copy]:
    """Give tensors the copies that pay.

    Parameters
    ----------
    graph
        Its kernels get outputs, and read copies instead of tensors.
    stated, chosen
        The problem, and the layout of each of its tensors.
    """
    producers = graph.producers()
    results = graph.result_buffers()
    around: dict[Any, list[KernelChoice]] = {}
    for choice in stated.kernels:
        for operand in choice.free:
            around.setdefault(operand.buffer, []).append(choice)
    shared = {*stated.roots, *stated.roots.values()}
    made: list[Copy] = []
    for buffer in stated.tensors:
        producer = producers.get(buffer)
        writers = [choice for choice in around.get(buffer, ()) if choice.node is producer]
        readers = [choice for choice in around.get(buffer, ()) if choice.node is not producer]
        if buffer in shared or buffer in results or len(writers) != 1 or len(readers) < 2:
            continue
        found = _best(buffer, writers[0], readers, chosen)
        if found is not None:
            copy = _make(found[0], found[1], writers[0], found[2], buffer)
            if copy is not None:
                made.append(copy)
    return made


def _best(
    buffer: Any, writer: KernelChoice, readers: list[KernelChoice], chosen: dict[Any, Layout]
) -> tuple[Layout, float, list[KernelChoice]] | None:
    """Layout of the copy that gains most, the gain, and who reads it; None where none pays."""
    written = _operand(writer, buffer)
    gains = -written.costs[writer.best_walk(chosen)]
    spent = float(writer.totals(chosen).min())
    saved = []
    for reader in readers:
        operand = _operand(reader, buffer)
        table = reader.totals(chosen, without=buffer)[:, None] + operand.costs
        costs = table.min(axis=0)
        saved.append(np.maximum(costs[operand.layouts.index(chosen[buffer])] - costs, 0.0))
        gains = gains + saved[-1]
        spent += float(costs[operand.layouts.index(chosen[buffer])])
    best = int(gains.argmax())
    movers = [reader for reader, save in zip(readers, saved, strict=True) if save[best] > 0]
    if gains[best] <= PAYS * spent or len(movers) == len(readers):
        return None
    return written.layouts[best], float(gains[best]), movers


def _make(
    layout: Layout, gain: float, writer: KernelChoice, readers: list[KernelChoice], buffer: Any
) -> Copy | None:
    """Write the copy beside the tensor and let the readers read it."""
    node = writer.node
    stages = with_sink(node)
    if isinstance(stages, Refusal):
        return None
    *before, sink = stages
    copy = tirx.decl_buffer(buffer.shape, buffer.dtype, f"{buffer.name}_copy", layout=None)
    twins = [replace(store, buffer=copy) for store in sink.stores if store.buffer.same_as(buffer)]
    node.stages = [*before, replace(sink, stores=(*sink.stores, *twins))]
    node.outputs = [*node.outputs, copy]
    index_map = layout.index_map()
    if not layout.is_row_major:
        node.layouts[copy] = index_map
    for reader in readers:
        other = reader.node
        other.stages = [substitute_in_stage(stage, {buffer: copy}) for stage in other.stages]
        other.layouts.pop(buffer, None)
        if not layout.is_row_major:
            other.layouts[copy] = index_map
    return Copy(buffer, copy, layout, gain)


def _operand(choice: KernelChoice, buffer: Any) -> Operand:
    return next(operand for operand in choice.free if operand.buffer.same_as(buffer))
