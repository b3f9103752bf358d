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
        order = [*_grid_order(tiles, lane, points, dims), *points, *loops, *lanes]
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
        items, rows = self.places.shape[:2]
        subgroup = 1 if self.team else subgroup  # the lanes of a team are the subgroup
        _, moves = np.unique(
            self.places.transpose(1, 0, 2, 3).reshape(rows, -1), axis=0, return_index=True
        )
        found = 0
        for first in range(0, items, subgroup):
            lines = self._lines(line)[first : first + subgroup, moves].transpose(1, 2, 0, 3)
            found += _distinct(lines.reshape(*lines.shape[:2], -1))
        return found

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


def _grid_order(tiles, lane, points, dims):
    """Dimensions of tiles, those last along which neighbours in a group lie."""
    first = tiles[0] if lane else tiles[-1]
    rows = [t for t in tiles if t + 1 in points and dims[t + 1] > 1 and t != first]
    rest = [t for t in tiles if t != first and t not in rows]
    return [*rest, *rows, first]
