"""What a function does to its textures, and refusals that need no loops around a store."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlock
from tvm_ffi import structural_walk

from smartmem_tvm.analysis import find_launches
from smartmem_tvm.analysis.texels import LANES, is_texture
from smartmem_tvm.errors import SmartMemError

_TEXEL_DTYPES = ("float32", "float16")


def textures_stored(node: Any) -> list[Any]:
    """Textures that the stores in a statement write, in order, repeated as they are written."""
    found: list[Any] = []
    structural_walk(
        node, (tirx.BufferStore, lambda s: found.append(s.buffer) if is_texture(s.buffer) else None)
    )
    return found


def refused(function: str, buffer: Any, reason: str, remedy: str) -> SmartMemError:
    """Error for a texture that cannot be written as the function does."""
    shape = ", ".join(str(extent) for extent in buffer.ty.shape)
    return SmartMemError(
        f"function '{function}' cannot write texture '{buffer.name}' "
        f"({shape}; {buffer.ty.dtype.dtype}, scope {buffer.ty.storage_scope}): "
        f"{reason}; {remedy}"
    )


def check_function(name: str, func: tirx.PrimFunc) -> None:
    """Refuse textures with several names, and kernels that read an image they write."""
    _check_names(name, func)
    for launch in find_launches(func):
        read: set[Any] = set()
        structural_walk(launch.body, (TensorLoad, lambda n, r=read: r.add(n.source)))
        for buffer in textures_stored(launch.body):
            # OpenCL 1.2 images are one or the other.
            if buffer in read:
                raise refused(
                    name,
                    buffer,
                    "the same kernel also reads this image",
                    "accumulate in a local buffer (Schedule.cache_write) and store the result once",
                )


def _check_names(name: str, func: tirx.PrimFunc) -> None:
    """Refuse pointers to a texture and buffers over its data: they hide reads and writes."""
    pointer = tvm.ir.Op.get("tirx.buffer_data")

    def refuse(buffer: Any) -> None:
        raise refused(
            name,
            buffer,
            "the function takes a pointer to it or declares it over other data",
            "index the texture itself",
        )

    def call(node: tvm.ir.Call) -> None:
        if node.op.same_as(pointer) and is_texture(node.args[0]):
            refuse(node.args[0])

    def declaration(stmt: tirx.DeclBuffer) -> None:
        if is_texture(stmt.buffer):
            refuse(stmt.buffer)

    structural_walk(func.body, [(tvm.ir.Call, call), (tirx.DeclBuffer, declaration)])


def check_block(name: str, block: SBlock) -> None:
    """Refuse views of textures, and stores that only the first iteration of a reduction does."""
    for match in block.match_buffers:
        if is_texture(match.source.source):
            raise refused(
                name,
                match.source.source,
                f"block '{block.name_hint}' takes a view of it (match_buffer)",
                "index the texture itself",
            )
    if block.init is not None:
        for buffer in textures_stored(block.init):
            raise refused(
                name,
                buffer,
                f"the init of block '{block.name_hint}' stores to it",
                "reduce into a local buffer (Schedule.cache_write) and store the result once",
            )


def check_texels(name: str, buffer: Any) -> None:
    """Refuse buffers whose elements are not four lanes of a type that images hold exactly."""
    shape, dtype = buffer.ty.shape, str(buffer.ty.dtype.dtype)
    last = shape[-1]
    if len(shape) < 3:
        raise refused(
            name,
            buffer,
            f"it has {len(shape)} dimensions, an image needs rows, columns and lanes",
            "reshape it to [rows, columns, 4]",
        )
    if not isinstance(last, tirx.IntImm) or int(last) != LANES:
        raise refused(
            name,
            buffer,
            f"its last dimension is {last}, a texel has {LANES} lanes",
            "pack the innermost dimension by 4",
        )
    if dtype not in _TEXEL_DTYPES:
        raise refused(
            name,
            buffer,
            f"texels of {dtype} are not written exactly",
            f"use {' or '.join(_TEXEL_DTYPES)}, or keep it in a buffer",
        )


def check_ramp(name: str, buffer: Any, ramp: tirx.Ramp) -> None:
    """Refuse vector stores of anything but lanes 0 to 3 in order."""
    constants = [
        part
        for part in (ramp.base, ramp.stride, ramp.lanes)
        if isinstance(part, (int, tirx.IntImm))
    ]
    if [int(part) for part in constants] != [0, 1, LANES]:
        raise refused(
            name,
            buffer,
            f"the vector store {ramp} is not a whole texel",
            "store lanes 0 to 3 in order",
        )
