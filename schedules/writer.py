"""Stores of a work-item: of one point, of a vector, of a tile whose edge another one owns."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad, ForKind

from smartmem_tvm.analysis.expressions import const, dtype_of, substitute, uses

from .arithmetic import by_arithmetic
from .builder import MOST_UNROLLED, Builder, Prelude, size_of
from .grid import Grid
from .lanes import Lane
from .statements import both, loop, sequence, when
from .tile import Tile

WIDE = ("int64", "uint64")


class Writer(Builder):
    """Writes what a work-item has computed.

    Attributes
    ----------
    tile : Tile
        What the work-item computes.
    grid : Grid
        Where it is.
    """

    grid: Grid

    def __init__(self, tile: Tile) -> None:
        super().__init__()
        self.tile = tile
        self._rows: list[tuple[Any, int]] = []
        self._lane: Lane | None = None

    def _write(self, stores: list[Any], lane: Lane | None) -> list[Any]:
        """Stores of all points of the tile."""
        row_condition = None
        for d, _ in self.tile.rows:
            if d in self.grid.fresh:
                row_condition = both(row_condition, self.grid.fresh[d])
        own = self.tile.lane if lane is self._lane else None
        part = self.grid.fresh.get(own) if own is not None else None
        statements = []
        for store in stores:
            if lane is None:
                body = self._one_store(store)
            else:
                body = self._lane_store(store, lane, part, own)
            statements.append(self._over_rows(when(row_condition, body), ForKind.UNROLLED))
        return statements

    def _one_store(self, store: Any) -> Any:
        buffer, indices, value, condition = store
        simple = self.analyzer.simplify
        before = Prelude()
        value = by_arithmetic(value, lambda e: self._kept(e, None, before))
        if dtype_of(buffer) in WIDE and not isinstance(value, TensorLoad):
            # Else it is computed as wide as it is stored, also where fewer bits hold it.
            value = self._once(value, before)
        body = tirx.BufferStore(buffer, value, [simple(i) for i in indices])
        return when(condition, sequence([*before.statements, body]))

    def _lane_store(self, store: Any, lane: Lane, part: Any, own: int | None) -> Any:
        buffer, indices, value, condition = store
        if condition is not None and lane.step(condition) == 0:
            condition = substitute(condition, {lane.var: const(0, lane.var)})  # for all lanes
        if condition is not None and uses(condition, lane.var):
            one = when(both(part, condition), self._one_store((buffer, indices, value, None)))
            copies = lane.width * math.prod(n for _, n in self._rows)
            kind = ForKind.UNROLLED if copies * size_of(one) <= MOST_UNROLLED else ForKind.SERIAL
            return loop(lane.var, const(lane.width, lane.var), one, kind)
        before = Prelude(math.prod(n for _, n in self._rows))
        value = by_arithmetic(value, lambda e: self._kept(e, lane, before))
        vector = self._vector(value, lane, before)
        contiguous = lane.stride(buffer, indices) == 1
        width = const(lane.width, lane.var)
        places = lane.along(indices)
        if contiguous and part is None:
            direct = tirx.BufferStore(buffer, vector, places)
            stored = loop(lane.var, width, direct, ForKind.VECTORIZED)
            return when(condition, sequence([*before.statements, stored]))
        kept = self._private("result", [lane.width], dtype_of(value))
        here = BufferLoad(kept, [lane.var])
        keep = loop(lane.var, width, tirx.BufferStore(kept, vector, [lane.var]), ForKind.VECTORIZED)
        one = tirx.BufferStore(buffer, here, list(indices))
        apart = loop(lane.var, width, when(part, one))
        if contiguous and own is not None:
            direct = tirx.BufferStore(buffer, here, places)
            whole = loop(lane.var, width, direct, ForKind.VECTORIZED)
            apart = tirx.IfThenElse(self.grid.whole(own), whole, apart)
        return when(condition, sequence([*before.statements, keep, apart]))
