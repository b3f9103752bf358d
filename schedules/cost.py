"""An analytic cost of a tile: loads, stores and arithmetic of all work-items, in vector steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx

from smartmem_tvm.analysis.expressions import const, static, substitute, uses
from smartmem_tvm.analysis.fused_kernel import Kernel, NotAKernel, read_kernel
from smartmem_tvm.analysis.group_traffic import GroupTraffic
from smartmem_tvm.analysis.kernel_work import Work, bounds_of, list_work
from smartmem_tvm.analysis.layouts import row_major
from smartmem_tvm.analysis.texels import LANES, axis_of_texels, is_texture
from smartmem_tvm.analysis.transactions import (
    BROADCAST,
    CONDITIONAL_LANE,
    FOLD,
    GATHERED_LANE,
    SCATTERED_LANE,
    START,
    Counts,
    KernelCost,
)
from smartmem_tvm.analysis.walks import Walk

from .base import RuleDeclined
from .lanes import Lane
from .limits import ScheduleLimits
from .regroup import regroup
from .tile import Tile

# Work-items that keep a processor busy.
BUSY = 128
# Elements of a cache line.
LINE = 16


_last: list[tuple[tirx.PrimFunc, ScheduleLimits, Costs | NotAKernel]] = []


def costs_of(func: tirx.PrimFunc, limits: ScheduleLimits) -> Costs:
    """Costs of the tiles of a function's kernel, or RuleDeclined.

    The last answer is kept: rules ask one after the other for the same function.
    """
    if not _last or not _last[0][0].same_as(func) or _last[0][1] != limits:
        answer: Costs | NotAKernel
        try:
            answer = Costs(regroup(read_kernel(func)), limits)
        except NotAKernel as error:
            answer = error
        _last[:] = [(func, limits, answer)]
    found = _last[0][2]
    if isinstance(found, NotAKernel):
        raise RuleDeclined(str(found))
    return found


@dataclass
class Costs:
    """Costs of the tiles of one kernel."""

    kernel: Kernel
    limits: ScheduleLimits

    def __post_init__(self) -> None:
        self.work: list[Work] = list_work(self.kernel)
        self._strides: dict[Any, Any] = {}
        self._uses: dict[tuple[int, int, int], bool] = {}
        self._model: KernelCost | None = None
        self.texel = axis_of_texels(self.kernel)
        self.extents = [static(axis.extent) or 1 for axis in self.kernel.sink.axes]
        self.symbolic = [static(axis.extent) is None for axis in self.kernel.sink.axes]

    def allows(self, tile: Tile) -> bool:
        """Whether a work-item of the tile writes images by whole texels, if the kernel has any."""
        if self.texel is None:
            return True
        if tile.inner[-1:] == (self.texel,):
            return tile.team > 1 or tile.inner_width == LANES
        return tile.lane == self.texel and tile.width == LANES

    def stride(self, work: int, number: int, axis: int | None, width: int) -> int | str | None:
        """Stride of an access from lane to lane, "condition" where a condition varies.

        `axis` None stands for lanes along the innermost reduced axes.
        """
        key = (work, number, axis, width)
        if key not in self._strides:
            self._strides[key] = self._stride(self.work[work], number, axis, width)
        return self._strides[key]

    def _stride(self, work: Work, number: int, axis: int | None, width: int) -> int | str | None:
        access = work.accesses[number]
        lane, var, values = self._lane(work, axis, width)
        if any(uses(condition, var) for condition in access.conditions) and any(
            lane.step(c) != 0 for c in (substitute(c, values) for c in access.conditions)
        ):
            return "condition"
        return lane.stride(access.buffer, [substitute(i, values) for i in access.indices])

    def _lane(self, work: Work, axis: int | None, width: int) -> tuple[Lane, Any, dict[Any, Any]]:
        """Lanes along an axis, its variable, and the variable's value in them."""
        analyzer = bounds_of(self.kernel, self.work)
        if axis is None:
            var, extent = work.reduced[-1]
        else:
            var = self.kernel.sink.axes[axis].var
            extent = self.extents[axis]
        lane = Lane(tirx.Var("lane", var.ty), width, analyzer)
        tile = tirx.Var("tile", var.ty)
        analyzer.bind(tile, tvm.ir.Range(const(0, tile), const(max(extent // width, 1), tile)))
        begin = tile * const(width, tile)
        if axis is not None and extent % width:
            begin = tirx.min(begin, const(extent - width, tile))
        return lane, var, {var: begin + lane.var}

    def _side_by_side(self, number: int, position: int, axis: int) -> bool:
        """Whether neighbours along an axis lie side by side, whatever conditions say of them."""
        key = ("side", number, position, axis)
        if key not in self._strides:
            work = self.work[number]
            lane, _, values = self._lane(work, axis, 2)
            indices = [substitute(i, values) for i in work.accesses[position].indices]
            self._strides[key] = lane.stride(work.accesses[position].buffer, indices) == 1
        return bool(self._strides[key])

    def of(self, tile: Tile) -> float:
        """Cost of the kernel with a tile."""
        if self.limits.lock_step:
            return self.by_transactions(tile)
        items = tile.count(self.extents)
        each = START
        inner = math.prod(self.extents[d] for d in tile.inner)
        for number, work in enumerate(self.work):
            each += self._of_work(number, work, tile, inner)
        idle = max(1.0, BUSY / items) if not any(self.symbolic) else 1.0
        return items * each * idle**0.5

    def by_transactions(self, tile: Tile) -> float:
        """What neighbours in lock step fetch together decides, as it did for the layouts."""
        model, walk = self._transactions(), self._walk(tile)
        return model.base(walk) + sum(
            model.access(number, walk, row_major(len(buffer.shape)), is_texture(buffer))
            for number, buffer in enumerate(model.buffers)
        )

    def counts(self, tile: Tile) -> list[tuple[Counts, bool]]:
        """What the model of transactions counts for each access, and whether it is a write."""
        model, walk = self._transactions(), self._walk(tile)
        return [
            (
                model.count(number, walk, row_major(len(buffer.shape)), is_texture(buffer)),
                model.is_write(number),
            )
            for number, buffer in enumerate(model.buffers)
        ]

    def traffic(self, tile: Tile) -> GroupTraffic:
        """Lines that groups of a tile's work-items touch."""
        return GroupTraffic(self._transactions(), self._walk(tile))

    def _transactions(self) -> KernelCost:
        if self._model is None:
            self._model = KernelCost(self.kernel, self.limits.memory)
        return self._model

    def _walk(self, tile: Tile) -> Walk:
        lane = None if tile.lane is None or tile.width < 2 else (tile.lane,)
        width = tile.team if tile.team > 1 else tile.inner_width
        return Walk(
            lane,
            tile.width if lane else width,
            lane is None and width > 1,
            tile.rows,
            tile.inner,
            tile.team > 1,
            fastest=tile.fastest if self.limits.lock_step else None,
        )

    def crossed(self, axis: int, tile: Tile) -> float:
        """Elements, in whole cache lines, that work-items touch as they go along an axis."""
        total = 0.0
        for number, work in enumerate(self.work):
            for position, access in enumerate(work.accesses):
                size = math.prod(static(extent) or 1 for extent in access.buffer.shape)
                apart = 1.0  # parts of the tensor that other axes choose from
                for d, extent in enumerate(self.extents):
                    if d != axis and d not in tile.inner and self._depends(number, position, d):
                        # Of what lies side by side a whole line is touched.
                        least = LINE if self._side_by_side(number, position, d) else 1
                        apart *= max(1.0, extent / max(tile.size(d), least))
                total += size / min(apart, size)
        return total

    def _of_work(self, number: int, work: Work, tile: Tile, inner: int) -> float:
        is_sink = number == len(self.work) - 1
        rows = [(d, n) for d, n in tile.rows if d in work.axes]
        points = math.prod(n for _, n in rows)
        repeats = float(work.repeats)
        lane: int | None = tile.lane if tile.lane in work.axes else None
        width = tile.width if lane is not None else 1
        along_reduction = False
        if is_sink:
            repeats = float(inner)
        if is_sink and tile.inner and tile.inner_width > 1:
            lane, width = tile.inner[-1], min(tile.inner_width, self.extents[tile.inner[-1]])
            repeats /= width
        elif tile.inner_width > 1 and work.reduced and not is_sink:
            width = min(tile.inner_width, work.reduced[-1][1])
            along_reduction = self._reduces_along(number, work, width)
            width = width if along_reduction else 1
            repeats /= width
        varies = lane is not None or along_reduction
        cost = points * work.weight * repeats
        for position in range(len(work.accesses)):
            times = math.prod(n for d, n in rows if self._depends(number, position, d))
            each = self._each(number, position, lane, width) if varies else 1.0
            cost += times * each * repeats
        if along_reduction:
            cost += points * FOLD * math.log2(max(width, 2))
        return cost

    def _each(self, number: int, position: int, lane: int | None, width: int) -> float:
        stride = self.stride(number, position, lane, width)
        if stride == 0:
            return BROADCAST
        if stride == 1:
            return 1.0
        if stride == "condition":
            return CONDITIONAL_LANE * width
        if stride is None:
            return SCATTERED_LANE * width
        return GATHERED_LANE * width

    def _reduces_along(self, number: int, work: Work, width: int) -> bool:
        if width < 2 or not work.accesses:
            return False
        strides = [self.stride(number, p, None, width) for p in range(len(work.accesses))]
        return all(stride in (0, 1) for stride in strides) and any(strides)

    def _depends(self, number: int, position: int, axis: int) -> bool:
        key = (number, position, axis)
        if key not in self._uses:
            access = self.work[number].accesses[position]
            var = self.kernel.sink.axes[axis].var
            self._uses[key] = any(uses(p, var) for p in (*access.indices, *access.conditions))
        return self._uses[key]
