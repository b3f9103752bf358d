"""Whether work-items read only what they wrote in their own memory.

A buffer of scope ``local`` exists once per work-item. In

    for tx in T.thread_binding(7, "threadIdx.x"):     # work-item tx writes L[tx]
        L[tx] = ...
    for ty in T.thread_binding(7, "threadIdx.x"):     # work-item ty reads L[6 - ty]: garbage
        C[ty] = L[6 - ty]

the second loop reads elements that another work-item holds. Schedules can make such code without
an error, and it runs without one.

The check evaluates the indices of all work-items of the first, the middle and the last group. It
finds what is wrong there and proves nothing about what it cannot evaluate (symbolic extents,
indices that depend on data, large loops).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from tvm import ir, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlockRealize
from tvm_ffi import structural_visit

from .expressions import substitute, uses
from .launches import bound_thread, find_launches

_MOST_POINTS = 1 << 21
_SPATIAL = 0

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    tirx.Add: lambda a, b: a + b,
    tirx.Sub: lambda a, b: a - b,
    tirx.Mul: lambda a, b: a * b,
    tirx.FloorDiv: lambda a, b: a // b,
    tirx.FloorMod: lambda a, b: a % b,
    tirx.Min: np.minimum,
    tirx.Max: np.maximum,
}


@dataclass(frozen=True)
class _Access:
    """One read or write of a local buffer, its indices in terms of loops around it."""

    buffer: Any
    indices: tuple[Any, ...]
    loops: tuple[tuple[Any, int, str | None], ...]  # variable, extent, thread tag
    is_write: bool
    shared_tags: frozenset[str]  # a reduction over these axes leaves its result with all of them


def foreign_local_read(func: tirx.PrimFunc) -> str | None:
    """Say which local buffer is read where another work-item wrote it; None when none is found."""
    for launch in find_launches(func):
        accesses = list(_local_accesses(launch.body))
        for buffer in {access.buffer for access in accesses}:
            mine = [access for access in accesses if access.buffer == buffer]
            if _reads_what_others_wrote(mine):
                return (
                    f"work-items read elements of the local buffer '{buffer.name}' that other "
                    "work-items hold"
                )
    return None


def _local_accesses(body: tirx.Stmt) -> Iterator[_Access]:
    loops: list[tuple[Any, Any, str | None]] = []
    values: dict[Any, Any] = {}
    shared: list[frozenset[str]] = [frozenset()]
    found: list[_Access] = []

    def record(buffer: Any, indices: Any, is_write: bool) -> None:
        if buffer.ty.storage_scope != "local":
            return
        if any(not isinstance(extent, tirx.IntImm) for _, extent, _ in loops):
            return
        substituted = tuple(substitute(index, values) for index in indices)
        static = tuple((var, int(extent), tag) for var, extent, tag in loops)
        found.append(_Access(buffer, substituted, static, is_write, shared[-1]))

    def loop(stmt: Any, visitor: Any) -> Any:
        bound = bound_thread(stmt)
        if isinstance(stmt, tirx.For):
            loops.append((stmt.loop_var, stmt.extent, bound[0] if bound else None))
        elif bound is not None:
            loops.append((stmt.node.var, bound[1], bound[0]))
        else:
            return visitor.default_visit(stmt)
        result = visitor.default_visit(stmt)
        loops.pop()
        return result

    def block(stmt: SBlockRealize, visitor: Any) -> Any:
        tags = set(shared[-1])
        for iter_var, value in zip(stmt.block.iter_vars, stmt.iter_values, strict=True):
            values[iter_var.var] = substitute(value, values)
            if int(iter_var.iter_type) != _SPATIAL:
                tags |= {
                    tag
                    for var, _, tag in loops
                    if tag is not None and uses(values[iter_var.var], var)
                }
        shared.append(frozenset(tags))
        result = visitor.default_visit(stmt)
        shared.pop()
        return result

    def access(node: Any, visitor: Any) -> Any:
        is_write = isinstance(node, tirx.BufferStore)
        record(node.buffer if is_write else node.source, node.indices, is_write)
        return visitor.default_visit(node)

    structural_visit(
        body,
        [
            ((tirx.For, tirx.AttrStmt), loop),
            (SBlockRealize, block),
            ((TensorLoad, tirx.BufferStore), access),
        ],
    )
    yield from found


def _reads_what_others_wrote(accesses: list[_Access]) -> bool:
    tags = sorted({t for a in accesses for _, _, t in a.loops if t and t.startswith("threadIdx")})
    grids = {(var, n) for a in accesses for var, n, t in a.loops if t and t.startswith("blockIdx")}
    for groups in _samples(grids):
        written: set[tuple[int, ...]] = set()
        for access in accesses:
            if access.is_write:
                points = _points(access, tags, groups)
                if points is None:
                    return False  # cannot be evaluated: nothing is claimed
                written |= points
        for access in accesses:
            if access.is_write:
                continue
            points = _points(access, tags, groups)
            if points is None:
                return False
            if not all(_held(point, written, len(tags)) for point in points):
                return True
    return False


def _held(point: tuple[int, ...], written: set[tuple[int, ...]], threads: int) -> bool:
    """Whether the work-item of a read wrote that element; -1 stands for all along an axis."""
    if point in written:
        return True
    own = [(-1, position) if position != -1 else (-1,) for position in point[:threads]]
    return any((*choice, *point[threads:]) in written for choice in product(*own))


def _samples(grids: set[tuple[Any, int]]) -> Iterator[dict[Any, int]]:
    for fraction in (0.0, 0.5, 1.0):
        yield {var: int((extent - 1) * fraction) for var, extent in grids}


def _points(
    access: _Access, tags: list[str], groups: dict[Any, int]
) -> set[tuple[int, ...]] | None:
    """(work-item, element) of an access, -1 for a thread axis along which it does not vary."""
    inner = [entry for entry in access.loops if entry[0] not in groups]
    used = [e for e in inner if e[2] in tags or any(uses(i, e[0]) for i in access.indices)]
    if np.prod([n for _, n, _ in used], dtype=np.int64) > _MOST_POINTS:
        return None
    axes = np.meshgrid(*(np.arange(n) for _, n, _ in used), indexing="ij") if used else []
    env: dict[Any, Any] = {var: axis.ravel() for (var, _, _), axis in zip(used, axes, strict=True)}
    env.update(groups)
    size = axes[0].size if axes else 1
    columns = []
    for tag in tags:
        for_all = access.is_write and tag in access.shared_tags
        bound = [var for var, _, t in used if t == tag and not for_all]
        columns.append(np.broadcast_to(env[bound[-1]] if bound else -1, size))
    for index in access.indices:
        value = _evaluate(index, env)
        if value is None:
            return None
        columns.append(np.broadcast_to(value, size))
    if not columns:  # the one element of a buffer without dimensions, whoever asks
        return {()}
    return set(map(tuple, np.unique(np.stack(columns, axis=1), axis=0).tolist()))


def _evaluate(expr: Any, env: dict[Any, Any]) -> Any:
    if isinstance(expr, int):
        return expr
    if isinstance(expr, tirx.IntImm):
        return int(expr)
    if isinstance(expr, ir.Var):
        return env.get(expr)
    if isinstance(expr, tirx.Cast):
        return _evaluate(expr.value, env)
    operator = _BINARY.get(type(expr))
    if operator is None:
        return None
    left, right = _evaluate(expr.a, env), _evaluate(expr.b, env)
    return None if left is None or right is None else operator(left, right)
