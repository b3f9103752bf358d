"""Scheduled functions as the code generator nearly sees them: flat memory, explicit vectors.

::

    with T.sblock("C"):                               C[i * 8:i * 8 + 4] = texture2d_load(
        C[i, lane] = A[0, i, 0, lane]            →        A, i, 0, 0, 128, ramp(0, 1, 4))

The passes are TVM's, in TVM's order, up to the one that makes vectors of vectorised loops. Loops
that will be unrolled are still loops, so a function stays small.

Requires: a scheduled function, textures as they are before ``TextureFlatten``.
Guarantees: no blocks; every access has one index, in elements or, for images, texel coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.backend.adreno.transform import TextureFlatten
from tvm_ffi import structural_walk

from ..analysis.expressions import dtype_of, static
from ..analysis.liveness import image_of
from ..analysis.texels import is_texture
from ..errors import SmartMemError
from ..passes import StageTextureStores
from .cache_model import Memory

_BUFFER_DATA = tvm.ir.Op.get("tirx.buffer_data")


def lower_for_tracing(name: str, func: tirx.PrimFunc, target: tvm.target.Target) -> tirx.PrimFunc:
    """Lower one function up to explicit vectors.

    Parameters
    ----------
    name
        The function's, for messages.
    func
        The scheduled function; it is not changed.
    target
        What it was scheduled for.
    """
    lower = s_tir.transform
    passes = [
        StageTextureStores(),
        TextureFlatten(),
        lower.CanonicalizeLoop(),
        lower.LowerCrossThreadReduction(),
        lower.LowerInitBlock(),
        lower.PlanAndUpdateBufferAllocationLocation(),
        lower.ConvertBlocksToOpaque(),
        lower.LiftThreadBinding(),
        lower.ManifestSharedMemoryLocalStage(),
        lower.CompactBufferAllocation(),
        lower.LowerAutoCopy(),
        lower.UnifyThreadBinding(),
        lower.LowerMatchBuffer(),
        lower.StmtSimplify(),
        lower.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.VectorizeLoop(True),
        lower.InjectVirtualThread(),
    ]
    module = tvm.IRModule({name: func})
    with target:
        return tvm.transform.Sequential(passes)(module)[name]


@dataclass
class Memories:
    """Device memory that a lowered function names, and other names of it.

    Attributes
    ----------
    found
        What the cache model is told, in order of first use.
    numbers
        Place of each memory in it.
    """

    original: tirx.PrimFunc
    found: list[Memory] = field(default_factory=list)
    numbers: dict[Any, int] = field(default_factory=dict)
    _aliases: dict[Any, Any] = field(default_factory=dict)

    def declare(self, lowered: tirx.PrimFunc) -> None:
        """Learn the other names that a function's body declares."""
        structural_walk(lowered.body, (tirx.DeclBuffer, self._declare))

    def _declare(self, stmt: tirx.DeclBuffer) -> None:
        if stmt.data is not None:
            self._aliases[stmt.buffer] = self.behind(stmt.data)

    def behind(self, data: Any) -> Any:
        """Buffer that a pointer or another name of it stands for."""
        if isinstance(data, tvm.ir.Call) and data.op.same_as(_BUFFER_DATA):
            data = data.args[0]
        while data in self._aliases:
            data = self._aliases[data]
        return data

    def number(self, buffer: Any) -> int:
        """Number of the memory that a buffer lies in."""
        root = self.behind(buffer)
        if root not in self.numbers:
            self.numbers[root] = len(self.found)
            self.found.append(describe(self._shaped(root)))
        return self.numbers[root]

    def _shaped(self, root: Any) -> Any:
        """The buffer with its shape before lowering, which images need."""
        return next((p for p in self.original.params if p.same_as(root)), root)


def describe(buffer: Any) -> Memory:
    """Size and, of an image, extents."""
    extents = [static(extent) for extent in buffer.ty.shape]
    if None in extents:
        raise SmartMemError(
            f"buffer '{buffer.name}' has the symbolic shape "
            f"({', '.join(str(extent) for extent in buffer.ty.shape)}), and an access needs an "
            "address: bind its extents to numbers, as --shape does"
        )
    shape = [int(extent) for extent in extents if extent is not None]
    dtype = tvm.DataType(dtype_of(buffer))
    element = max(1, dtype.bits * dtype.lanes // 8)
    size = math.prod(shape) * element
    image = None
    if is_texture(buffer):
        image = image_of(str(buffer.ty.storage_scope), list(buffer.ty.shape), dtype_of(buffer))
    if image is None:
        return Memory(buffer.name, size, element)
    return Memory(
        buffer.name,
        size,
        image.texel_bytes,
        width=image.columns,
        height=image.rows,
        layers=image.layers,
    )
