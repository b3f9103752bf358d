"""What work-items touch, by enumeration: every point of every work-item, nothing sampled.

Points are one array whose dimensions are the tiles of each axis, the rows of a tile, the loops
inside, and the lanes; the lines of a cache are found by looking every element up in the packed
tensor.
"""

from __future__ import annotations

import math
import operator

import numpy as np
import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad

from smartmem_tvm.analysis.waves import DEEP, GROUP, LONG, group_shape

NOMINAL = 16  # what a symbolic extent counts as
_BINARY = {
    tirx.Add: operator.add,
    tirx.Sub: operator.sub,
    tirx.Mul: operator.mul,
    tirx.FloorDiv: operator.floordiv,
    tirx.FloorMod: operator.mod,
    tirx.Min: np.minimum,
    tirx.Max: np.maximum,
    tirx.LT: operator.lt,
    tirx.LE: operator.le,
    tirx.GT: operator.gt,
    tirx.GE: operator.ge,
    tirx.EQ: operator.eq,
    tirx.NE: operator.ne,
    tirx.And: np.logical_and,
    tirx.Or: np.logical_or,
}


def value_of(expr, values, data):
    """Value of an index or condition at all points; `data` gives tensors that are read for it."""
    if type(expr) in _BINARY:
        left, right = (value_of(e, values, data) for e in (expr.a, expr.b))
        return _BINARY[type(expr)](left, right)
    if isinstance(expr, tirx.IntImm):
        return np.int64(int(expr))
    if isinstance(expr, tvm.ir.Var):
        return values.get(expr, np.int64(NOMINAL))
    if isinstance(expr, tirx.Cast):
        return value_of(expr.value, values, data)
    if isinstance(expr, tirx.Not):
        return np.logical_not(value_of(expr.a, values, data))
    if isinstance(expr, TensorLoad):
        at = tuple(value_of(i, values, data) for i in expr.indices)
        return data[expr.source.name][at]
    if isinstance(expr, tvm.ir.Call) and expr.op.name == "prim.if_then_else":
        condition, true, false = (value_of(a, values, data) for a in expr.args)
        return np.where(condition, true, false)
    raise TypeError(f"{type(expr).__name__}: {expr}")


class Touched:
    """Places of one access in the buffer, -1 where its conditions keep it from happening.

    Attributes
    ----------
    places : array [work-items, rows, loops, lanes]
        Elements from the start of the buffer. Work-items follow each other as in a group.
    conditions : array of the same shape
    kind : str
        As the field of :class:`smartmem_tvm.analysis.transactions.Counts`.
    """

    def __init__(self, model, number, walk, layout, data=None):
        work, position = model.accesses[number]
        part = model.work[work]
        access = part.accesses[position]
        self.itemsize = int(tvm.DataType(str(access.buffer.dtype)).itemsize)
        self.shape = [n if (n := _static(e)) else NOMINAL for e in access.buffer.shape]
        self.layout = layout
        self._table = layout.pack(1 + np.arange(math.prod(self.shape)).reshape(self.shape))
        self.team = walk.team
        self._place(model, part, part is model.work[-1], walk, access, data or {})
        self.kind = self._kind()

    def _place(self, model, part, is_sink, walk, access, data):
        variables = [axis.var for axis in model.work[-1].stage.axes]
        lane = tuple(walk.lane or ())
        dims = []  # (name, extent), of the array of all points
        makers = {}  # values of each variable, from the dimensions' coordinates
        rows = dict(walk.rows)
        tiles, points, loops, lanes = [], [], [], []

        def dim(kind, extent):
            dims.append(extent)
            kind.append(len(dims) - 1)
            return len(dims) - 1

        if lane:
            extent = math.prod(model.extents[d] for d in lane)
            tile, at = dim(tiles, -(-extent // walk.width)), dim(lanes, walk.width)

            def along(c, tile=tile, at=at, extent=extent):
                return np.minimum(c[tile] * walk.width, extent - walk.width) + c[at]

            for place, d in enumerate(lane):
                inner = math.prod(model.extents[o] for o in lane[place + 1 :])
                makers[variables[d]] = lambda c, n=inner, e=model.extents[d]: along(c) // n % e
        outer = [d for d in range(len(model.extents)) if d not in (*lane, *walk.inner)]
        for d, extent in enumerate(model.extents):
            if d in lane:
                continue
            if d in walk.inner:
                if is_sink:
                    self._whole(
                        walk, variables[d], extent, d == walk.inner[-1], dim, makers, loops, lanes
                    )
                else:
                    makers[variables[d]] = lambda c: np.int64(0)
                continue
            size = rows.get(d, 1)
            tile, at = dim(tiles, -(-extent // size)), dim(points, size)
            makers[variables[d]] = lambda c, t=tile, p=at, s=size, e=extent: (
                np.minimum(c[t] * s, e - s) + c[p]
            )
        for var, extent in part.reduced:
            last = var is part.reduced[-1][0]
            self._whole(walk, var, extent, last, dim, makers, loops, lanes)
        coordinates = np.indices(dims, sparse=True)
        values = {var: make(coordinates) for var, make in makers.items()}
        whole = [np.broadcast_to(value_of(i, values, data), dims) for i in access.indices]
        held = np.ones(dims, bool)
        for condition in access.conditions:
            held = held & np.broadcast_to(value_of(condition, values, data), dims)
        axes = [*([lane] if lane else []), *((d,) for d in outer)]
        between, along = _grid_order(axes, walk, [dims[t] for t in tiles])
        self.group = [math.prod(dims[tiles[n]] for n in numbers) for numbers in along]
        grid = [tiles[n] for n in (*between, *along[0], *along[1])]
        order = [*grid, *points, *loops, *lanes]
        sizes = [math.prod(dims[d] for d in kind) for kind in (tiles, points, loops, lanes)]
        whole = [index.transpose(order).reshape(sizes) for index in whole]
        self.conditions = held.transpose(order).reshape(sizes)
        element = np.ravel_multi_index(whole, self.shape, mode="clip") + 1
        positions = np.zeros(self._table.size + 1, np.int64)
        positions[self._table.reshape(-1)] = np.arange(self._table.size)
        self.places = np.where(self.conditions, positions[element], -1)

    @staticmethod
    def _whole(walk, var, extent, last, dim, makers, loops, lanes):
        """An axis that a work-item covers; the last one in vectors where the walk says so."""
        if walk.along_reduction and last and not walk.lane:
            width = min(walk.width, extent)
            at, lane = dim(loops, -(-extent // width)), dim(lanes, width)
            makers[var] = lambda c: np.minimum(c[at] * width, extent - width) + c[lane]
            return
        at = dim(loops, extent)
        makers[var] = lambda c: c[at]

    def _kind(self):
        lanes = self.places.shape[-1]
        if lanes < 2:
            return "pieces"
        if (self.conditions != self.conditions[..., :1]).any():
            return "conditional"
        steps = np.diff(self.places[self.conditions[..., 0]], axis=-1)
        if not steps.any():
            return "shared"
        if (steps != steps.flat[0]).any():
            return "scattered"
        return "pieces" if steps.flat[0] == 1 else "gathered"

    def instructions(self):
        """Vectors that all work-items need, times lanes where each lane is one of its own."""
        lanes = self.places.shape[-1]
        weights = np.random.default_rng(0).integers(1, 1 << 40, lanes)
        vectors = (self.places * weights).sum(axis=-1)
        return _distinct(vectors.transpose(0, 2, 1)) * (
            lanes if self.kind in ("gathered", "scattered", "conditional") else 1
        )

    def lines(self, line):
        """Lines of each work-item, summed over all."""
        return _distinct(self._lines(line).reshape(len(self.places), -1))

    def shared_lines(self, line, subgroup):
        """Lines of each instruction of each subgroup, summed."""
        rows = self.places.shape[1]
        _, moves = np.unique(
            self.places.transpose(1, 0, 2, 3).reshape(rows, -1), axis=0, return_index=True
        )
        found = 0
        for wave in self.waves(subgroup):
            lines = self._lines(line)[wave][:, moves].transpose(1, 2, 0, 3)
            found += _distinct(lines.reshape(*lines.shape[:2], -1))
        return found

    def texels(self):
        """Four elements side by side that work-items read at a time."""
        return _distinct(
            np.where(self.places >= 0, self.places // 4, -1)
            .transpose(0, 3, 1, 2)
            .reshape(len(self.places), -1)
        )

    def wave_lines(self, line, subgroup):
        """Lines of each wave, summed over all."""
        lines = self._lines(line)
        return sum(_distinct(lines[wave].reshape(1, -1)) for wave in self.waves(subgroup))

    def waves(self, subgroup):
        """Numbers of the work-items of each wave: a part of a group, which lies along x and y."""
        numbers = np.arange(len(self.places)).reshape(-1, *self.group)
        if self.team:
            return numbers.reshape(-1, 1)  # the lanes of a team are the subgroup
        along_y, along_x = numbers.shape[1:]
        threads, deep = group_shape(along_x, along_y, max(subgroup, GROUP), DEEP)
        threads = min(threads, subgroup)
        deep = min(deep, subgroup // threads)
        return [
            plane[y : y + deep, x : x + threads].reshape(-1)
            for plane in numbers
            for y in range(0, along_y, deep)
            for x in range(0, along_x, threads)
        ]

    def footprint(self, unit):
        """Bytes of the units that are touched at all."""
        return _distinct(self._lines(unit).reshape(-1)) * unit

    def _lines(self, line):
        return np.where(self.places >= 0, self.places * self.itemsize // line, -1)


def _distinct(values):
    """Distinct values, -1 left out, along the last dimension, summed."""
    ordered = np.sort(values, axis=-1)
    first = ordered[..., 0] >= 0
    return int((np.diff(ordered, axis=-1) != 0)[ordered[..., 1:] >= 0].sum() + first.sum())


def _static(extent):
    return int(extent) if isinstance(extent, tirx.IntImm) else None


def _grid_order(axes, walk, counts):
    """Numbers of the tiles that lie between groups, and of those along y and x of a group."""
    many = [number for number, count in enumerate(counts) if count > 1]
    rows = [d for d, _ in walk.rows]

    def first_of(wanted):
        return [number for number in wanted if number in many][:1]

    fastest = [n for n, axis in enumerate(axes) if walk.fastest in axis]
    lane = [0] if walk.lane else []
    if lane:  # the run of the lanes stands where its last axis does
        many.sort(key=lambda n: axes[n][-1])
    x = first_of([*fastest, *lane, *many[-1:]])
    many = [number for number in many if number not in x]
    y = first_of([*(n for n, axis in enumerate(axes) if axis[0] in rows), *lane, *many[-1:]])
    left = [number for number in many if number not in y]
    for along in (y, x):
        while left and math.prod(counts[n] for n in along) < LONG:
            along.insert(0, left.pop())
    return [n for n in range(len(axes)) if n not in (*x, *y)], (y, x)
