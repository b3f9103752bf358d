"""A fused kernel as schedules and layouts see it: reductions that feed one data-parallel sink.

::

    with T.sblock("matmul"): M[i, j] += A[i, k] * B[k, j]       stages   M
    with T.sblock("bias"):   S[i, j] = M[i, j] + C[j]       →   sink     over i, j:
    with T.sblock("relu"):   O[i, j] = max(S[i, j], 0)                   O = max(M + C[j], 0)

Elementwise blocks become part of what reads them. A reduction that writes an output itself gets a
sink that copies its result. Blocks that write outputs over equal domains become one sink.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir.prim import expr as prim
from tvm.s_tir import SBlock
from tvm.tirx import BufferLoad
from tvm_ffi import structural_equal, structural_map, structural_walk

from .computation import (
    Axis,
    OpaqueReason,
    Stage,
    Store,
    fresh_axes,
    is_int,
    point_of,
    read_stages,
    replace_in_stage,
    replace_loads,
    stored_twice,
    substitute_in_stage,
)
from .expressions import dtype_of, loads_of, substitute
from .factored_sums import factor_sums

# Elementwise values are copied into their readers as long as the copies stay small: a value of
# this many nodes, all copies together. Larger ones are computed once into a register.
MOST_COPIED_NODES = 2000


@tvm_ffi.register_error  # so that it passes through callbacks of TVM as itself
class NotAKernel(Exception):
    """A function is not a list of reductions and a sink; the message says why."""


@dataclass(frozen=True)
class Kernel:
    """Stages by the buffer that they write, and the sink.

    Attributes
    ----------
    func : tvm.tirx.PrimFunc
        The function that is scheduled.
    makers : dict
        Stage that computes each buffer that the kernel makes for itself, in order.
    sink : Stage
        Data-parallel; its stores go to the outputs.
    straight : frozenset of variables
        Axes of the sink that are several taken together: every access moves by a constant step
        along them, although its indices divide the axis.
    texels : frozenset of variables
        Axes along the lanes of an image's texels (:mod:`.texels`).
    """

    func: tirx.PrimFunc
    makers: dict[Any, Stage]
    sink: Stage
    straight: frozenset[Any] = frozenset()
    texels: frozenset[Any] = frozenset()

    @property
    def stages(self) -> list[Stage]:
        """Each stage once, in order."""
        found: list[Stage] = []
        for stage in self.makers.values():
            if not any(stage is known for known in found):
                found.append(stage)
        return found

    @property
    def reductions(self) -> list[Stage]:
        """Stages with reduced axes."""
        return [stage for stage in self.stages if stage.is_reduction]


def read_kernel(func: tirx.PrimFunc) -> Kernel:
    """Kernel of an unscheduled function; NotAKernel when it has another form."""
    stages = read_stages(_without_bindings(func))
    if isinstance(stages, OpaqueReason):
        raise NotAKernel(stages.reason)
    stages = [_plain_booleans(stage) for stage in stages]
    outputs = {p for p in func.params if isinstance(p, tirx.Buffer)}
    stages, sinks = _sinks_of(stages, outputs)
    if not sinks:
        raise NotAKernel("no block writes an output")
    for stage in stages:
        _check(stage)
    stages = factor_sums(_inline([*stages, *sinks]))
    sink = _one_sink(stages[len(stages) - len(sinks) :])
    stages = stages[: len(stages) - len(sinks)]
    needed = _needed(stages, sink)
    return Kernel(func, {s.buffer: stage for stage in needed for s in stage.stores}, sink)


def _without_bindings(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Function whose blocks name no values: reductions of several results do.

    ::

        a = A[i] + x[i, k]                       A[i] = A[i] + x[i, k]
        b = B[i] + x[i, k] * x[i, k]        →    B[i] = B[i] + x[i, k] * x[i, k]
        A[i] = a; B[i] = b

    Sound for what :func:`_check` accepts: no value reads another store's result.
    """

    def plain(block: SBlock) -> SBlock:
        if not isinstance(block.body, tirx.SeqStmt):
            return block
        bound: dict[Any, Any] = {}
        rest = []
        for part in block.body.seq:
            if isinstance(part, tirx.Bind):
                bound[part.var] = substitute(part.value, bound)
            else:
                rest.append(substitute(part, bound))
        if not bound or not rest:
            return block
        return SBlock(
            block.iter_vars,
            block.reads,
            block.writes,
            block.name_hint,
            rest[0] if len(rest) == 1 else tirx.SeqStmt(rest),
            block.init,
            block.alloc_buffers,
            block.match_buffers,
            block.annotations,
        )

    body = structural_map(func.body, (SBlock, plain))
    return tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)


def _plain_booleans(stage: Stage) -> Stage:
    """Stage without ``0 < int(condition)``, which is the condition; vectors have no such cast."""

    def plain(node: Any) -> Any:
        inner = node.b if is_int(node.a, 0) else None
        if isinstance(inner, tirx.Cast) and dtype_of(inner.value) == "bool":
            return inner.value
        return node

    def mapped(expr: Any) -> Any:
        return None if expr is None else structural_map(expr, (prim.LT, plain))

    stores = tuple(
        replace(store, value=mapped(store.value), condition=mapped(store.condition))
        for store in stage.stores
    )
    return replace(stage, stores=stores)


def _check(stage: Stage) -> None:
    """Refuse what cannot be computed one element at a time."""
    twice = stored_twice(stage)
    if twice is not None:
        raise NotAKernel(twice)
    for store in stage.stores:
        left = [axis.var for axis in stage.spatial]
        for index in store.indices:
            if any(index.same_as(var) for var in left):
                left = [var for var in left if not var.same_as(index)]
            elif not is_int(index, 0):
                raise NotAKernel(f"block '{stage.name}' writes through the index {index}")
        extents = {axis.var: axis.extent for axis in stage.axes}
        if store.condition is not None or any(not is_int(extents[var], 1) for var in left):
            raise NotAKernel(f"block '{stage.name}' does not write each element once")
    # One after the other, results may read what is stored with them or later: an index that is
    # chosen by the maximum before the maximum itself moves on.
    for number, store in enumerate(stage.stores if stage.is_reduction else ()):
        later = {other.buffer: other for other in stage.stores[number:]}
        for load in loads_of(store.value):
            if not any(load.source.same_as(other.buffer) for other in stage.stores):
                continue
            made = later.get(load.source)
            if made is None or not _same_element(made, load.indices):
                raise NotAKernel(f"block '{stage.name}' reads other elements that it makes")


def _sinks_of(stages: list[Stage], outputs: set[Any]) -> tuple[list[Stage], list[Stage]]:
    """Internal stages, and what writes outputs."""
    internal, sinks = [], []
    for index in range(len(stages)):  # the list changes: what follows reads the copies
        stage = stages[index]
        if not any(store.buffer in outputs for store in stage.stores):
            internal.append(stage)
            continue
        if not all(store.buffer in outputs for store in stage.stores):
            raise NotAKernel(f"block '{stage.name}' writes outputs and intermediate values")
        later = [load.source for s in stages[index + 1 :] for load in s.loads()]
        if not stage.is_reduction and not any(s.buffer in later for s in stage.stores):
            sinks.append(stage)
            continue
        if any(s.buffer in later for s in stage.stores):
            _check(stage)  # its point is found by the element that is read
        # The result is also read, or accumulated: the outputs get a copy of it.
        axes, renamed = fresh_axes(stage.spatial)
        made, copies = [], []
        at = [axis.var for axis in stage.spatial] or [tirx.IntImm("int32", 0)]
        own = {store.buffer: _accumulator(store, stage, at) for store in stage.stores}
        for store in stage.stores:
            value = replace_loads(store.value, own)
            buffer = own[store.buffer](store.indices).source
            made.append(Store(buffer, tuple(at), value, store.condition))
            copies.append(
                Store(
                    store.buffer,
                    tuple(substitute(i, renamed) for i in store.indices),
                    BufferLoad(buffer, [substitute(i, renamed) for i in at]),
                )
            )
        internal.append(replace(stage, stores=tuple(made)))
        sinks.append(Stage(f"{stage.name}_out", axes, tuple(copies)))
        for number in range(index + 1, len(stages)):
            redirect = {
                store.buffer: _redirect(store, copy.buffer, stage)
                for store, copy in zip(stage.stores, made, strict=True)
            }
            stages = [
                *stages[:number],
                replace_in_stage(stages[number], redirect),
                *stages[number + 1 :],
            ]
    return internal, sinks


def _accumulator(store: Store, stage: Stage, at: list[Any]) -> Any:
    """Load of a buffer of the kernel's own that takes a result's place in its reduction."""
    buffer = tirx.decl_buffer(
        [axis.extent for axis in stage.spatial] or [1],
        store.buffer.ty.dtype.dtype,
        f"{store.buffer.name}_value",
        layout=None,
    )

    def load(indices: Any) -> Any:
        if not _same_element(store, indices):
            raise NotAKernel("a reduction reads other elements that it makes")
        return BufferLoad(buffer, at)

    return load


def _redirect(store: Store, made: Any, stage: Stage) -> Any:
    def load(indices: list[Any]) -> Any:
        values = point_of(stage, store.buffer, indices)
        return BufferLoad(made, [values[a.var] for a in stage.spatial] or [tirx.IntImm("int32", 0)])

    return load


def _inline(stages: list[Stage]) -> list[Stage]:
    """Put elementwise stages into those that read them, as long as the copies stay small."""
    for number in range(len(stages)):
        stage = stages[number]
        if stage.is_reduction or number == len(stages) - 1:
            continue
        for store in stage.stores:
            readers = [
                load
                for later in stages[number + 1 :]
                for load in later.loads()
                if load.source.same_as(store.buffer)
            ]
            if len(readers) > 1 and len(readers) * _size(store.value) > MOST_COPIED_NODES:
                continue
            if not readers:
                continue

            def value(indices: list[Any], stage: Stage = stage, store: Store = store) -> Any:
                return substitute(store.value, point_of(stage, store.buffer, indices))

            stages = [
                *stages[: number + 1],
                *(replace_in_stage(later, {store.buffer: value}) for later in stages[number + 1 :]),
            ]
    return stages


def _one_sink(sinks: list[Stage]) -> Stage:
    first, *others = sinks
    stores = list(first.stores)
    for other in others:
        if not _same([a.extent for a in first.axes], [a.extent for a in other.axes]):
            raise NotAKernel(
                f"blocks '{first.name}' and '{other.name}' write outputs over different domains"
            )
        values: dict[Any, Any] = {
            theirs.var: ours.var for ours, theirs in zip(first.axes, other.axes, strict=True)
        }
        stores += substitute_in_stage(other, values).stores
    axes = first.axes
    if not axes:  # one element: a loop of extent 1 keeps the rules simple
        axes = (Axis(tirx.Var("one", "int32"), tirx.IntImm("int32", 1)),)
    return Stage(first.name, axes, tuple(stores))


def _needed(stages: list[Stage], sink: Stage) -> list[Stage]:
    wanted = {load.source for load in sink.loads()}
    kept: list[Stage] = []
    for stage in reversed(stages):
        if any(store.buffer in wanted for store in stage.stores):
            kept.append(stage)
            wanted |= {load.source for load in stage.loads()}
    return kept[::-1]


def _size(expr: Any) -> int:
    count = 0

    def visit(_node: Any) -> None:
        nonlocal count
        count += 1

    structural_walk(expr, visit)
    return count


def _same_element(store: Store, indices: Any) -> bool:
    """Whether indices name the element that is stored; in a dimension of extent 1 all do."""
    return all(
        is_int(extent, 1) or structural_equal(written, asked)
        for written, asked, extent in zip(
            store.indices, indices, store.buffer.ty.shape, strict=True
        )
    )


def _same(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(
        structural_equal(a, b) for a, b in zip(one, other, strict=True)
    )
