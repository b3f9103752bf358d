"""Give the parts of a tensor that are read apart buffers of their own.

::

    P[i, j] = sum(x[i, k] * w[j, k])     j: 192          Q[i, j] …          where j < 64
    S[a, b] = sum(P[a, d] * P[b, 64 + d])           →    K[i, j - 64] …     where 64 <= j < 128
    O[a, d] = sum(S[a, b] * P[b, 128 + d])               V[i, j - 128] …    where 128 <= j
                                                         S[a, b] = sum(Q[a, d] * K[b, d])

Each part can then be stored the way that its own readers want it: one projection that makes q, k
and v is read along three different dimensions. No kernel is added; the kernel that made the tensor
makes the parts.

Legal when the tensor is made element by element by one kernel that does not share its memory, is
read by kernels alone, and the ranges of the indices along one dimension fall apart into several
intervals. What no range reaches is not made any more.

Requires: PrimFuncs; to be run when nothing will be fused any more. Guarantees: the same values and
the same number of kernels. Source: SmartMem, section 3.2.2 (merged operators keep their layouts).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad

from smartmem_tvm.analysis.computation import Stage, Store, replace_in_stage
from smartmem_tvm.analysis.expressions import const, loads_of, static
from smartmem_tvm.analysis.index_maps import Refusal

from ._emit import rewrite_blocks
from ._graph import Graph, Node
from ._join import with_sink
from ._tensors import public_tensors, shared_memory
from ._views import simplified

Interval = tuple[int, int]  # first index, and the one after the last


@tvm.transform.module_pass(opt_level=0, name="smartmem.SplitOutputs")
class SplitOutputs:
    """Split tensors whose parts have readers of their own."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with such tensors split."""
        return rewrite_blocks(mod, _split_all, repeated=True)


def _split_all(graph: Graph) -> None:
    kept = {*public_tensors(graph), *shared_memory(graph)}
    consumers = graph.consumers()
    for node in list(graph.kernels()):
        for buffer in list(node.outputs):
            readers = [reader for reader in consumers.get(buffer, ()) if isinstance(reader, Node)]
            if buffer in kept or not readers:
                continue
            found = _parts(buffer, readers)
            if found is not None:
                _split(node, buffer, readers, *found)


def _parts(buffer: Any, readers: list[Node]) -> tuple[int, list[Interval]] | None:
    """Dimension along which the reads of a tensor fall apart, and where; None where they do not."""
    reads = [
        (stage, load)
        for reader in dict.fromkeys(readers)
        for stage in reader.stages
        for load in stage.loads()
        if load.source.same_as(buffer)
    ]
    if len(reads) < 2:
        return None
    for dim, extent in enumerate(buffer.shape):
        if static(extent) is None:
            continue
        ranges = [_range(stage, load, dim) for stage, load in reads]
        if any(found is None for found in ranges):
            continue
        parts = _disjoint([found for found in ranges if found is not None])
        if len(parts) > 1:
            return dim, parts
    return None


def _range(stage: Stage, load: TensorLoad, dim: int) -> Interval | None:
    """Indices that a load reaches along a dimension; None where they are not known."""
    index = load.indices[dim]
    if loads_of(index):
        return None
    analyzer = tvm.sym.Analyzer()
    for axis in stage.axes:
        analyzer.bind(axis.var, axis.range)
    bounds = analyzer.const_int_bound(index)
    first, last = int(bounds.min_value), int(bounds.max_value)
    # A read under a condition may seem to leave the tensor: what it reaches there is not known.
    return (first, last + 1) if 0 <= first and last < int(load.source.shape[dim]) else None


def _disjoint(ranges: list[Interval]) -> list[Interval]:
    """Ranges with those that overlap joined, in order."""
    found: list[Interval] = []
    for first, end in sorted(ranges):
        if found and first < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((first, end))
    return found


def _split(node: Node, buffer: Any, readers: list[Node], dim: int, parts: list[Interval]) -> None:
    stages = with_sink(node)
    if isinstance(stages, Refusal):
        return
    *before, sink = stages
    extent = buffer.shape[dim]
    made = [
        tirx.decl_buffer(
            [const(end - first, extent) if d == dim else n for d, n in enumerate(buffer.shape)],
            buffer.dtype,
            f"{buffer.name}_part{number}",
            layout=None,
        )
        for number, (first, end) in enumerate(parts)
    ]
    stores: list[Store] = []
    for store in sink.stores:
        if not store.buffer.same_as(buffer):
            stores.append(store)
            continue
        for part, (first, end) in zip(made, parts, strict=True):
            stores.append(_part_store(store, part, dim, first, end, int(extent)))
    node.stages = [*before, simplified(replace(sink, stores=tuple(stores)))]
    node.outputs = [b for o in node.outputs for b in (made if o.same_as(buffer) else [o])]
    for reader in dict.fromkeys(readers):
        reader.stages = [_reading(stage, buffer, made, dim, parts) for stage in reader.stages]


def _part_store(store: Store, part: Any, dim: int, first: int, end: int, extent: int) -> Store:
    index = store.indices[dim]
    condition = store.condition
    bounds = [index >= const(first, index)] if first else []
    bounds += [index < const(end, index)] if end < extent else []
    for bound in bounds:
        condition = bound if condition is None else tirx.And(condition, bound)
    indices = [i - const(first, i) if d == dim else i for d, i in enumerate(store.indices)]
    return Store(part, tuple(indices), store.value, condition)


def _reading(stage: Stage, buffer: Any, made: list[Any], dim: int, parts: list[Interval]) -> Stage:
    """Stage that reads the parts in place of the tensor."""
    if not any(load.source.same_as(buffer) for load in stage.loads()):
        return stage

    def load(indices: list[Any]) -> Any:
        found = _range(stage, tirx.BufferLoad(buffer, indices), dim)
        for part, (first, end) in zip(made, parts, strict=True):
            if found is not None and first <= found[0] and found[1] <= end:
                index = indices[dim] - const(first, indices[dim])
                return tirx.BufferLoad(part, [*indices[:dim], index, *indices[dim + 1 :]])
        raise ValueError(f"a read of '{buffer.name}' is in none of its parts")

    return simplified(replace_in_stage(stage, {buffer: load}))
