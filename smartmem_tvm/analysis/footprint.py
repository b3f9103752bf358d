"""Footprint traffic: unique bytes of device memory that a launch reads and writes.

The count depends on the index maps alone, so a register tile that reads an operand seven times
costs the same as one that reads it once. Per access::

    A[v_i * 2, v_k]   v_i in 64, v_k in 9    ->  min(64 * 9, box 127 * 9, elements of A)

The number of distinct elements is at most the number of distinct values of the variables in the
indices, at most the bounding box of the index ranges, and at most the tensor. For reads and
writes of whole tensors, slices, strides, broadcasts, padding, and windows, one of the three is
exact; otherwise the smallest is an upper bound. Accesses of one launch to one buffer are united
by the smaller of the sum and the common box. Buffers in shared, local and warp memory are free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlock
from tvm_ffi import structural_equal, structural_visit, structural_walk

from .launches import Launch


@dataclass(frozen=True)
class _Access:
    """One load or store: how many elements it touches at most, and its box per dimension."""

    indices: tuple[Any, ...]
    elements: int
    box: tuple[tuple[int, int], ...]


def _static_shape(buffer: Any) -> list[int] | None:
    shape = list(buffer.ty.shape)
    return [int(d) for d in shape] if all(isinstance(d, tirx.IntImm) for d in shape) else None


def _is_device_memory(buffer: Any) -> bool:
    scope = buffer.ty.storage_scope
    return scope in ("", "global") or scope.startswith("global.")


def _bounds(index: Any, extent: int, analyzer: sym.Analyzer) -> tuple[int, int]:
    """Smallest and largest value of an index inside the tensor."""
    if isinstance(index, tirx.Ramp):
        low, high = _bounds(index.base, extent, analyzer)
        reach = int(index.stride) * (int(index.lanes) - 1)
        return max(0, low + min(reach, 0)), min(extent - 1, high + max(reach, 0))
    bound = analyzer.const_int_bound(index)
    return max(0, int(bound.min_value)), min(extent - 1, int(bound.max_value))


def _measure(
    indices: Iterable[Any], shape: list[int], domains: dict[Any, int], analyzer: sym.Analyzer
) -> _Access:
    indices = tuple(indices)
    used: dict[Any, int] = {}
    lanes = 1
    for index in indices:
        structural_walk(
            index, (tvm.ir.Var, lambda v: used.update({v: domains[v]}) if v in domains else None)
        )
        if isinstance(index, tirx.Ramp):
            lanes *= int(index.lanes)
    box = tuple(_bounds(i, e, analyzer) for i, e in zip(indices, shape, strict=True))
    volume = math.prod(max(0, high - low + 1) for low, high in box)
    return _Access(indices, min(math.prod(used.values()) * lanes, volume), box)


def _unite(accesses: list[_Access]) -> int:
    unique: list[_Access] = []
    for access in accesses:
        same = (
            u
            for u in unique
            if u.elements == access.elements
            and u.box == access.box
            and structural_equal(list(u.indices), list(access.indices), map_free_vars=True)
        )
        if next(same, None) is None:
            unique.append(access)
    if len(unique) == 1:
        return unique[0].elements
    common = math.prod(
        max(high for _, high in dimension) - min(low for low, _ in dimension) + 1
        for dimension in zip(*(access.box for access in unique), strict=True)
    )
    return min(sum(access.elements for access in unique), common)


def footprint_bytes(launch: Launch) -> int | None:
    """Unique bytes read plus written in device memory; None when a shape is symbolic."""
    domains: dict[Any, int] = {}
    analyzer = sym.Analyzer()
    reads: dict[Any, list[_Access]] = {}
    writes: dict[Any, list[_Access]] = {}
    symbolic = False

    def declare(var: Any, low: Any, extent: Any) -> None:
        nonlocal symbolic
        if not isinstance(extent, tirx.IntImm):
            symbolic = True
            return
        domains[var] = int(extent)
        analyzer.bind(var, tvm.ir.Range.from_min_extent(low, extent))

    def loop(stmt: Any, visitor: Any) -> Any:
        declare(stmt.loop_var, stmt.min, stmt.extent)
        return visitor.default_visit(stmt)

    def attribute(stmt: Any, visitor: Any) -> Any:
        if isinstance(stmt.node, tirx.IterVar):
            declare(stmt.node.var, tirx.IntImm(stmt.value.ty, 0), stmt.value)
        return visitor.default_visit(stmt)

    def block(stmt: Any, visitor: Any) -> Any:
        for iter_var in stmt.iter_vars:
            declare(iter_var.var, iter_var.dom.min, iter_var.dom.extent)
        # Regions and predicates only repeat what the body does.
        return (visitor.visit(stmt.init) if stmt.init is not None else None) or visitor.visit(
            stmt.body
        )

    def record(table: dict[Any, list[_Access]], buffer: Any, indices: Any) -> None:
        nonlocal symbolic
        if not _is_device_memory(buffer):
            return
        shape = _static_shape(buffer)
        if shape is None:
            symbolic = True
        else:
            table.setdefault(buffer, []).append(_measure(indices, shape, domains, analyzer))

    def load(node: Any, visitor: Any) -> Any:
        record(reads, node.source, node.indices)
        return visitor.default_visit(node)

    def store(stmt: Any, visitor: Any) -> Any:
        record(writes, stmt.buffer, stmt.indices)
        return visitor.default_visit(stmt)

    structural_visit(
        launch.body,
        [
            (tirx.For, loop),
            (tirx.AttrStmt, attribute),
            (SBlock, block),
            (TensorLoad, load),
            (tirx.BufferStore, store),
        ],
    )
    if symbolic:
        return None
    total = 0
    for table in (reads, writes):
        for buffer, accesses in table.items():
            total += _unite(accesses) * tvm.DataType(buffer.ty.dtype.dtype).itemsize
    return total
