"""Texels: elements of an image that are read and written four at a time.

::

    x: [1, 197, 192, 4] in an image                        k → 4 * ko + ki:
    M[i] += x[0, i, k // 4, k % 4]           →             M[i] += x[0, i, ko, ki]

What runs along the lanes of a texel becomes an axis of its own, of extent 4, so that a vector or
an unrolled loop over that axis is one texel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm.ir.prim import expr as prim
from tvm_ffi import structural_map

from .computation import Axis, Stage, map_stage
from .expressions import const, static
from .fused_kernel import Kernel
from .kernel_work import bounds_of, list_work
from .loop_orders import with_axes

LANES = 4
SCOPE = "global.texture"


def is_texture(buffer: Any) -> bool:
    """Whether the buffer lives in an image."""
    scope = str(buffer.ty.storage_scope)
    return scope == SCOPE or scope.startswith(f"{SCOPE}-")


def innermost(shape: Sequence[int | None]) -> int | None:
    """The last dimension that has several elements, along which texels would lie."""
    return next((d for d in reversed(range(len(shape))) if shape[d] != 1), None)


def has_texels(shape: Sequence[int | None]) -> bool:
    """Whether a buffer of this shape is a whole number of texels; open extents are None."""
    dim = innermost(shape)
    return dim is not None and None not in shape and (shape[dim] or 0) % LANES == 0


def split_texels(kernel: Kernel) -> Kernel:
    """Kernel whose axes are split where they run along the lanes of an image's texels."""
    tensors = [p for p in kernel.func.params if not isinstance(p.ty, tvm.ir.PrimType)]
    if not any(map(is_texture, tensors)):
        return kernel
    stages = {id(stage): _split_reduced(stage) for stage in kernel.stages}
    makers = {buffer: stages[id(stage)][0] for buffer, stage in kernel.makers.items()}
    lanes = frozenset(var for _, found in stages.values() for var in found)
    kernel = replace(kernel, makers=makers, texels=kernel.texels | lanes)
    sink, found = _split(kernel.sink, _lanes_of_sink(kernel))
    return replace(kernel, sink=sink, texels=kernel.texels | frozenset(found))


def lane_axis(index: Any, analyzer: sym.Analyzer) -> Any:
    """Variable whose remainder by four an index is, modulo four; None for another form."""
    index = analyzer.simplify(index % const(LANES, index))
    if isinstance(index, prim.FloorMod) and static(index.b) == LANES:
        index = index.a
    elif analyzer.const_int_bound(index).max_value != LANES - 1:
        return None
    return index if isinstance(index, tvm.ir.Var) else None


def axis_of_texels(kernel: Kernel) -> int | None:
    """Axis of the sink that is the lanes of every image it writes; None if it writes none."""
    for position, axis in enumerate(kernel.sink.axes):
        for store in kernel.sink.stores:
            if is_texture(store.buffer) and store.indices[-1].same_as(axis.var):
                return position
    return None


def _split_reduced(stage: Stage) -> tuple[Stage, list[Any]]:
    analyzer = sym.Analyzer()
    for axis in stage.axes:
        analyzer.bind(axis.var, axis.range)
    lanes = (lane_axis(x.indices[-1], analyzer) for x in stage.loads() if is_texture(x.source))
    found = [var for var in lanes if var is not None]
    reduced = [axis for axis in stage.axes if axis.reduced]
    wanted = [axis for axis in reduced if any(axis.var.same_as(var) for var in found)]
    stage, split = _split(stage, wanted)
    # The lanes innermost, whatever windows go around them: a texel is read once.
    last = {axis.var: any(axis.var.same_as(var) for var in split) for axis in stage.axes}
    return with_axes(stage, sorted(stage.axes, key=lambda axis: last[axis.var]), {}), split


def _lanes_of_sink(kernel: Kernel) -> list[Axis]:
    work = list_work(kernel)
    analyzer = bounds_of(kernel, work)
    accesses = [a for part in work for a in part.accesses if is_texture(a.buffer)]
    lanes = (lane_axis(access.indices[-1], analyzer) for access in accesses)
    found = [var for var in lanes if var is not None]
    return [axis for axis in kernel.sink.axes if any(axis.var.same_as(var) for var in found)]


def _split(stage: Stage, wanted: list[Axis]) -> tuple[Stage, list[Any]]:
    """Stage with some axes as texels and lanes, and the variables of the lanes."""
    axes: list[Axis] = []
    lanes: list[Any] = []
    values: dict[Any, Any] = {}
    for axis in stage.axes:
        extent = static(axis.extent)
        if not any(axis is one for one in wanted) or extent is None or extent % LANES:
            axes.append(axis)
            continue
        name, like = axis.var.name, axis.var
        outer = Axis(tirx.Var(f"{name}_texel", like.ty), const(extent // LANES, like), axis.reduced)
        inner = Axis(tirx.Var(f"{name}_lane", like.ty), const(LANES, like), axis.reduced)
        values[axis.var] = outer.var * const(LANES, like) + inner.var
        axes += [outer, inner]
        lanes.append(inner.var)
    return (_named(with_axes(stage, axes, values), lanes) if values else stage), lanes


def _named(stage: Stage, lanes: list[Any]) -> Stage:
    """Stage whose images are indexed by the lanes themselves.

    Where conditions keep an index small, it is no remainder any more: c for c below 4.
    """
    analyzer = sym.Analyzer()
    for axis in stage.axes:
        analyzer.bind(axis.var, axis.range)

    def lane_of(index: Any) -> Any:
        lane = lane_axis(index, analyzer)
        return lane if lane is not None and any(lane.same_as(var) for var in lanes) else index

    def load(node: TensorLoad) -> TensorLoad:
        if not is_texture(node.source):
            return node
        return tirx.BufferLoad(node.source, [*node.indices[:-1], lane_of(node.indices[-1])])

    stage = map_stage(stage, lambda expr: structural_map(expr, (TensorLoad, load)))
    stores = tuple(
        replace(store, indices=(*store.indices[:-1], lane_of(store.indices[-1])))
        if is_texture(store.buffer)
        else store
        for store in stage.stores
    )
    return replace(stage, stores=stores)
