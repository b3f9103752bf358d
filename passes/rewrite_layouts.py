"""Store every tensor in the layout that its functions' attributes name.

::

    w: [k, n] constant                                  w: [n, k] constant
    M[i, n] = sum(x[i, k] * w[k, n])        →           M[n, i] = sum(x[i, k] * w[n, k])
    O[i, n] = sum(M[i, k] * v[k, n])                    O[i, n] = sum(M[k, i] * v[k, n])

    smartmem.layouts of the first function: x None, w (k, n) → (n, k), M (i, n) → (n, i)

Producers and consumers of a tensor are rewritten together: the buffer has the layout's shape, and
every index goes through the map and is simplified. Constants are stored anew at compile time; one
that is read in two layouts becomes two. No function is added, so no layout is ever changed by a
kernel.

Legal for tensors whose every reader and writer is a function with stages: parameters and results
of the graph, and what opaque operators read or make, stay row by row. A tensor that is written into
the memory of another lies as that one does. No two elements may share a place. An attribute that
asks for anything else, or two attributes that disagree, is an error.

Requires: PrimFuncs with the attribute ``smartmem.layouts`` (:class:`SelectLayouts`, or written by
hand). Guarantees: the same values; the attribute is gone. Source: SmartMem, section 3.2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm_ffi import structural_equal

from smartmem_tvm.analysis.computation import (
    OpaqueReason,
    Stage,
    read_stages,
    replace_in_stage,
)
from smartmem_tvm.analysis.expressions import static, uses
from smartmem_tvm.analysis.layouts import LAYOUTS, layout_of, map_indices, map_shape, pack
from smartmem_tvm.errors import SmartMemError

from ._emit import rewrite_blocks
from ._emit_function import build_prim_func
from ._graph import Graph, Node
from ._tensors import is_constant, public_tensors
from ._views import SimplifiedStages, simplified


@tvm.transform.module_pass(opt_level=0, name="smartmem.RewriteLayouts")
class RewriteLayouts:
    """Rewrite functions and constants to the layouts of their attributes.

    Parameters
    ----------
    simplify
        Whether composed indices are simplified.
    """

    def __init__(self, *, simplify: bool = True) -> None:
        self.simplify = simplify

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with tensors stored in their layouts."""
        simplified = SimplifiedStages() if self.simplify else None
        mod = rewrite_blocks(mod, lambda graph: _Rewriting(graph, simplified).run(), in_place=True)
        return _without_attribute(mod)


class _Rewriting:
    def __init__(self, graph: Graph, simplified: SimplifiedStages | None) -> None:
        self.graph = graph
        self.simplified = simplified
        self.fixed = public_tensors(graph)
        self.constants: dict[Any, list[tuple[Any, Any]]] = {}

    def run(self) -> None:
        for node in self.graph.kernels():
            node.layouts = {b: m for b, m in node.layouts.items() if not _is_row_major(m)}
            for buffer, index_map in node.layouts.items():
                _check_map(buffer, index_map, f" of '{node.name}'")
        maps = self._tensor_maps()
        made = {buffer: _buffer_in(buffer, index_map) for buffer, index_map in maps.items()}
        for node in self.graph.kernels():
            own = {
                buffer: self._constant(buffer, index_map)
                for buffer, index_map in node.layouts.items()
                if is_constant(self.graph, buffer)
            }
            changed = {b: m for b, m in node.layouts.items() if b in own or b in made}
            node.stages = [self._stage(stage, changed, {**made, **own}) for stage in node.stages]
            node.outputs = [made.get(buffer, buffer) for buffer in node.outputs]
            node.inplace = {
                made.get(output, output): made.get(before, before)
                for output, before in node.inplace.items()
            }
            node.layouts = {}

    def _tensor_maps(self) -> dict[Any, Any]:
        """Map of every tensor that a kernel makes, as all its kernels agree."""
        maps: dict[Any, Any] = {}
        for node in self.graph.kernels():
            for buffer, index_map in node.layouts.items():
                if is_constant(self.graph, buffer):
                    continue
                if buffer in self.fixed:
                    raise SmartMemError(
                        f"tensor '{buffer.name}' of '{node.name}' cannot lie as {index_map}: "
                        f"{self.fixed[buffer]}; leave its layout out"
                    )
                maps.setdefault(buffer, index_map)
        for node in self.graph.kernels():
            before = set(node.inplace.values())
            for buffer in (*node.inputs(), *node.outputs):
                asked = None if buffer in before else maps.get(buffer)
                if asked is not None and not _same(asked, node.layouts.get(buffer)):
                    raise SmartMemError(
                        f"tensor '{buffer.name}' is to lie as {asked}, but "
                        f"'{node.name}' has it as {node.layouts.get(buffer)}: give it one layout"
                    )
            for output, held in node.inplace.items():
                if not _same(maps.get(output), maps.get(held)):
                    raise SmartMemError(
                        f"'{node.name}' writes '{output.name}' into the memory of "
                        f"'{held.name}', but their layouts differ: give them one"
                    )
        return maps

    def _constant(self, buffer: Any, index_map: Any) -> Any:
        """Buffer of the constant in that layout, the same for all that want it."""
        stored = self.constants.setdefault(buffer, [])
        for known, packed in stored:
            if _same(known, index_map):
                return packed
        value = self.graph.external[buffer].value.numpy()
        packed = _buffer_in(buffer, index_map)
        self.graph.external[packed] = relax.const(pack(index_map, value), str(buffer.dtype))
        stored.append((index_map, packed))
        return packed

    def _stage(self, stage: Stage, maps: dict[Any, Any], buffers: dict[Any, Any]) -> Stage:
        touched = {load.source for load in stage.loads()} | {s.buffer for s in stage.stores}
        if not touched & maps.keys():
            return stage
        mapped = lay_out(stage, maps, buffers)
        return mapped if self.simplified is None else self.simplified(mapped)


def rewrite_function(func: tirx.PrimFunc, maps: Mapping[Any, tirx.IndexMap]) -> tirx.PrimFunc:
    """A function alone, some of its parameters in other layouts.

    Parameters
    ----------
    func
        An unscheduled function of which stages can be read.
    maps
        Index map of each parameter that is to lie otherwise.

    Raises
    ------
    SmartMemError
        When its stages cannot be read, or a map puts two elements into one place.
    """
    stages = read_stages(func)
    if isinstance(stages, OpaqueReason):
        raise SmartMemError(
            f"the function's tensors cannot be laid out: {stages.reason}; leave its layouts out"
        )
    for buffer, index_map in maps.items():
        _check_map(buffer, index_map, "")
    written = {store.buffer for stage in stages for store in stage.stores}
    buffers = {buffer: _buffer_in(buffer, index_map) for buffer, index_map in maps.items()}
    stages = [simplified(lay_out(stage, maps, buffers)) for stage in stages]
    tensors = [p for p in func.params if not isinstance(p.ty, tvm.ir.PrimType)]
    node = Node("", stages, [buffers.get(b, b) for b in tensors if b in written])
    while tensors and tensors[-1] in written:  # what is written in place stands before these
        tensors.pop()
    symbols = [p for p in func.params if isinstance(p.ty, tvm.ir.PrimType)]
    return build_prim_func(node, [buffers.get(b, b) for b in tensors], symbols)


def lay_out(stage: Stage, maps: Mapping[Any, Any], buffers: Mapping[Any, Any]) -> Stage:
    """Stage whose tensors in `maps` are the ones in `buffers`, indexed through their maps."""

    def load(buffer: Any) -> Any:
        return lambda indices: tirx.BufferLoad(buffers[buffer], map_indices(maps[buffer], indices))

    mapped = replace_in_stage(stage, {buffer: load(buffer) for buffer in maps})
    stores = tuple(
        replace(
            store,
            buffer=buffers[store.buffer],
            indices=tuple(map_indices(maps[store.buffer], store.indices)),
        )
        if store.buffer in maps
        else store
        for store in mapped.stores
    )
    return replace(mapped, stores=stores)


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return bool(structural_equal(one, other))


def _is_row_major(index_map: Any) -> bool:
    layout = layout_of(index_map)
    return layout is not None and layout.is_row_major


def _check_map(buffer: Any, index_map: Any, where: str) -> None:
    """Raise SmartMemError where the tensor's elements have no places of their own."""
    named = f"tensor '{buffer.name}'{where}"
    tensor = f"{named}, of shape {list(buffer.shape)}, cannot lie as {index_map}"
    count = len(index_map.initial_indices)
    if count != len(buffer.shape):
        raise SmartMemError(f"{tensor}: the map is of {count} dimensions; give one for each")
    if layout_of(index_map) is not None:
        return
    try:
        map_shape(index_map, buffer.shape)
    except tvm.error.InternalError:
        raise SmartMemError(
            f"{tensor}: its places do not start at 0; give a map that does"
        ) from None
    extents = []
    for var, extent in zip(index_map.initial_indices, buffer.shape, strict=True):
        users = [index for index in index_map.final_indices if uses(index, var)]
        if static(extent) is None and not (len(users) == 1 and users[0].same_as(var)):
            raise SmartMemError(
                f"{tensor}: {var} is symbolic, so that it must be a dimension of the buffer by "
                "itself; permute the dimensions, or cut one into vectors"
            )
        extents.append(static(extent) or 1)  # elements with another such index lie elsewhere
    try:
        pack(index_map, np.zeros(extents, bool))
    except SmartMemError as error:
        raise SmartMemError(f"{named}: {error}") from error


def _without_attribute(mod: tvm.IRModule) -> tvm.IRModule:
    """The module, whose functions must all have been rewritten."""
    for global_var, func in mod.functions.items():
        maps = func.attrs.get(LAYOUTS) if isinstance(func, tirx.PrimFunc) else None
        if maps is None:
            continue
        if any(index_map is not None and not _is_row_major(index_map) for index_map in maps):
            stages = read_stages(func)
            reason = (
                stages.reason
                if isinstance(stages, OpaqueReason)
                else "it is called outside of dataflow blocks, or with tensors of unknown shape"
            )
            raise SmartMemError(
                f"the tensors of function '{global_var.name_hint}' cannot be laid out: {reason}; "
                f"leave its attribute {LAYOUTS} out"
            )
        mod.update_func(global_var, func.without_attr(LAYOUTS))
    return mod


def _buffer_in(buffer: Any, index_map: Any) -> Any:
    shape = map_shape(index_map, buffer.shape)
    return tirx.decl_buffer(shape, buffer.dtype, buffer.name, layout=None)
