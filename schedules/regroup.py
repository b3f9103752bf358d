"""Axes of a kernel's output taken together or apart, so that tiles fit them.

::

    O[c, h, w] = M[c, h, w]       h: 14, w: 14    →    O[c, hw // 14, hw % 14]     hw: 196
    O[c, x] = x[c, x] - S[c // 8]      c: 64      →    O[8 * g + p, x] … S[g]      g: 8, p: 8

Neighbouring axes become one where every access then moves by a constant step; an axis whose
quotient is all that stages are read by is split, so that the quotient is an axis of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.ir.prim import expr as prim
from tvm_ffi import structural_map, structural_walk

from smartmem_tvm.analysis.computation import Axis
from smartmem_tvm.analysis.expressions import const, static, uses
from smartmem_tvm.analysis.fused_kernel import Kernel
from smartmem_tvm.analysis.kernel_work import bounds_of, list_work
from smartmem_tvm.analysis.loop_orders import with_axes
from smartmem_tvm.analysis.texels import split_texels

from .lanes import Lane


def regroup(kernel: Kernel) -> Kernel:
    """Kernel with its sink's axes split and fused."""
    kernel = split_texels(_split_quotients(kernel))
    position = len(kernel.sink.axes) - 2
    while position >= 0:
        fused = _fuse(kernel, position)
        kernel = kernel if fused is None else fused
        position -= 1
    return kernel


def _with_axes(kernel: Kernel, axes: tuple[Axis, ...], values: dict[Any, Any]) -> Kernel:
    """Kernel whose sink's old axis variables are expressions of new ones."""
    return replace(kernel, sink=with_axes(kernel.sink, axes, values))


def _fuse(kernel: Kernel, position: int) -> Kernel | None:
    """Kernel with two neighbouring axes as one, None where an access would not run straight."""
    axes = kernel.sink.axes
    one, other = axes[position], axes[position + 1]
    if one.var in kernel.texels or other.var in kernel.texels:
        return None
    extents = static(one.extent), static(other.extent)
    if extents[0] is None or extents[1] is None or one.var.ty != other.var.ty:
        return None
    var = tirx.Var(f"{one.var.name}_{other.var.name}", one.var.ty)
    inner = const(extents[1], var)
    values = {one.var: var // inner, other.var: var % inner}
    if extents[0] == 1:
        values = {one.var: const(0, var), other.var: var}
    elif extents[1] == 1:
        values = {one.var: var, other.var: const(0, var)}
    merged = Axis(var, const(extents[0] * extents[1], var))
    fused = _with_axes(kernel, (*axes[:position], merged, *axes[position + 2 :]), values)
    if 1 in extents:
        straight = kernel.straight & {one.var, other.var}
        return replace(
            fused, straight=(kernel.straight - straight) | ({var} if straight else set())
        )
    work = list_work(fused)
    lane = Lane(var, extents[0] * extents[1], bounds_of(fused, work))
    for part in work:
        for access in part.accesses:
            if any(uses(condition, var) for condition in access.conditions):
                return None
            if lane.stride(access.buffer, access.indices) is None:
                return None
    if not _same_users(kernel, position):
        return None
    straight = (kernel.straight - {one.var, other.var}) | {var}
    return replace(fused, straight=straight)


def _same_users(kernel: Kernel, position: int) -> bool:
    """Whether every stage is read along both axes or along neither."""
    return all(
        (position in part.axes) == (position + 1 in part.axes) for part in list_work(kernel)[:-1]
    )


def _split_quotients(kernel: Kernel) -> Kernel:
    """Kernel whose stages are read by axes, not by quotients of them."""
    for position, axis in enumerate(kernel.sink.axes):
        size = _only_quotient(kernel, axis)
        if size is None:
            continue
        extent = int(axis.extent)
        outer = Axis(tirx.Var(f"{axis.var.name}_o", axis.var.ty), const(extent // size, axis.var))
        inner = Axis(tirx.Var(f"{axis.var.name}_i", axis.var.ty), const(size, axis.var))
        axes = (*kernel.sink.axes[:position], outer, inner, *kernel.sink.axes[position + 1 :])
        values = {axis.var: outer.var * const(size, axis.var) + inner.var}
        return _split_quotients(_with_axes(kernel, axes, values))
    return kernel


def _only_quotient(kernel: Kernel, axis: Axis) -> int | None:
    """Divisor of the axis in all reads of stages that use it; None when there is no single one."""
    extent = static(axis.extent)
    divisors: set[int] = set()
    for store in kernel.sink.stores:
        loads: list[TensorLoad] = []
        structural_walk(store.value, (TensorLoad, loads.append))
        for load in loads:
            if load.source not in kernel.makers:
                continue
            for index in load.indices:
                if not uses(index, axis.var):
                    continue
                quotients: list[Any] = []
                structural_walk(index, (prim.FloorDiv, quotients.append))
                hits = [q for q in quotients if q.a.same_as(axis.var)]
                if len(hits) != 1 or static(hits[0].b) is None:
                    return None
                if _uses_beside_quotients(index, axis.var):
                    return None
                divisors.add(int(hits[0].b))
    if len(divisors) != 1 or extent is None:
        return None
    (size,) = divisors
    return size if size > 1 and extent % size == 0 and size < extent else None


def _uses_beside_quotients(index: Any, var: Any) -> bool:
    plain = tirx.Var("quotient", var.ty)
    rest = structural_map(index, (prim.FloorDiv, lambda q: plain if q.a.same_as(var) else q))
    return uses(rest, var)
