"""Reductions along vector lanes: one partial result per lane, combined at the end.

::

    for k in range(70): s += x[k]          →    for k, l in (4, vector 16): p[l] += x[16 * k + l]
                                                s = 0 + p[0] + … + p[15]
                                                for k in range(6): s += x[64 + k]

Legal for reductions whose update combines the old value with an operand that does not read it, by
an operator that may be reordered: sum, product, maximum, minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from smartmem_tvm.analysis.computation import Axis, Stage
from smartmem_tvm.analysis.expressions import const, loads_of, static, substitute
from smartmem_tvm.analysis.reductions import neutral, split_updates

from .lanes import Lane


@dataclass(frozen=True)
class Partial:
    """A reduction along lanes.

    Attributes
    ----------
    lane : Lane
        The lanes.
    nest, values : list, dict
        Loops around a vector, and the values of all axes inside.
    tail, tail_values : list, dict
        The same for what is left over; no loops when nothing is.
    hidden, atoms : list
        Statements at the start of the nest, and the variables whose values they keep.
    operands, combines, starts : list
        Of each store: what is combined with the old value, the operator and its neutral value.
    """

    lane: Lane
    nest: list[tuple[Any, Any]]
    values: dict[Any, Any]
    tail: list[tuple[Any, Any]]
    tail_values: dict[Any, Any]
    operands: list[Any]
    combines: list[Callable[[Any, Any], Any]]
    starts: list[Any]
    hidden: list[Any]
    atoms: list[Any]


def partial_of(
    builder: Any, stage: Stage, values: dict[Any, Any], reduced: list[Axis]
) -> Partial | None:
    """The reduction along lanes, None where it has no such form or gains nothing."""
    updates = split_updates(stage)
    if updates is None:
        return None
    extents = [static(axis.extent) for axis in reduced]
    if any(extent is None for extent in extents):
        return None
    operands = [operand for _, operand in updates]
    widest: Any = None
    for fused in range(1, len(reduced) + 1):
        found = _along_last(builder, stage, values, reduced, fused, operands)
        if found is not None and (widest is None or found[0].width > widest[0].width):
            widest = found
        if widest is not None and widest[0].width == builder.tile.inner_width:
            break
    if widest is None:
        return None
    lane, nest, inside, tail, rest, hidden = widest
    starts = [
        neutral(operator, store, initial)
        for (operator, _), store, initial in zip(updates, stage.stores, stage.initial, strict=True)
    ]
    combines = [operator for operator, _ in updates]
    kept = [builder._hide(atom, value) for atom, value in hidden]
    atoms = [atom for atom, _ in hidden]
    return Partial(lane, nest, inside, tail, rest, operands, combines, starts, kept, atoms)


def _along_last(
    builder: Any,
    stage: Stage,
    values: dict[Any, Any],
    reduced: list[Axis],
    fused: int,
    operands: list[Any],
) -> Any:
    """Lanes along the last `fused` reduced axes taken as one; None where loads do not allow it."""
    head, last = reduced[: len(reduced) - fused], reduced[len(reduced) - fused :]
    extent = 1
    for axis in last:
        extent *= int(axis.extent)
    width = builder.tile.inner_width
    while width > extent:
        width //= 2
    if width < 2:
        return None
    like = last[-1].var
    analyzer = builder.analyzer
    lane = Lane(tirx.Var(builder._name("lane"), like.ty), width, analyzer)
    chunk = tirx.Var(builder._name("r"), like.ty)
    chunks = extent // width
    analyzer.bind(chunk, tvm.ir.Range(const(0, chunk), const(chunks, chunk)))
    outer = [(builder._fresh_loop(axis), axis) for axis in head]
    around = {**values, **{axis.var: var for var, axis in outer}}

    def at(position: Any) -> dict[Any, Any]:
        inside, rest = dict(around), position
        for axis in reversed(last):
            one = axis is last[0]
            inside[axis.var] = rest if one else rest % const(int(axis.extent), rest)
            rest = rest if one else rest // const(int(axis.extent), rest)
        return inside

    begin, hidden = chunk * const(width, chunk), []
    if fused > 1:
        atom = tirx.Var(builder._name("first"), like.ty)
        analyzer.bind(atom, tvm.ir.Range(const(0, atom), const((chunks - 1) * width + 1, atom)))
        hidden.append((atom, begin))
        begin = atom
    inside = at(begin + lane.var)
    strides = []
    for operand in operands:
        strides += [
            lane.stride(load.source, load.indices)
            for load in loads_of(substitute(operand, inside))
            if load.source not in builder.kernel.makers
        ]
    if any(stride not in (0, 1) for stride in strides) or not any(strides):
        return None
    nest = [(var, axis.extent) for var, axis in outer]
    tail: list[tuple[Any, Any]] = []
    rest: dict[Any, Any] = {}
    if extent % width:
        left = tirx.Var(builder._name("r"), like.ty)
        analyzer.bind(left, tvm.ir.Range(const(0, left), const(extent % width, left)))
        again = [(builder._fresh_loop(axis), axis) for axis in head]
        around = {**values, **{axis.var: var for var, axis in again}}
        rest = at(left + const(chunks * width, left))
        tail = [*((var, axis.extent) for var, axis in again), (left, const(extent % width, left))]
    return lane, [*nest, (chunk, const(chunks, chunk))], inside, tail, rest, hidden
