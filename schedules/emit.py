"""The statements of one work-item, from a kernel and a tile.

::

    stages  M[i, j] += A[i, k] * B[k, j]        acc[4, 16] = 0
    sink    O[i, j] = max(M[i, j], 0)       →   for k: for p in unroll(4): for l in vector(16):
    tile    rows i: 4, lanes j: 16                  acc[p, l] += A[4 * y + p, k] * B[k, 16 * x + l]
                                                for p: for l: O[…] = max(acc[p, l], 0)

Whatever a value reads from a stage is computed just before it, at the outermost loop where its
indices are known, into registers that have one element for each point of the tile that the indices
name. So a kernel is always one launch, and no intermediate value is kept in memory. Where a stage
is read at indices that belong to an inner loop it is computed anew for each of them;
:attr:`WorkItem.operations` says what that amounts to.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad, ForKind
from tvm_ffi import structural_equal, structural_map, structural_walk

from smartmem_tvm.analysis.computation import Axis, Stage, point_of, replace_loads
from smartmem_tvm.analysis.expressions import (
    const,
    dtype_of,
    simplify_indices,
    static,
    substitute,
    uses,
)
from smartmem_tvm.analysis.fused_kernel import Kernel
from smartmem_tvm.analysis.texels import LANES, axis_of_texels

from .builder import MOST_UNROLLED, size_of
from .by_lanes import reduce_by_lanes
from .grid import Grid
from .hoisting import hoisted
from .kept_rows import keep_rows
from .lanes import Lane
from .local_tiles import fetch_together
from .partial import partial_of
from .row_filling import fill_rows, load_row, values_under_way
from .scope import Scope
from .statements import kernel_function, loops, sequence, size_written, when, work_item
from .team import share_of, together
from .texel_reads import by_texels
from .tile import Tile
from .writer import Writer

ZERO = tirx.IntImm("int32", 0)
# Work-items of a kernel of float16, at least: Intel's compiler for processors (2026.22) ends with a
# segmentation fault where a kernel converts vectors of half and asks for no work-item's number.
LEAST_OF_HALF = 2
# Expressions of a source below 64 KB, which compilers of phones take: up to eleven bytes each.
LONGEST_SOURCE = 6000


class WorkItem(Writer):
    """Builds the statements of one work-item.

    Parameters
    ----------
    kernel, tile
        What is computed, and the part that one work-item computes.
    row_bytes : int
        Private memory for values of a row that several loops need; see :mod:`.kept_rows`.

    Attributes
    ----------
    operations : int
        Updates of reductions that all work-items execute together; symbolic extents count as 1.
    """

    def __init__(self, kernel: Kernel, tile: Tile, row_bytes: int = 0) -> None:
        super().__init__(tile)
        self._whole, self._row_bytes = kernel, row_bytes
        self.kept = keep_rows(kernel, tile, row_bytes)
        self._buffers += [row.vectors for row in self.kept.rows.values()]
        self.kernel = kernel = self.kept.kernel
        for axis in kernel.sink.axes:
            if static(axis.extent) is None:
                self._positive(axis.extent)
        buffers = [p for p in kernel.func.params if isinstance(p, tirx.Buffer)]
        least = LEAST_OF_HALF if any(dtype_of(p) == "float16" for p in buffers) else 1
        self.grid = Grid(kernel.sink.axes, tile, self.analyzer, kernel.straight, least)
        self.operations = 0
        self.crowded = False  # local memory is too small for the windows of a group
        self._items = tile.count([static(axis.extent) or 1 for axis in kernel.sink.axes])
        rows = [d for d, _ in tile.rows if d in self.grid.points]
        self._rows = [(self.grid.points[d], tile.size(d)) for d in rows]
        lane = tile.lane if tile.lane in self.grid.points else None
        self._lane = None
        if lane is not None:
            self._lane = Lane(self.grid.points[lane], tile.width, self.analyzer)

    def schedule(self) -> tuple[s_tir.Schedule, Tile]:
        """Schedule of the kernel, and its tile: smaller where the source would become too long."""
        hidden = [self._hide(var, value) for var, value in self.grid.atoms]
        body = sequence([*hidden, *self._sink()])
        body = self.grid.inside([substitute(body, self._atoms)])
        smaller = self.tile.smaller()
        if (
            smaller is not None
            and self._same_texels(smaller)
            and size_written(body) > LONGEST_SOURCE
        ):
            return WorkItem(self._whole, smaller, self._row_bytes).schedule()
        item = work_item(body, self._buffers)
        func = kernel_function(self.kernel.func, self.grid.launch(item))
        return s_tir.Schedule(func), self.tile

    def _same_texels(self, tile: Tile) -> bool:
        """Whether a work-item of another tile still writes whole texels."""
        widths = [(t.lane, t.width, t.inner_width) for t in (tile, self.tile)]
        return axis_of_texels(self.kernel) is None or widths[0] == widths[1]

    def _positive(self, extent: Any) -> None:
        found: list[Any] = []
        structural_walk(extent, (tvm.ir.Var, found.append))
        for var in found:
            self.analyzer.bind(var, tvm.ir.Range(const(1, var), const(2**31 - 1, var)), True)

    # ---- the sink ---------------------------------------------------------------------------

    def _sink(self) -> list[Any]:
        sink, tile = self.kernel.sink, self.tile
        outermost = Scope(None, (), self._items)
        values = dict(self.grid.values)
        fill_rows(self, outermost)
        inner = [sink.axes[d] for d in tile.inner]
        lane, nest, first, others, shared = self._lane, [], [], None, False
        texels = bool(inner) and inner[-1].var in self.kernel.texels
        inner_width = LANES if tile.team > 1 and texels else tile.inner_width
        for number, axis in enumerate(inner):
            extent = static(axis.extent)
            last = number == len(inner) - 1
            if last and extent is not None and inner_width > 1 and extent >= inner_width:
                width = inner_width
                var = tirx.Var(self._name("c"), axis.var.ty)
                chunks = -(-extent // width)
                self.analyzer.bind(var, tvm.ir.Range(const(0, var), const(chunks, var)))
                lane = Lane(tirx.Var(self._name("lane"), axis.var.ty), width, self.analyzer)
                begin = var * const(width, var)
                if extent % width:  # the last vector overlaps the one before: same values again
                    begin = tirx.min(begin, const(extent - width, var))
                if axis.var in self.kernel.straight:
                    atom = tirx.Var(self._name("first"), axis.var.ty)
                    last_first = const(extent - width + 1, atom)
                    self.analyzer.bind(atom, tvm.ir.Range(const(0, atom), last_first))
                    first.append(self._hide(atom, begin))
                    begin = atom
                values[axis.var] = begin + lane.var
                nest.append((var, const(chunks, var)))
            elif tile.team > 1 and number == len(inner) - 1 - texels and extent is not None:
                shared, member = True, self.grid.member
                share, (at,), others = share_of(self, [extent], member, tile.team, axis.var)
                values[axis.var] = at
                nest.append(share)
            else:
                var = self._fresh_loop(axis)
                values[axis.var] = var
                nest.append((var, axis.extent))
        if tile.team > 1 and not shared:
            others = self.grid.member < const(1, self.grid.member)  # one of them stores
        if tile.local_bytes:
            others = self.grid.condition
        repeats = self._items
        for _, extent in nest:
            repeats *= static(extent) or 1
        scope = outermost
        if nest:
            hidden = [v for v in self._atoms if not any(v.same_as(a) for a, _ in self.grid.atoms)]
            scope = Scope(outermost, (*(var for var, _ in nest), *hidden), repeats, [*first])
        stores = []
        for store in sink.stores:
            condition = None
            if store.condition is not None:
                condition = self._pull(substitute(store.condition, values), scope)
            value = self._pull(substitute(store.value, values), scope)
            value = self._hoisted(value, scope, lane if lane is not self._lane else None)
            indices = [self._pull(substitute(i, values), scope) for i in store.indices]
            stores.append((store.buffer, indices, value, condition))
        written = self._write(stores, lane)
        if not nest:
            return [*outermost.statements, when(others, sequence(written))]
        each = when(others, sequence([*scope.statements, *written]))
        return [*outermost.statements, loops(nest, each)]

    # ---- stages -----------------------------------------------------------------------------

    def _pull(self, expr: Any, scope: Scope) -> Any:
        """Expression whose loads of stages are loads of registers, computed in `scope`."""

        def replace(load: TensorLoad) -> Any:
            if load.source in self.kept.rows:
                return load_row(self, load, scope)
            stage = self.kernel.makers.get(load.source)
            if stage is None:
                return load
            return self._result(stage, load, scope)

        return structural_map(expr, (TensorLoad, replace))

    def _result(self, stage: Stage, load: TensorLoad, scope: Scope) -> Any:
        point = point_of(stage, load.source, list(load.indices))
        at = [self._inside(point[axis.var], axis) for axis in stage.spatial]
        while scope.parent is not None and not any(
            uses(value, var) for var in scope.variables for value in at
        ):
            scope = scope.parent
        seen: Scope | None = scope
        while seen is not None:
            for made, where, registers in seen.results:
                if made is stage and all(
                    structural_equal(a, b) for a, b in zip(at, where, strict=True)
                ):
                    return registers[load.source]
            seen = seen.parent
        registers = self._compute(stage, at, scope)
        scope.results.append((stage, at, registers))
        return registers[load.source]

    def _value_in(self, expr: Any, scope: Scope, lane: Lane | None = None) -> Any:
        """Expression as it is computed in a scope, whose loops run around it."""
        value = self._hoisted(self._pull(expr, scope), scope, lane)
        return simplify_indices(value, self.analyzer)

    def _hoisted(self, value: Any, scope: Scope, lane: Lane | None = None) -> Any:
        """Value of which parts that no loop inside changes are computed before the loops."""
        outside = scope.parent
        if outside is None:
            return value
        inner = (*scope.variables, *(() if lane is None else (lane.var,)))
        return hoisted(value, inner, lambda part: self._register(part, outside))

    def _register(self, value: Any, scope: Scope) -> Any:
        """Compute a value in a scope; returns its register's load."""
        for made, load in scope.values:
            if structural_equal(made, value):
                return load
        rows, lane, shape, place = self._extent_of([value])
        load = BufferLoad(self._private("hoisted", shape, dtype_of(value)), place)
        scope.statements.append(self._assign(load, value, rows, lane))
        scope.values.append((value, load))
        return load

    def _extent_of(self, values: list[Any]) -> tuple[list[Any], Lane | None, list[int], list[Any]]:
        """Rows and lane of the tile that values depend on, and a register's shape and place."""
        rows = [(var, n) for var, n in self._rows if any(uses(value, var) for value in values)]
        lane = self._lane
        if lane is not None and not any(uses(value, lane.var) for value in values):
            lane = None
        shape = [n for _, n in rows] + ([lane.width] if lane is not None else [])
        place = [var for var, _ in rows] + ([lane.var] if lane is not None else [])
        return (rows, lane, shape, place) if place else (rows, lane, [1], [ZERO])

    def _inside(self, value: Any, axis: Axis) -> Any:
        """Index that is inside the axis whatever the condition around the load was."""
        value = self.analyzer.simplify(value)
        if dtype_of(value) != dtype_of(axis.var):
            value = tirx.Cast(dtype_of(axis.var), value)
        last = axis.extent - const(1, axis.extent)
        zero = const(0, axis.var)
        if not self.analyzer.can_prove(value <= last):
            value = tirx.min(value, last)
        if not self.analyzer.can_prove(value >= zero):
            value = tirx.max(value, zero)
        return value

    def _compute(self, stage: Stage, at: list[Any], scope: Scope) -> dict[Any, Any]:
        """Put the computation of a stage's element into a scope; returns its registers' loads."""
        rows, lane, shape, place = self._extent_of(at)
        registers = {
            store.buffer: BufferLoad(
                self._private(store.buffer.name, shape, dtype_of(store.buffer)), place
            )
            for store in stage.stores
        }
        values = {axis.var: value for axis, value in zip(stage.spatial, at, strict=True)}
        reduced = self._reduced(stage)
        if self.tile.team > 1 and scope.parent is None:
            inside = Scope(scope, (), scope.repeats)
            if together(self, stage, values, registers, self.grid.member, scope, inside):
                return registers
        partial = None
        if lane is None and self.tile.inner_width > 1 and reduced:
            partial = partial_of(self, stage, values, reduced)
        if partial is not None:
            reduce_by_lanes(self, stage, partial, registers, rows, scope)
            return registers
        nest = []
        for axis in reduced:
            values[axis.var] = self._fresh_loop(axis)
            nest.append((values[axis.var], axis.extent))
        texels = nest[-1][0] if nest and reduced[-1].var in self.kernel.texels else None
        parts = [nest[:-1], nest[-1:]] if texels is not None else [nest]
        repeats = scope.repeats
        for _, extent in nest:
            repeats *= static(extent) or 1
        nested = [scope]
        for part in parts if nest else []:
            nested.append(Scope(nested[-1], tuple(var for var, _ in part), repeats))
        inside = nested[-1]
        if stage.is_reduction:
            for store, initial in zip(stage.stores, stage.initial, strict=True):
                start = self._pull(substitute(initial, values), scope)
                scope.statements.append(self._assign(registers[store.buffer], start, rows, lane))
        updates = []
        own = {b: lambda _i, register=register: register for b, register in registers.items()}
        wanted = [replace_loads(substitute(store.value, values), own) for store in stage.stores]
        wanted = [self._value_in(value, inside) for value in wanted]
        fetches = None
        if self.tile.local_bytes and scope.parent is None and nest:
            lanes = [] if texels is None else [Lane(texels, LANES, self.analyzer)]
            lanes += [] if lane is None else [lane]
            fetches = fetch_together(self, wanted, parts[0], rows, lanes)
            wanted = wanted if fetches is None else fetches.values
        for store, value in zip(stage.stores, wanted, strict=True):
            value = by_texels(self, value, texels, nested[-2] if nest else scope)
            value = by_texels(self, value, None if lane is None else lane.var, inside)
            updates.append(self._assign(registers[store.buffer], value, rows, lane))
        points = 1
        for n in shape:
            points *= n
        self.operations += repeats * points * len(stage.stores)
        if not nest:
            scope.statements += updates
            return registers
        body = sequence([*inside.statements, *updates])
        kind = self._kind_of_last(nest, rows, stage, body)
        if texels is not None:
            body = sequence([*nested[1].statements, loops(nest[-1:], body, kind)])
        if fetches is not None:
            body = fetches.inside(body)
        elif texels is not None:
            body = loops(nest[:-1], body)
        else:
            body = loops(nest[:-1], loops(nest[-1:], body, kind))
        scope.statements.append(body)
        return registers

    def _reduced(self, stage: Stage) -> list[Axis]:
        """Reduced axes of a stage, the innermost last."""
        axes = [axis for axis in stage.axes if axis.reduced]
        texels = [axis for axis in axes[-1:] if axis.var in self.kernel.texels]
        others = axes[: len(axes) - len(texels)]
        long = [axis for axis in others if static(axis.extent) != 1]
        if self.tile.innermost is None or self.tile.innermost >= len(long):
            return axes
        last = long[self.tile.innermost]
        return [*(axis for axis in others if axis is not last), last, *texels]

    def _kind_of_last(self, nest: list[Any], rows: list[Any], stage: Stage, body: Any) -> ForKind:
        """Whether the innermost loop of a reduction is written out, as that of a window is."""
        extent = static(nest[-1][1])
        if extent is None or extent > self.tile.unroll:
            return ForKind.SERIAL
        copies = extent * math.prod(n for _, n in rows)
        values = [*(store.value for store in stage.stores), *values_under_way(self, stage)]
        size = sum(size_of(value) for value in values)
        if copies * size > MOST_UNROLLED or extent * size_written(body) > LONGEST_SOURCE:
            return ForKind.SERIAL
        return ForKind.UNROLLED
