"""Writing and reading the arrays of :mod:`.kept_rows`.

::

    row of 197, vectors of 16       for r in range(12): E[16 * r + lane] = …; S_lanes += E[…]
                                    S = fold(S_lanes)
                                    E[181 + lane] = …                  the last vector overlaps
                                    for r in range(5): S += E[192 + r]
                                    for c in range(13): O[min(16 * c, 181) + lane] = E[…] / S

The reduction that computes a value first fills its array as it goes.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad
from tvm_ffi import structural_equal

from smartmem_tvm.analysis.computation import Stage
from smartmem_tvm.analysis.expressions import const, substitute

from .kept_rows import KeptRows, Row
from .lanes import Lane


def fill_rows(builder: Any, scope: Any) -> None:
    """Write the reductions that fill the arrays, in order, ahead of everything else."""
    kept: KeptRows = builder.kept
    for stage, result in kept.passes if kept.rows else ():
        kept.under_way = stage
        builder._pull(substitute(result, builder.grid.values), scope)
        for row in kept.rows.values():
            row.filled = row.filled or bool(row.written)
    kept.under_way = None


def load_row(builder: Any, load: TensorLoad, scope: Any) -> TensorLoad:
    """Load of an element of an array; the element is computed in `scope` unless all are."""
    row: Row = builder.kept.rows[load.source]
    (index,) = load.indices
    index = builder.analyzer.simplify(index)
    if not row.filled and not any(
        where is scope and structural_equal(at, index) for where, at in row.written
    ):
        row.written.append((scope, index))
        _compute(builder, row, index, scope, scope.lane)
    return _element(builder, row, index)


def finish_rows(builder: Any, stage: Stage, lane: Any, scope: Any) -> None:
    """Fill what vectors along a reduction leave over, by a last vector that ends with the row.

    Elements that it shares with the vector before get the same values again.
    """
    kept: KeptRows = builder.kept
    if stage is not kept.under_way:
        return
    for row in kept.rows.values():
        if row.filled or not row.written:
            continue
        last = Lane(tirx.Var(builder._name("lane"), lane.var.ty), lane.width, builder.analyzer)
        first = const(int(row.buffer.ty.shape[0]) - last.width, last.var)
        _compute(builder, row, first + last.var, scope, last)
        row.filled = True


def values_under_way(builder: Any, stage: Stage) -> list[Any]:
    """Values that a reduction computes for arrays, beside those of its own."""
    kept: KeptRows = builder.kept
    rows = kept.rows.values() if stage is kept.under_way else ()
    return [row.value for row in rows if row.written and not row.filled]


def _compute(builder: Any, row: Row, index: Any, scope: Any, lane: Any) -> None:
    value = substitute(row.value, {**builder.grid.values, row.var: index})
    value = builder._value_in(value, scope, lane)
    if row.lane is not None:
        lane = builder._lane
    elif lane is not None:
        (index,) = lane.along([index])
    scope.statements.append(builder._assign(_element(builder, row, index), value, [], lane))


def _element(builder: Any, row: Row, index: Any) -> TensorLoad:
    place = [index] if row.lane is None else [index, builder._lane.var]
    return BufferLoad(row.vectors, place)
