"""Operands of a reduction in local memory, which the work-items of a group fetch together.

::

    for k in range(512):               for ko in range(32):
        s[p, l] += A[8 * y + p, k]         barrier
                 * B[k, 4 * x + l]  →      a, b = what the group reads of A and B in 16 steps, of
                                                  which each work-item fetches its share
                                           barrier
                                           for ki in range(16): s[p, l] += a[y, p, ki] * b[ki, x, l]

What all work-items of a group read in a step is less than what each reads, added up: those side by
side along x share A's elements, those along y share B's. So a group asks memory once for what its
work-items would ask for many times.

An operand is fetched with the choice around it: nothing is read that was not read before. It goes
by texels or by the vectors of the tile where it lies like that, else by elements. Not legal where
work-items leave early or take different numbers of steps: :class:`.grid.Grid` keeps all of them to
the end, and only reductions outside of every other loop are computed like this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad
from tvm_ffi import structural_equal

from smartmem_tvm.analysis.expressions import const, dtype_of, loads_of, static, substitute
from smartmem_tvm.analysis.index_reading import IF_THEN_ELSE

from .lanes import Lane
from .operands import Axes, Operand, as_type_of, number_of, read_operand, step_of
from .statements import loop, loops, private, sequence, when
from .team import barrier

# Requests for each that is left, at least.
WORTH = 2
# Steps of a reduction of which the operands are fetched at once, at most.
MOST_STEPS = 16
# Vectors that a work-item fetches at once whose places it keeps, at most.
MOST_TURNS = 4

Loops = list[tuple[Any, Any]]


@dataclass
class Fetches:
    """A reduction whose operands are fetched together.

    Attributes
    ----------
    values : list
        What is computed in a step, from local memory.
    before : list
        What is computed before all loops.
    statements : list
        What fetches the operands of some steps, barriers included.
    outer, inner : list of (variable, extent)
        Loops over fetches, and over the steps of one.
    split : dict
        The first step of a fetch for each of the old loops' variables, and the variable of the
        steps beyond it, None where there is only one.
    """

    values: list[Any]
    before: list[Any]
    statements: list[Any]
    outer: Loops
    inner: Loops
    split: dict[Any, tuple[Any, Any]]

    def inside(self, body: Any) -> Any:
        """Statements of a step, inside of the new loops."""
        whole = {
            var: first if step is None else first + step
            for var, (first, step) in self.split.items()
        }
        body = loops(self.inner, substitute(body, whole))
        return sequence([*self.before, loops(self.outer, sequence([*self.statements, body]))])


def fetch_together(
    item: Any, values: list[Any], nest: Loops, points: Axes, lanes: list[Lane]
) -> Fetches | None:
    """Fetch operands of values together; None where that saves little or local memory is small.

    Parameters
    ----------
    item
        The work-item.
    values
        What it computes in each step.
    nest
        Loops over the steps.
    points, lanes
        Other loops around the values: the tile's rows; and those of which vectors are made.
    """
    threads = math.prod(n for _, n in item.grid.items)
    extents = [(var, static(extent) or 0) for var, extent in nest]
    if threads < 2 or not all(extent for _, extent in extents):
        return None
    found, steps = _operands(item, values, extents, points, lanes)
    if not _is_worth_it(found, steps, threads):
        return None
    outer, inner, split = _split(item, nest, dict(steps))
    before, fills, loads = [], [], []
    for operand in found:
        places, fill, load = _fill(item, operand, steps, split, threads)
        before += places
        fills.append(fill)
        loads.append(load)

    def local(node: Any) -> Any:
        return next(
            (x for o, x in zip(found, loads, strict=True) if structural_equal(o.part, node)), node
        )

    values = [_visit_parts(value, local) for value in values]
    return Fetches(values, before, [barrier(), *fills, barrier()], outer, inner, split)


def _visit_parts(value: Any, change: Any) -> Any:
    """Value with its loads, or the choices around them, changed."""

    def visit(node: Any, mutator: Any) -> Any:
        is_choice = isinstance(node, tvm.ir.Call) and node.op.same_as(IF_THEN_ELSE)
        if is_choice or isinstance(node, TensorLoad):
            return change(node)
        return mutator.default_mutate(node)

    return tvm_ffi.structural_mutate(value, (tvm.ir.Expr, visit))


def _operands(
    item: Any, values: list[Any], extents: Axes, points: Axes, lanes: list[Lane]
) -> tuple[list[Operand], Axes]:
    """Operands that are worth fetching together, and how many steps of each loop at once."""
    threads = math.prod(n for _, n in item.grid.items)
    most_bytes = item.tile.local_bytes - _taken(item)
    windows = extents
    while True:
        found: list[Operand] = []

        def collect(node: Any, found: list[Operand] = found, windows: Axes = windows) -> Any:
            operand = read_operand(item, node, windows, points, lanes, threads)
            if operand is not None and not any(structural_equal(o.part, node) for o in found):
                found.append(operand)
            return node

        for value in values:
            _visit_parts(value, collect)
        steps = _steps(found, extents, most_bytes)
        # Windows of which too few steps are fetched at once do not overlap.
        apart = [
            w.step for o in found for w in o.windows if not w.overlap(number_of(w.step, steps))
        ]
        if not apart:
            return [o for o in found if o.turns(steps, threads) < o.alone(steps)], steps
        whole = math.prod(n for var, n in extents if any(var.same_as(one) for one in apart))
        item.crowded |= whole <= MOST_STEPS
        windows = [(v, 1 if any(v.same_as(one) for one in apart) else n) for v, n in windows]


def _steps(found: list[Operand], extents: Axes, most_bytes: int) -> Axes:
    """How many steps of each loop are fetched at once, whole inner loops first."""
    steps = [(var, 1) for var, _ in extents]
    left = MOST_STEPS
    for place in reversed(range(len(extents))):
        var, extent = extents[place]
        for count in (n for n in range(min(left, extent), 0, -1) if extent % n == 0):
            steps[place] = (var, count)
            if sum(operand.local_bytes(steps) for operand in found) <= most_bytes:
                break
        if steps[place][1] < extent:
            break
        left //= extent
    return steps


def _taken(item: Any) -> int:
    """Local memory that other reductions of the work-item have, in bytes."""
    tiles = [buffer for buffer in item._buffers if buffer.ty.storage_scope == "shared"]
    return sum(
        math.prod(int(n) for n in tile.shape) * tvm.DataType(str(tile.dtype)).itemsize
        for tile in tiles
    )


def _is_worth_it(found: list[Operand], steps: Axes, threads: int) -> bool:
    fetched = sum(operand.turns(steps, threads) for operand in found)
    return bool(found) and WORTH * fetched <= sum(operand.alone(steps) for operand in found)


def _split(
    item: Any, nest: Loops, steps: dict[Any, int]
) -> tuple[Loops, Loops, dict[Any, tuple[Any, Any]]]:
    """Loops over fetches and over their steps, and what stands for the old variables."""
    outer: Loops = []
    inner: Loops = []
    split: dict[Any, tuple[Any, Any]] = {}
    for var, extent in nest:
        size, whole = const(steps[var], var), const(int(extent) // steps[var], var)
        fetch, step = (tirx.Var(item._name(name), var.ty) for name in ("fetch", "step"))
        for part, count in ((fetch, whole), (step, size)):
            item.analyzer.bind(part, tvm.ir.Range(const(0, part), count))
        if int(whole) > 1:
            outer.append((fetch, whole))
        if int(size) > 1:
            inner.append((step, size))
        first = fetch * size if int(whole) > 1 else const(0, var)
        split[var] = first, step if int(size) > 1 else None
    return outer, inner, split


def _fill(
    item: Any, operand: Operand, steps: Axes, split: dict[Any, tuple[Any, Any]], threads: int
) -> tuple[list[Any], Any, TensorLoad]:
    """How an operand of some steps is fetched, and the load of this work-item's element.

    Of few turns the places are found before the loops over fetches, since they divide.
    """
    # Work-items side by side fetch what lies side by side.
    (load,) = loads_of(operand.unfolded)
    axes = sorted(operand.places(steps), key=lambda axis: step_of(load, axis[0]), reverse=True)
    shape = [*(n for _, n in axes), operand.width]
    tile = private(item._name("tile"), shape, dtype_of(operand.part), "shared")
    item._buffers.append(tile)
    like = item.grid.items[0][0]
    windows = {window.place: window for window in operand.windows}
    own: list[Any] = []
    for var, _ in axes:
        if var in windows:
            own.append(windows[var].own(split[windows[var].step][1]))
        else:
            own.append(split[var][1] if var in split else var)
    own.append(const(0, like) if operand.vector is None else operand.vector.var)
    vectors = math.prod(shape[:-1])
    turn, turns = tirx.Var(item._name("turn"), like.ty), math.ceil(vectors / threads)
    item.analyzer.bind(turn, tvm.ir.Range(const(0, turn), const(turns, turn)))
    before: list[Any] = []
    fetches: list[Any] = []
    ahead = turns <= MOST_TURNS
    numbers = [const(n, turn) for n in range(turns)] if ahead else [turn]
    for number in numbers:
        at_item = number * const(threads, turn) + item.grid.number()
        binds, fetch = _fetch(item, operand, axes, tile, at_item, split)
        some = vectors % threads and number is numbers[-1]
        inside = at_item < const(vectors, turn) if some else None
        before += binds if ahead else []
        fetches.append(when(inside, fetch if ahead else sequence([*binds, fetch])))
    body = sequence(fetches)
    return before, body if ahead else loop(turn, const(turns, turn), body), BufferLoad(tile, own)


def _fetch(
    item: Any,
    operand: Operand,
    axes: Axes,
    tile: Any,
    number: Any,
    split: dict[Any, tuple[Any, Any]],
) -> tuple[list[Any], Any]:
    """Places of one vector, by its number, and the statement that fetches it."""
    binds, at, left = [], {}, math.prod(n for _, n in axes)
    for var, extent in axes:
        left //= extent
        place = tirx.Var(item._name("at"), number.ty)
        item.analyzer.bind(place, tvm.ir.Range(const(0, place), const(extent, place)))
        binds.append(tirx.Bind(place, number // const(left, number) % const(extent, number)))
        at[var] = place
    to: list[Any] = [at[var] for var, _ in axes]
    lane = None
    if operand.vector is None:
        to.append(const(0, number))
    else:
        like = operand.vector.var
        lane = Lane(tirx.Var(item._name("lane"), like.ty), operand.width, item.analyzer)
        at[like] = lane.var
        to.append(lane.var)
    values = {var: as_type_of(var, value) for var, value in at.items()}
    for var, (first, _) in split.items():
        values[var] = first + values[var] if var in at else first
    for window in operand.windows:
        values[window.place] = split[window.step][0] + values[window.place]
    part = substitute(operand.unfolded, values)
    return binds, item._assign(BufferLoad(tile, to), part, [], lane)
