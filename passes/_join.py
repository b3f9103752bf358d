"""Join an elementwise node into the kernel that makes what it reads.

*Epilogue*: the reader touches every element of the kernel's output once, through any bijective map.
It is computed where the element is made, and stored where the reader would have put it::

    C[i, j] = sum(A[i, k] * B[k, j])                C[i, j] = sum(A[i, k] * B[k, j])     (internal)
    D[j, i] = gelu(C[i, j] + b[j])             →    D[j, i] = gelu(C[i, j] + b[j])       at (i, j)

*Broadcast epilogue*: the reader has more elements than the kernel's output, and the kernel reduces
over at least as many. Its result becomes internal, the reader the last stage::

    m[r] = sum(x[r, c]) / n;  d[r, c] = x[r, c] - m[r]         one kernel, a row at a time

Both are refused, with a reason, when they would change a value or order the graph in a circle.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_equal

from smartmem_tvm.analysis.computation import (
    Stage,
    Store,
    fresh_axes,
    is_int,
    replace_loads,
    substitute_in_stage,
)
from smartmem_tvm.analysis.expressions import loads_of, substitute, uses
from smartmem_tvm.analysis.index_maps import Refusal, invert, prove_same, simplify_value

from ._graph import Node

ONE = tirx.const(1, "int64")


@dataclass(frozen=True)
class Joined:
    """What a join makes of the kernel."""

    stages: list[Stage]
    outputs: list[Any]


def with_sink(node: Node) -> list[Stage] | Refusal:
    """Stages that end in one data-parallel stage which alone writes the outputs."""
    last = node.stages[-1]
    written_last = {store.buffer for store in last.stores}
    if not last.is_reduction and set(node.outputs) == written_last:
        return node.stages
    makers = {
        store.buffer: (stage, store)
        for stage in node.stages
        for store in stage.stores
        if store.buffer in node.outputs
    }
    axes, _ = fresh_axes(last.spatial)
    point = [axis.var for axis in axes]
    internal: dict[Any, Any] = {}
    stores = []
    for output in node.outputs:
        stage, store = makers[output]
        if not stage.is_pointwise(store):
            return Refusal(f"'{output.name}' is not written element by element")
        if not _same_extents(stage.spatial, axes):
            return Refusal(f"'{output.name}' has another shape than the kernel's last stage")
        internal[output] = tirx.decl_buffer(
            output.shape, output.dtype, f"{output.name}_acc", layout=None
        )
        stores.append(Store(output, tuple(point), tirx.BufferLoad(internal[output], point)))
    stages = [substitute_in_stage(stage, internal) for stage in node.stages]
    return [*stages, Stage("sink", axes, tuple(stores))]


def _same_extents(ours: Any, others: Any) -> bool:
    return len(ours) == len(others) and all(
        structural_equal(a.extent, b.extent) for a, b in zip(ours, others, strict=True)
    )


def join_epilogue(
    kernel: Node,
    reader: Node,
    needed: set[Any],
    *,
    partial: bool = False,
    simplify: bool = True,
) -> Joined | Refusal:
    """Kernel that also does the work of a reader of its outputs.

    Parameters
    ----------
    kernel, reader
        The reader has one pointwise stage with one store.
    needed
        Outputs of the kernel that are read by others too.
    partial
        Whether the reader may leave out elements of the kernel's output.
    simplify
        Whether the reader's indices and value are simplified at the new point.
    """
    stages = with_sink(kernel)
    if isinstance(stages, Refusal):
        return stages
    *before, sink = stages
    made = {store.buffer: store for store in sink.stores}
    (stage,) = reader.stages
    (store,) = stage.stores
    loads = [load for load in loads_of(store.value) if load.source in made]
    if not loads:
        return Refusal("it reads nothing that the kernel makes")
    if any(loads_of(index) for load in loads for index in made[load.source].indices):
        return Refusal("the kernel's data says where it stores")
    if any(_is_inside_index(store.value, load) for load in loads):
        return Refusal("what the kernel makes is an index of the reader")
    place = _place(stage, loads[0], made, sink, partial=partial)
    if isinstance(place, Refusal):
        return place
    points, condition = place
    for load in loads[1:]:
        target = made[load.source].indices
        actual = [substitute(index, points) for index in load.indices]
        proof = prove_same(actual, list(target), sink.domain)
        if not proof.proved:
            return Refusal(
                f"it reads '{load.source.name}' at two places, which different work-items make"
            )
    outputs = [b for b in kernel.outputs if b in needed]
    before, sink = _share(before, sink, store.value, set(outputs))
    made = {s.buffer: s for s in sink.stores}
    value = replace_loads(
        substitute(store.value, points),
        {buffer: _constant(s.value) for buffer, s in made.items()},
    )
    indices = tuple(substitute(index, points) for index in store.indices)
    if simplify:
        # Where the condition does not hold, the value may be of elements that do not exist.
        indices = tuple(simplify_value(index, sink.domain, condition) for index in indices)
        value = simplify_value(value, sink.domain, condition)
    joined = Store(store.buffer, indices, value, condition)
    kept = [s for s in sink.stores if s.buffer in outputs]
    return Joined([*before, Stage(sink.name, sink.axes, (*kept, joined))], [*outputs, store.buffer])


def _constant(value: Any) -> Any:
    return lambda _indices: value


def _place(
    stage: Stage, load: TensorLoad, made: dict[Any, Store], sink: Stage, *, partial: bool
) -> tuple[dict[Any, Any], Any] | Refusal:
    """The reader's axes as functions of the sink's, and where that is defined."""
    source = made[load.source]
    variables = [axis.var for axis in stage.axes]
    inverse = invert(
        list(load.indices),
        variables,
        [axis.extent for axis in stage.axes],
        list(load.source.shape),
        partial=partial,
    )
    if isinstance(inverse, Refusal):
        return inverse
    at = dict(zip(inverse.variables, source.indices, strict=True))
    points = {
        var: simplify_value(substitute(expr, at), sink.domain)
        for var, expr in zip(variables, inverse.axes, strict=True)
    }
    condition = source.condition
    if inverse.predicate is not None:
        inside = simplify_value(substitute(inverse.predicate, at), sink.domain)
        if not is_int(inside, 1):
            condition = inside if condition is None else tirx.And(condition, inside)
    return points, condition


def _is_inside_index(value: Any, load: TensorLoad) -> bool:
    return any(
        inner.same_as(load)
        for outer in loads_of(value)
        for index in outer.indices
        for inner in loads_of(index)
    )


def _share(
    before: list[Stage], sink: Stage, value: Any, outputs: set[Any]
) -> tuple[list[Stage], Stage]:
    """Give values that will be used several times a stage of their own."""
    uses: dict[Any, int] = {}
    for load in loads_of(value):
        uses[load.source] = uses.get(load.source, 0) + 1
    stores, shared = [], []
    for store in sink.stores:
        count = uses.get(store.buffer, 0) + (store.buffer in outputs)
        if count > 1 and not isinstance(store.value, TensorLoad):
            axes, renamed = fresh_axes(sink.axes)
            point = [axis.var for axis in axes]
            internal = tirx.decl_buffer(
                [axis.extent for axis in axes],
                store.buffer.dtype,
                f"{store.buffer.name}_value",
                layout=None,
            )
            shared.append(
                Stage(
                    f"{store.buffer.name}_value",
                    axes,
                    (Store(internal, tuple(point), substitute(store.value, renamed)),),
                )
            )
            own = [axis.var for axis in sink.axes]
            store = Store(
                store.buffer, store.indices, tirx.BufferLoad(internal, own), store.condition
            )
        stores.append(store)
    return [*before, *shared], Stage(sink.name, sink.axes, tuple(stores))


def join_broadcast(kernel: Node, reader: Node, needed: set[Any]) -> Joined | Refusal:
    """Kernel with the reader as its last stage and its former outputs internal.

    Each element of the kernel's output must belong to one row of the reader: the loads of it use
    some of the reader's axes, and these alone number its elements. All loads of one output are of
    one element, which would otherwise be computed anew for each.
    """
    if needed:
        return Refusal(f"'{next(iter(needed)).name}' is read by others too")
    if any(loads_of(i) for s in kernel.stages for store in s.stores for i in store.indices):
        return Refusal("the kernel's data says where it stores")
    (stage,) = reader.stages
    refusal = _fewer_points([s for s in kernel.stages if s.is_reduction], stage)
    if refusal is not None:
        return refusal
    rows: set[Any] | None = None
    first: dict[Any, list[Any]] = {}
    for load in loads_of(stage.stores[0].value):
        if load.source not in kernel.outputs:
            continue
        used = [axis for axis in stage.axes if any(uses(i, axis.var) for i in load.indices)]
        inverse = invert(
            list(load.indices),
            [axis.var for axis in used],
            [axis.extent for axis in used],
            list(load.source.shape),
        )
        if isinstance(inverse, Refusal):
            return Refusal(
                f"its rows are not the elements of '{load.source.name}': {inverse.reason}"
            )
        own = {axis.var for axis in used}
        if rows not in (None, own):
            return Refusal("it reads what the kernel makes along different axes")
        rows = own
        place = first.setdefault(load.source, list(load.indices))
        proof = prove_same(list(load.indices), place, stage.domain)
        if not proof.proved:
            return Refusal(f"a row reads two elements of '{load.source.name}'")
    return Joined([*kernel.stages, *reader.stages], list(reader.outputs))


def _fewer_points(reductions: list[Stage], reader: Stage) -> Refusal | None:
    """Why no reduction runs over as many points as the reader; None where one does, for sure."""
    analyzer = tvm.sym.Analyzer()
    for axis in (axis for stage in (*reductions, reader) for axis in stage.axes):
        if isinstance(axis.extent, tvm.ir.Var):
            analyzer.update(axis.extent, tvm.sym.ConstIntBound(1, tvm.sym.ConstIntBound.POS_INF))
    wanted = _points(reader, analyzer)
    counts = [_points(stage, analyzer) for stage in reductions]
    if any(analyzer.can_prove(count >= wanted) for count in counts):
        return None
    most = ", ".join(dict.fromkeys(_in_words(count) for count in counts)) or "nothing"
    return Refusal(f"the reader has {_in_words(wanted)} elements, the reduction runs over {most}")


def _in_words(count: Any) -> str:
    return str(count.value if isinstance(count, tirx.IntImm) else count)


def _points(stage: Stage, analyzer: tvm.sym.Analyzer) -> Any:
    return analyzer.simplify(prod((axis.extent for axis in stage.axes), start=ONE))
