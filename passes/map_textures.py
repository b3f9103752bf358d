"""Place tensors in images, which devices read through caches of their own.

::

    x: [197, 768] in a buffer    →    x: [1, 197, 192, 4] in an image: layer, row, column, lane
    M[i] += x[i, k] * …               M[i] += x[0, i, k // 4, k % 4] * …

A tensor's innermost dimension, as its layout has it, runs along the four lanes of a texel and along
x; the dimensions before it run along y (:mod:`smartmem_tvm.analysis.image_shapes`).

Legal for float tensors of constant shape whose innermost extent is a multiple of four, and that
only kernels touch:

- a tensor that kernels make, if a work-item can own every texel: the lanes are one axis of the
  kernel that writes it, the same for all images it writes, and no condition tells them apart. Where
  several kernels write parts of one tensor, each must own whole texels: parts begin at multiples
  of four along the lanes. No kernel reads an image that it writes;
- a constant, if it is not small: it is reshaped here and uploaded once, when a model is loaded.
  Opaque operators, and the outside, keep the one that they had.

A tensor whose readers all take single lanes stays in a buffer, which is better at that. So does a
constant of which one reader does, or whose texels would lie along an axis of the output that is not
that of the reader's own images; and all constants where the device reads images no faster. What is
no image, and why, is recorded with its layout (:mod:`smartmem_tvm.analysis.tensor_layouts`).

Requires: layouts rewritten (:class:`RewriteLayouts`), nothing scheduled. Guarantees: the same
values; tensors in images have a ``VDevice`` of scope ``global.texture``. Source: SmartMem, section
3.3.
"""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir.expr import GenericConst
from tvm.target import Target

from smartmem_tvm.analysis.expressions import const, static
from smartmem_tvm.analysis.image_shapes import Groups, image_groups, image_map, image_shape
from smartmem_tvm.analysis.tensor_layouts import with_tensor_layouts
from smartmem_tvm.analysis.texels import LANES, SCOPE, has_texels, innermost
from smartmem_tvm.devices import DeviceProfile, profile_for

from ._emit import rewrite_blocks
from ._graph import Graph, Node
from ._tensors import is_constant, public_tensors, shared_memory
from ._texel_accesses import TexelAccesses
from ._texture_records import Placements
from ._views import SimplifiedStages
from .rewrite_layouts import lay_out

_BITS = {"float16": 16, "float32": 32}
# Constants of fewer bytes are not worth an image: they are registers, or one line of a cache.
SMALLEST_CONSTANT = 64


@tvm.transform.module_pass(opt_level=0, name="smartmem.MapTextures")
class MapTextures:
    """Move tensors from buffers to images where the device prefers them.

    Parameters
    ----------
    profile
        Device whose limits hold; that of the current target when not given.
    weights
        Whether constants become images as well.
    """

    def __init__(self, profile: DeviceProfile | None = None, *, weights: bool = True) -> None:
        self.profile = profile
        self.weights = weights

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with tensors in images."""
        target = Target.current(allow_none=True)
        profile = self.profile or profile_for(target)
        if profile.texture is None or not profile.texture.preferred or target is None:
            return mod
        if mod.global_infos.get("vdevice"):
            return mod  # somebody has placed the tensors
        mod = mod.clone()
        places = [relax.VDevice(target, 0, scope) for scope in ("global", SCOPE)]
        mod.update_global_info("vdevice", places)
        accesses = TexelAccesses(mod)
        found = Placements()

        def place(graph: Graph) -> None:
            placing = _Placing(graph, accesses, profile, found)
            placing.place_tensors()
            if self.weights:
                placing.place_constants()
            placing.rewrite(places[1])

        mod = rewrite_blocks(mod, place, in_place=True)
        return with_tensor_layouts(mod, found.recorded(mod))


class _Placing:
    """The tensors of one graph."""

    def __init__(
        self, graph: Graph, accesses: TexelAccesses, profile: DeviceProfile, found: Placements
    ) -> None:
        self.graph, self.accesses, self.profile, self.found = graph, accesses, profile, found
        self.limits = profile.texture
        self.fixed = public_tensors(graph)
        self.writers = {b: node for node in graph.kernels() for b in node.outputs}
        self.readers: dict[Any, list[Node]] = {}
        for node in graph.kernels():
            written = node.inplace.values()
            for buffer in dict.fromkeys(node.inputs()):
                if buffer not in written:
                    self.readers.setdefault(buffer, []).append(node)
        self.images: dict[Any, Groups] = {}
        self.lanes: dict[int, Any] = {}  # axis of each kernel along which its images' lanes lie

    def place_tensors(self) -> None:
        """Choose images for what kernels make."""
        roots = shared_memory(self.graph)
        parts: dict[Any, list[Any]] = {}
        for node in self.graph.kernels():
            for buffer in node.outputs:
                parts.setdefault(roots.get(buffer, buffer), []).append(buffer)
        for together in parts.values():
            found = self._place(together)
            for buffer in together:
                self.found.note_tensor(buffer, found if isinstance(found, str) else "")
                if not isinstance(found, str):
                    self.images[buffer] = found

    def place_constants(self) -> None:
        """Choose images for constants that kernels read."""
        for buffer, readers in self.readers.items():
            if is_constant(self.graph, buffer):
                found = self._place_constant(buffer, readers)
                why = found if isinstance(found, str) else ""
                self.found.note_constant(self.graph, buffer, readers, why)
                if not isinstance(found, str):
                    self.images[buffer] = found

    def rewrite(self, place: relax.VDevice) -> None:
        """Give every kernel the images instead of the buffers."""
        maps = {b: image_map(_shape(b), groups) for b, groups in self.images.items()}
        images = {buffer: _image(buffer, groups) for buffer, groups in self.images.items()}
        for buffer, image in images.items():
            if is_constant(self.graph, buffer):
                self.graph.external[image] = _constant(self.graph.external[buffer], image, place)
        simplified = SimplifiedStages()
        for node in self.graph.kernels():
            own = {b: maps[b] for b in (*node.inputs(), *node.outputs) if b in maps}
            if own:
                node.stages = [simplified(lay_out(stage, own, images)) for stage in node.stages]
                node.outputs = [images.get(buffer, buffer) for buffer in node.outputs]
                node.inplace = {
                    images.get(output, output): images.get(before, before)
                    for output, before in node.inplace.items()
                }

    def _place(self, parts: list[Any]) -> Groups | str:
        """The image of a tensor, which each of its parts is; or why it is a buffer."""
        fixed = next((self.fixed[part] for part in parts if part in self.fixed), None)
        if fixed is not None:
            return fixed
        groups = self._image_for(parts[0])
        if isinstance(groups, str):
            return groups
        dim = innermost(_shape(parts[0])) or 0
        writers = [(self.writers[part], part) for part in parts]
        readers = [(node, part) for part in parts for node in self.readers.get(part, ())]
        for node, _ in (*writers, *readers):
            why = self.accesses.refusal(node)
            if why is not None:
                return f"kernel '{node.name}' has it in a buffer: {why}"
        lanes: dict[int, Any] = {}
        for node, part in writers:
            along = self.accesses.lanes_written(node, part, dim)
            if along is None and len(writers) > 1:
                return f"kernel '{node.name}', which writes a part, does not own whole texels"
            if along is None:
                return "its texels are not each written by one work-item"
            if str(along.ty.dtype) != str(part.shape[dim].ty.dtype):
                return f"kernel '{node.name}' counts in {along.ty.dtype}"
            if not self.lanes.get(id(node), along).same_as(along):
                return "another image of its kernel has its lanes along another axis"
            if self.accesses.lanes_read(node, part, dim) or any(node is r for r, _ in readers):
                return f"kernel '{node.name}' reads and writes it"
            lanes[id(node)] = along
        follows = [lane for node, part in readers for lane in self._read(node, part, dim)]
        if all(lane is None for lane in follows):
            return "no kernel reads whole texels of it"
        self.lanes |= lanes
        return groups

    def _place_constant(self, buffer: Any, readers: list[Node]) -> Groups | str:
        bandwidth = self.profile.bandwidth
        if (bandwidth.texture_gbps or 0.0) <= bandwidth.global_gbps:
            return "the device reads images no faster"
        groups = self._image_for(buffer)
        if isinstance(groups, str):
            return groups
        shape = _shape(buffer)
        size = prod(shape) * tvm.DataType(str(buffer.dtype)).itemsize
        if size < SMALLEST_CONSTANT:
            return f"it has {size} bytes, fewer than {SMALLEST_CONSTANT}"
        for node in readers:
            why = self.accesses.refusal(node)
            if why is not None:
                return f"kernel '{node.name}' has it in a buffer: {why}"
            for along in self._read(node, buffer, innermost(shape) or 0):
                written = self.lanes.get(id(node), along)
                if along is None:
                    return f"kernel '{node.name}' reads single lanes of it"
                if not along.same_as(written) and self.accesses.is_sink_axis(node, along):
                    return f"kernel '{node.name}' has its texels along another axis"
        return groups

    def _read(self, node: Node, buffer: Any, dim: int) -> list[Any]:
        return self.accesses.lanes_read(node, buffer, dim)

    def _image_for(self, buffer: Any) -> Groups | str:
        """The image that could hold a tensor, whoever touches it."""
        shape = _shape(buffer)
        limits = self.limits
        if None in shape:
            return "its shape is open"
        if limits is None or _BITS.get(str(buffer.dtype), 0) * LANES not in limits.texel_bits:
            return f"the device has no texels of four {buffer.dtype}"
        if not has_texels(shape):
            return f"its innermost extent is no multiple of {LANES}"
        found = image_groups(shape, limits)
        if found is None:
            return (
                f"it is larger than any image: {limits.max_layers} layers of "
                f"{limits.max_height} rows and {limits.max_width} texels"
            )
        return found


def _shape(buffer: Any) -> list[Any]:
    return [static(extent) for extent in buffer.shape]


def _image(buffer: Any, groups: Groups) -> Any:
    extents = [const(extent, buffer.shape[0]) for extent in image_shape(groups)]
    return tirx.decl_buffer(extents, buffer.dtype, buffer.name, scope=SCOPE, layout=None)


def _constant(known: GenericConst, image: Any, place: relax.VDevice) -> GenericConst:
    """The constant in the image's shape; the order of its elements is the same."""
    shape = _shape(image)
    value = tvm.runtime.tensor(known.value.numpy().reshape(shape))
    return GenericConst(value, relax.TensorType(shape, str(image.dtype), place))
