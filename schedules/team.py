"""Reductions by all work-items of a group together, through local memory.

::

    for k in range(1000): s += x[k]    →    for c in range(8): p += x[128 * c + member]
                                            t[member] = p; barrier
                                            for half in 64, 32, …, 1:
                                                if member < half: t[member] += t[member + half]
                                                barrier
                                            s = 0 + t[0]

Legal for the reductions of :mod:`.partial`. Every work-item then knows the result.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad, ForKind

from smartmem_tvm.analysis.computation import Axis, Stage
from smartmem_tvm.analysis.expressions import (
    const,
    dtype_of,
    simplify_indices,
    static,
    substitute,
)
from smartmem_tvm.analysis.reductions import neutral, split_updates
from smartmem_tvm.analysis.texels import LANES

from .builder import Builder
from .scope import Scope
from .statements import loop, private, sequence, when
from .texel_reads import by_texels


def barrier() -> Any:
    """All work-items of the group have finished what stands before."""
    return tirx.Evaluate(tirx.op.tvm_storage_sync("shared"))


def share_of(
    builder: Builder, extents: list[int], member: Any, team: int, like: Any
) -> tuple[tuple[Any, Any], list[Any], Any]:
    """A member's part of some axes: a loop, the values of the axes, when they are inside."""
    total = 1
    for extent in extents:
        total *= extent
    chunk = tirx.Var(builder._name("chunk"), like.ty)
    chunks = const(-(-total // team), chunk)
    builder.analyzer.bind(chunk, tvm.ir.Range(const(0, chunk), chunks))
    mine = member if dtype_of(member) == dtype_of(chunk) else tirx.Cast(dtype_of(chunk), member)
    at = chunk * const(team, chunk) + mine
    inside = at < const(total, chunk) if total % team else None
    values = []
    for position, extent in reversed(list(enumerate(extents))):
        values.append(at if position == 0 else at % const(extent, at))
        at = at // const(extent, at)
    return (chunk, chunks), values[::-1], inside


def together(
    builder: Any,
    stage: Stage,
    values: dict[Any, Any],
    registers: dict[Any, TensorLoad],
    member: Any,
    scope: Any,
    inside: Any,
) -> bool:
    """Reduce a stage by the whole team into `scope`; False where the stage has no such form.

    `inside` is the scope of the member's loop; whatever the operands need goes there.
    """
    team = builder.tile.team
    reduced: list[Axis] = [axis for axis in stage.axes if axis.reduced]
    updates = split_updates(stage)
    # Each member reads whole texels.
    texels = [axis for axis in reduced[-1:] if axis.var in builder.kernel.texels]
    shared_axes = reduced[: len(reduced) - len(texels)]
    extents = [static(axis.extent) for axis in shared_axes]
    if updates is None or any(e is None for e in extents) or not shared_axes:
        return False
    nest, at, condition = share_of(builder, extents, member, team, reduced[-1].var)
    inside.variables = (nest[0], member)
    values = {**values, **{axis.var: value for axis, value in zip(shared_axes, at, strict=True)}}
    lane = builder._fresh_loop(texels[0]) if texels else None
    innermost = inside
    if lane is not None:
        values[texels[0].var] = lane
        innermost = Scope(inside, (lane,), inside.repeats)
    body: list[Any] = []
    after: list[Any] = []
    for store, initial, (combine, operand) in zip(
        stage.stores, stage.initial, updates, strict=True
    ):
        own = builder._private(f"{store.buffer.name}_part", [1], dtype_of(store.buffer))
        part = BufferLoad(own, [tirx.IntImm("int32", 0)])
        shared = private(builder._name("team"), [team], dtype_of(store.buffer), "shared")
        builder._buffers.append(shared)
        scope.statements.append(
            tirx.BufferStore(own, neutral(combine, store, initial), part.indices)
        )
        value = builder._pull(substitute(operand, values), innermost)
        value = by_texels(builder, simplify_indices(value, builder.analyzer), lane, inside)
        body.append(builder._assign(part, combine(part, value), [], None))
        after += [tirx.BufferStore(shared, part, [member]), barrier()]
        half = team
        while half > 1:
            half //= 2
            here = BufferLoad(shared, [member])
            there = BufferLoad(shared, [member + const(half, member)])
            step = tirx.BufferStore(shared, combine(here, there), [member])
            after += [when(member < const(half, member), step), barrier()]
        total = registers[store.buffer]
        first = BufferLoad(shared, [const(0, member)])
        start = builder._pull(substitute(initial, values), scope)
        after.append(tirx.BufferStore(total.source, combine(start, first), total.indices))
        # Before anything is computed for the next one: Intel's compiler for processors (2026.22)
        # loses values that differ from work-item to work-item where they live across a barrier.
        after.append(barrier())
    if lane is not None:
        body = [*innermost.statements, *body]
        body = [loop(lane, const(LANES, lane), sequence(body), ForKind.UNROLLED)]
    whole = when(condition, sequence([*inside.statements, *body]))
    scope.statements.append(loop(nest[0], nest[1], whole))
    scope.statements += after
    return True
