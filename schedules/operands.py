"""Operands that the work-items of a group can fetch together, and how many vectors of them.

::

    A[8 * y + p, k] in 16 × 4 work-items       the same for those side by side along x: 4 × 8 rows
    X[c, h + i, w + j], steps i and j of 3     neighbours read each other's windows: with h + i and
                                               w + j as axes, 6 × 18 elements instead of 9 × 64
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_walk

from smartmem_tvm.analysis.expressions import const, dtype_of, loads_of, substitute, uses
from smartmem_tvm.analysis.index_maps import simplify_divisions
from smartmem_tvm.analysis.index_reading import IF_THEN_ELSE
from smartmem_tvm.analysis.texels import LANES, is_texture

from .lanes import Lane, element_offset

Axes = list[tuple[Any, int]]


@dataclass
class Window:
    """A step and axes that move along the same elements: a place in all their windows.

    Attributes
    ----------
    place
        Variable that stands for the sum of the step and of the axes, times their strides.
    step
        The variable of the loop of steps.
    axes : list of (variable, extent, stride)
        The axes, in steps.
    """

    place: Any
    step: Any
    axes: list[tuple[Any, int, int]]

    def extent(self, steps: int) -> int:
        """Places in windows of so many steps."""
        return sum((n - 1) * stride for _, n, stride in self.axes) + steps

    def overlap(self, steps: int) -> bool:
        """Whether neighbours share elements in so many steps."""
        return any(stride < steps for _, _, stride in self.axes)

    def own(self, step: Any) -> Any:
        """Place of this work-item in a step; None stands for the first."""
        place = const(0, self.place) if step is None else step
        for var, _, stride in self.axes:
            place = place + as_type_of(place, var) * const(stride, place)
        return place


@dataclass
class Operand:
    """A part of a value that is fetched together.

    Attributes
    ----------
    part
        A load, or a choice around one, as this work-item reads it.
    unfolded
        The same in terms of the work-item's places in its group.
    axes : list of (variable, extent)
        What tells its vectors apart among the work-items of a group in one step.
    steps : list of variable
        Loops of steps that it depends on, those of windows apart.
    windows : list of Window
        Steps that neighbours share their elements along.
    vector : Lane or None
        Variable that runs along a vector of it.
    own : int
        Vectors that one work-item needs in one step.
    """

    part: Any
    unfolded: Any
    axes: Axes
    steps: list[Any]
    windows: list[Window]
    vector: Lane | None
    own: int

    @property
    def width(self) -> int:
        """Lanes of a vector."""
        return 1 if self.vector is None else self.vector.width

    def places(self, steps: Axes) -> Axes:
        """What tells its vectors apart in some steps, and how many there are."""
        return [
            *((var, n) for var, n in steps if n > 1 and any(var.same_as(s) for s in self.steps)),
            *self.axes,
            *((w.place, w.extent(number_of(w.step, steps))) for w in self.windows),
        ]

    def vectors(self, steps: Axes) -> int:
        """Vectors that a group needs in some steps."""
        return math.prod(n for _, n in self.places(steps))

    def alone(self, steps: Axes) -> int:
        """Vectors that a work-item asks for in some steps."""
        own = [*self.steps, *(window.step for window in self.windows)]
        return self.own * math.prod(n for var, n in steps if any(var.same_as(s) for s in own))

    def turns(self, steps: Axes, threads: int) -> int:
        """Vectors that each of the work-items fetches for some steps."""
        return math.ceil(self.vectors(steps) / threads)

    def local_bytes(self, steps: Axes) -> int:
        """Local memory of a group for some steps."""
        return self.vectors(steps) * self.width * tvm.DataType(dtype_of(self.part)).itemsize


def number_of(step: Any, steps: Axes) -> int:
    """How many steps of a loop are fetched at once."""
    return next(n for var, n in steps if var.same_as(step))


def read_operand(
    item: Any, part: Any, steps: Axes, points: Axes, lanes: list[Lane], threads: int
) -> Operand | None:
    """How a part is fetched; None where it cannot be, or where no work-items share any of it.

    Parameters
    ----------
    item
        The work-item.
    part
        A load, or a choice around one.
    steps : list of (variable, extent)
        Loops of steps in whose windows neighbours may share elements, and all others with 1.
    points, lanes
        Other loops around the part: the tile's rows; and those of which vectors are made.
    threads : int
        Work-items of a group.
    """
    loads = loads_of(part)
    if len(loads) != 1 or loads[0].source.ty.storage_scope in ("local", "shared"):
        return None
    unfolded = simplify_divisions(item.grid.unfolded(part), item.analyzer)
    if any(uses(unfolded, atom) for atom in item._atoms):
        return None  # it hides in which work-items it differs
    inside = [*points, *((lane.var, lane.width) for lane in lanes)]
    axes = [(v, n) for v, n in (*inside, *item.grid.items) if n > 1 and uses(unfolded, v)]
    inside = [(v, n) for v, n in axes if any(v.same_as(one) for one, _ in inside)]
    vector = _vector(loads[0], part, lanes)
    if vector is None and is_texture(loads[0].source):
        vector = _across(unfolded, item)
        if vector is None:
            return None
    if vector is not None:
        axes = [(v, n) for v, n in axes if not v.same_as(vector.var)]
        inside = [(v, n) for v, n in inside if not v.same_as(vector.var)]
    own = math.prod(n for _, n in inside)
    shared = math.prod(n for _, n in axes) < threads * own
    used = [var for var, _ in steps if uses(unfolded, var)]
    windows = []
    for var, extent in steps:
        window = _window(item, unfolded, (var, extent), axes) if extent > 1 else None
        if window is not None:
            found, unfolded = window
            windows.append(found)
            moved = [v for v, _, _ in found.axes]
            axes = [(v, n) for v, n in axes if not any(v.same_as(one) for one in moved)]
            used = [v for v in used if not v.same_as(var)]
    if not shared and not windows:
        return None
    return Operand(part, unfolded, axes, used, windows, vector, own)


def _window(item: Any, part: Any, step: tuple[Any, int], axes: Axes) -> tuple[Window, Any] | None:
    """Axes that move along the elements that a step moves along, and the part in terms of places.

    Only where windows overlap: the step goes further than an axis does at a time.
    """
    var, extent = step
    (load,) = loads_of(part)
    along = step_of(load, var)
    strides = [(step_of(load, axis) // along if along else 0, axis, n) for axis, n in axes]
    found, reach = [], extent
    for stride, axis, n in sorted(strides, key=lambda one: one[0]):
        if not 0 < stride < reach:  # between windows lie elements that nobody reads
            continue
        free = tirx.Var("place", var.ty)
        moved = substitute(part, {var: free - as_type_of(var, axis) * const(stride, var)})
        if not uses(item.analyzer.simplify(moved), axis):
            found.append((axis, n, stride))
            reach += (n - 1) * stride
    if not any(stride < extent for _, _, stride in found):
        return None
    place = tirx.Var(item._name("place"), var.ty)
    window = Window(place, var, found)
    item.analyzer.bind(place, tvm.ir.Range(const(0, place), const(window.extent(extent), place)))
    others = sum((as_type_of(var, v) * const(stride, var) for v, _, stride in found), const(0, var))
    part = item.analyzer.simplify(substitute(part, {var: place - others}))
    return None if any(uses(part, v) for v, _, _ in found) else (window, part)


def _vector(load: TensorLoad, part: Any, lanes: list[Lane]) -> Lane | None:
    """Lanes in which elements lie side by side, and of which conditions say the same."""
    choices: list[Any] = []
    structural_walk(part, (tvm.ir.Call, choices.append))
    conditions = [call.args[0] for call in choices if call.op.same_as(IF_THEN_ELSE)]
    for lane in lanes:
        same = all(lane.step(condition) == 0 for condition in conditions)
        if same and lane.stride(load.source, load.indices) == 1:
            return lane
    return None


def _across(part: Any, item: Any) -> Lane | None:
    """Neighbours that each read a lane of the same texel, in terms of their places."""
    (load,) = loads_of(part)
    for var, n in item.grid.items:
        if n == LANES and load.indices[-1].same_as(var):
            lane = Lane(var, LANES, item.analyzer)
            return _vector(load, part, [lane])
    return None


def as_type_of(like: Any, value: Any) -> Any:
    """Integer with the type of another."""
    return value if dtype_of(value) == dtype_of(like) else tirx.Cast(dtype_of(like), value)


def step_of(load: TensorLoad, var: Any) -> int:
    """Elements that a read moves on by, with the first step along a variable."""
    offset = element_offset(load.source, load.indices)
    found: list[Any] = []
    structural_walk(offset, (tvm.ir.Var, found.append))
    first, second = (
        substitute(offset, {v: const(n if v.same_as(var) else 0, v) for v in found}) for n in (0, 1)
    )
    return abs(int(sym.Analyzer().simplify(second - first)))
