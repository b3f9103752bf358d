"""Place tensors in images, which devices read through caches of their own.

::

    x: [197, 768] in a buffer    →    x: [1, 197, 192, 4] in an image: depth, row, column, lane
    M[i] += x[i, k] * …               M[i] += x[0, i, k // 4, k % 4] * …

A tensor's innermost dimension, as its layout has it, runs along the four lanes of a texel and along
x; the dimensions before it run along y, so that neighbours in two dimensions lie side by side.
Only as many as the limits of the device ask for are taken into columns or layers instead.

Legal for float tensors of constant shape, which one kernel makes and only kernels read, whose
innermost extent is a multiple of four, if a work-item can own every texel: the lanes are one axis
of the kernel that writes it, the same for all images it writes, and no condition tells them apart.
A tensor whose readers all take single lanes stays in a buffer, which is better at that. What is no
image, and why, is recorded with the tensor's layout (:mod:`smartmem_tvm.analysis.tensor_layouts`).

Requires: layouts rewritten (:class:`RewriteLayouts`), nothing scheduled. Guarantees: the same
values; tensors in images have a ``VDevice`` of scope ``global.texture``. Source: SmartMem, section
3.3.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import tvm
from tvm import relax, sym, tirx
from tvm.target import Target
from tvm_ffi import structural_equal

from smartmem_tvm.analysis.computation import Axis
from smartmem_tvm.analysis.expressions import const, static, substitute
from smartmem_tvm.analysis.fused_kernel import Kernel, NotAKernel, read_kernel
from smartmem_tvm.analysis.kernel_work import bounds_of, list_work
from smartmem_tvm.analysis.tensor_layouts import read_tensor_layouts, with_tensor_layouts
from smartmem_tvm.analysis.texels import LANES, SCOPE, has_texels, innermost, lane_axis
from smartmem_tvm.devices import DeviceProfile, profile_for
from smartmem_tvm.devices.schema import TextureLimits

from ._emit import rewrite_blocks
from ._graph import Graph, Node
from ._tensors import is_reshape, public_tensors, shared_memory
from ._views import SimplifiedStages
from .rewrite_layouts import lay_out

_BITS = {"float16": 16, "float32": 32}


@tvm.transform.module_pass(opt_level=0, name="smartmem.MapTextures")
class MapTextures:
    """Move tensors from buffers to images where the device prefers them.

    Parameters
    ----------
    profile
        Device whose limits hold; that of the current target when not given.
    """

    def __init__(self, profile: DeviceProfile | None = None) -> None:
        self.profile = profile

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with tensors in images."""
        target = Target.current(allow_none=True)
        profile = self.profile or profile_for(target)
        limits = profile.texture
        if limits is None or not limits.preferred or target is None:
            return mod
        if mod.global_infos.get("vdevice"):
            return mod  # somebody has placed the tensors
        mod = mod.clone()
        places = [relax.VDevice(target, 0, scope) for scope in ("global", SCOPE)]
        mod.update_global_info("vdevice", places)
        reasons: dict[str, str] = {}
        mod = rewrite_blocks(
            mod, lambda graph: _Placing(mod, graph, limits, reasons).run(), in_place=True
        )
        return _recorded(mod, reasons)


class _Placing:
    """The tensors of one graph."""

    def __init__(
        self, mod: tvm.IRModule, graph: Graph, limits: TextureLimits, reasons: dict[str, str]
    ) -> None:
        self.mod, self.graph, self.limits = mod, graph, limits
        self.reasons = reasons
        self.fixed = public_tensors(graph)
        self.shared = shared_memory(graph)
        self.kernels = {id(node): self._kernel(node) for node in graph.kernels()}
        self.readers: dict[Any, list[Node]] = {}
        for node in graph.kernels():
            for buffer in node.inputs():
                self.readers.setdefault(buffer, []).append(node)

    def run(self) -> None:
        maps: dict[Any, tirx.IndexMap] = {}
        images: dict[Any, Any] = {}
        for node in self.graph.kernels():
            written: Any = None
            for buffer in node.outputs:
                found = self._place(node, buffer, written)
                if isinstance(found, str):
                    self.reasons[buffer.name] = found
                    continue
                written, shape = found
                self.reasons[buffer.name] = ""
                maps[buffer] = _index_map(list(map(int, buffer.shape)), shape)
                extents = [const(n, buffer.shape[0]) for n in (*map(prod, shape), LANES)]
                images[buffer] = tirx.decl_buffer(
                    extents, buffer.dtype, buffer.name, scope=SCOPE, layout=None
                )
        simplified = SimplifiedStages()
        for node in self.graph.kernels():
            touched = {*node.inputs(), *node.outputs} & maps.keys()
            if touched:
                own = {buffer: maps[buffer] for buffer in touched}
                node.stages = [simplified(lay_out(stage, own, images)) for stage in node.stages]
                node.outputs = [images.get(buffer, buffer) for buffer in node.outputs]

    def _kernel(self, node: Node) -> Kernel | str:
        """The kernel that schedules will see, in the graph's buffers, or why there is none."""
        if node.origin is None:
            return "it was not read from a function"
        global_var, _ = node.origin
        func = self.mod[global_var]
        if is_reshape(func):
            return "it only gives the tensor another shape"
        try:
            return read_kernel(func)
        except NotAKernel as error:
            return str(error)

    def _place(self, node: Node, buffer: Any, written: Any) -> Any:
        """Axis of the lanes and dimensions of the image; or why it is a buffer."""
        if buffer in self.fixed:
            return self.fixed[buffer]
        if buffer in self.shared:
            return "several kernels write parts of it"
        shape = [static(extent) for extent in buffer.shape]
        bits = _BITS.get(str(buffer.dtype), 0) * LANES
        if None in shape:
            return "its shape is open"
        if bits not in self.limits.texel_bits:
            return f"the device has no texels of four {buffer.dtype}"
        if not has_texels(shape):
            return f"its innermost extent is no multiple of {LANES}"
        for other in (node, *self.readers.get(buffer, ())):
            if isinstance(self.kernels[id(other)], str):
                return f"kernel '{other.name}' has it in a buffer: {self.kernels[id(other)]}"
        dim = innermost(shape)
        lanes = self._lanes_written(node, buffer, dim)
        if lanes is None:
            return "its texels are not each written by one work-item"
        if written is not None and not lanes.same_as(written):
            return "another image of its kernel has its lanes along another axis"
        if not any(self._reads_texels(reader, buffer, dim) for reader in self.readers[buffer]):
            return "no kernel reads whole texels of it"
        groups = _groups(shape, self.limits)
        if groups is None:
            return f"it is larger than any image: {self._largest()}"
        return lanes, groups

    def _largest(self) -> str:
        most = self.limits
        return f"{most.max_layers} layers of {most.max_height} rows and {most.max_width} texels"

    def _parameter(self, node: Node, buffer: Any) -> list[Any]:
        global_var, arguments = node.origin or (None, [])
        parameters = zip(self.mod[global_var].params, arguments, strict=True)
        return [parameter for parameter, argument in parameters if argument.same_as(buffer)]

    def _lanes_written(self, node: Node, buffer: Any, dim: int) -> Any:
        """The sink's axis along a texel, None where texels are not written as a whole."""
        kernel = self.kernels[id(node)]
        mine = self._parameter(node, buffer)
        stores = [s for s in kernel.sink.stores if any(s.buffer.same_as(p) for p in mine)]
        analyzer = bounds_of(kernel, [])
        found = None
        for store in stores:
            index = store.indices[dim]
            var = lane_axis(index, analyzer)
            axis = next((a for a in kernel.sink.axes if a.var.same_as(var)), None)
            if axis is None or (static(axis.extent) or 1) % LANES or len(stores) > 1:
                return None
            place = [i // const(LANES, i) if d == dim else i for d, i in enumerate(store.indices)]
            if store.condition is not None:
                place.append(store.condition)
            if not all(_same_in_a_texel(part, axis, analyzer) for part in place):
                return None
            found = axis.var
        return found

    def _reads_texels(self, node: Node, buffer: Any, dim: int) -> bool:
        kernel = self.kernels[id(node)]
        work = list_work(kernel)
        analyzer = bounds_of(kernel, work)
        mine = self._parameter(node, buffer)
        for part in work:
            for access in part.accesses:
                if any(access.buffer.same_as(parameter) for parameter in mine):
                    if lane_axis(access.indices[dim], analyzer) is not None:
                        return True
        return False


def _same_in_a_texel(expr: Any, axis: Axis, analyzer: sym.Analyzer) -> bool:
    """Whether an expression is the same for all four lanes along an axis."""
    texel = tirx.Var("texel", axis.var.ty)
    count = const(int(axis.extent) // LANES, texel)
    analyzer.bind(texel, tvm.ir.Range(const(0, texel), count))
    first = texel * const(LANES, texel)
    values = [
        analyzer.simplify(substitute(expr, {axis.var: first + const(lane, texel)}))
        for lane in range(LANES)
    ]
    return all(structural_equal(value, values[0]) for value in values[1:])


def _groups(shape: list[int], limits: TextureLimits) -> tuple[list[int], ...] | None:
    """Extents taken together as layers, rows and columns; None where no image is large enough.

    As few layers as possible, then as few dimensions in a row as possible.
    """
    dim = innermost(shape) or 0
    extents = [*shape[:dim], shape[dim] // LANES]
    for layers in range(len(extents)):
        for columns in range(len(extents) - 1, layers - 1, -1):
            groups = extents[:layers], extents[layers:columns], extents[columns:]
            most = limits.max_layers, limits.max_height, limits.max_width
            if all(prod(group) <= limit for group, limit in zip(groups, most, strict=True)):
                return groups
    return None


def _index_map(shape: list[int], groups: tuple[list[int], ...]) -> tirx.IndexMap:
    """Where the element of a buffer lies in the image: layer, row, column, lane."""
    names = [tirx.Var(f"i{d}", "int64") for d in range(len(shape))]
    dim = innermost(shape) or 0
    lanes = tirx.IntImm("int64", LANES)
    digits = [*names[:dim], names[dim] // lanes]
    final, start = [], 0
    for group in groups:
        place: Any = tirx.IntImm("int64", 0)
        for index, extent in zip(digits[start : start + len(group)], group, strict=True):
            place = index if isinstance(place, tirx.IntImm) else place * extent + index
        final.append(place)
        start += len(group)
    return tirx.IndexMap(names, [*final, names[dim] % lanes], None)


def _recorded(mod: tvm.IRModule, reasons: dict[str, str]) -> tvm.IRModule:
    """Module whose records of layouts say which tensors are images, and why others are not."""
    records = []
    for tensor in read_tensor_layouts(mod):
        why = reasons.get(tensor.name)
        if why == "":
            tensor = replace(tensor, scope=SCOPE)
        elif why is not None:
            tensor = replace(tensor, reason=f"{tensor.reason}; in a buffer: {why}")
        records.append(tensor)
    return with_tensor_layouts(mod, records)
