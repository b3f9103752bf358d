"""Costly values of a row, kept from the reduction that computes them first.

::

    for k: S += exp(x[i, k] - M)                    for k: E[k] = exp(x[i, k] - M); S += E[k]
    for j: O[i, j] = exp(x[i, j] - M) / S     →     for j: O[i, j] = E[j] / S

Elementwise values are copied into their readers, so several passes over a row evaluate the same
exponential, error function or quotient. Where ordinary memory is what private memory is made of,
as on a processor, an array of the row's length is cheaper. It is a vector for each element of the
row where lanes run across rows.

Legal where one work-item covers a whole row of constant length by itself, where the values are
equal once the reduced axis is renamed to the inner axis of the sink, and where the first of them
is under no condition: others may be, but the array may always be read. Values that take reductions
of their own at every element of the row are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import tvm
from tvm import sym
from tvm.ir.expr import TensorLoad

from smartmem_tvm.analysis.computation import Axis, Stage
from smartmem_tvm.analysis.expressions import dtype_of, static, uses
from smartmem_tvm.analysis.fused_kernel import Kernel

from .row_passes import Pass, common_value, list_passes, read_from
from .statements import private
from .tile import Tile


@dataclass
class Row:
    """One value of every element of a row.

    Attributes
    ----------
    buffer : tirx.Buffer
        What the kernel loads, at the element's number in the row.
    var, value : tvm.ir.Var, expression
        The sink's inner axis and the value, in variables of the sink.
    lane : int or None
        Axis of the sink across which the array is one of vectors.
    vectors : tirx.Buffer
        The array: `buffer` itself unless it is one of vectors.
    filled : bool
        Whether the statements so far fill all of it. Until then whoever reads an element writes
        it first.
    written : list
        Elements written so far, and the scopes.
    """

    buffer: Any
    var: Any
    value: Any
    lane: int | None
    vectors: Any
    filled: bool = False
    written: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass
class KeptRows:
    """A kernel that reads values of its rows from arrays.

    Attributes
    ----------
    kernel : Kernel
        Loads of the arrays stand where the values stood.
    rows : dict
        What is kept, by what the kernel loads; a value may read those before it.
    passes : list of (Stage, TensorLoad)
        Reductions along the row, in order, and their results in variables of the sink.
    under_way : Stage or None
        The reduction that is being written.
    """

    kernel: Kernel
    rows: dict[Any, Row] = field(default_factory=dict)
    passes: list[tuple[Stage, TensorLoad]] = field(default_factory=list)
    under_way: Stage | None = None


def keep_rows(kernel: Kernel, tile: Tile, most_bytes: int) -> KeptRows:
    """Find the values that are worth an array, as long as all arrays together are small."""
    kept = KeptRows(kernel)
    axis = _row_of(kernel, tile)
    if axis is None or not most_bytes:
        return kept
    analyzer = sym.Analyzer()
    for each in kernel.sink.axes:
        analyzer.bind(each.var, each.range)
    passes = [*list_passes(kernel, axis, analyzer), Pass(kernel.sink, {}, axis.var, None)]
    for number in range(len(passes) - 1):
        while (value := common_value(kernel, passes[number:], analyzer)) is not None:
            row = _array(kernel, tile, axis, value)
            most_bytes -= _bytes(row.vectors)
            if most_bytes < 0:
                break
            kept.rows[row.buffer] = row
            for one in passes[number:]:
                one.stage = read_from(row.buffer, value, one, analyzer)
    kept.passes = [(one.stage, one.result) for one in passes[:-1] if one.result is not None]
    makers = dict(kernel.makers)
    for stage, _ in kept.passes:
        makers.update({store.buffer: stage for store in stage.stores})
    kept.kernel = replace(kernel, makers=makers, sink=passes[-1].stage)
    return kept


def _array(kernel: Kernel, tile: Tile, axis: Axis, value: Any) -> Row:
    dtype = dtype_of(value)
    buffer = private(f"{axis.var.name}_row", [int(axis.extent)], dtype)
    across = tile.lane is not None and uses(value, kernel.sink.axes[tile.lane].var)
    vectors = buffer
    if across:
        vectors = private(f"{axis.var.name}_rows", [int(axis.extent), tile.width], dtype)
    return Row(buffer, axis.var, value, tile.lane if across else None, vectors)


def _bytes(buffer: Any) -> int:
    size = tvm.DataType(dtype_of(buffer)).itemsize
    for extent in buffer.ty.shape:
        size *= int(extent)
    return size


def _row_of(kernel: Kernel, tile: Tile) -> Axis | None:
    """The axis that a work-item covers by itself, None where it is another's too or symbolic."""
    if len(tile.inner) != 1 or tile.team > 1 or tile.rows:
        return None
    axis = kernel.sink.axes[tile.inner[0]]
    return None if (static(axis.extent) or 1) == 1 else axis
