"""What a kernel's memory accesses cost under given layouts of its operands.

The kernel is imagined as a schedule would cut it: work-items that compute tiles, with vectors along
an axis of the output or along the reduction (:class:`Walk`). Of every access the model counts

- *instructions*: one for a vector that lies in one piece, one for an element that all lanes share,
  one for each lane of what is gathered; more under a condition that differs from lane to lane;
- *lines*: cache lines that have to be fetched. What a work-item touches again, or beside, is
  fetched once as long as its lines fit into the first cache; where there is no such cache, the
  work-items of a subgroup share what one instruction touches, and nothing else is shared.

The cost of a kernel under a walk is a sum over its accesses, each a function of one tensor's
layout. So choosing layouts and walks together is a problem of pairs (:mod:`.layout_choice`). All
figures come from the device profile. Unit: one vector instruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smartmem_tvm.devices import DeviceProfile

from .fused_kernel import Kernel
from .kernel_samples import KernelSamples, Samples, sample
from .kernel_work import Work
from .layouts import Layout

# A scalar operand of a vector instruction is folded into it.
BROADCAST = 0.5
# A scalar load and an insertion; under a condition of its own also a comparison.
GATHERED_LANE = 1.0
CONDITIONAL_LANE = 2.0
# What adding up the lanes of a partial result costs, for each halving.
FOLD = 4.0
# The start of a work-item.
START = 20.0
# A line from the second cache against one from memory.
SECOND_CACHE = 1 / 8


@dataclass(frozen=True)
class Walk:
    """How a work-item goes through a kernel's domain.

    Attributes
    ----------
    lane : tuple[int, ...] or None
        Neighbouring axes of the sink, taken together, that vectors run along.
    width : int
        Lanes of a vector; 1 for none.
    along_reduction : bool
        Whether vectors run along the last reduced axis instead, with partial results.
    rows : tuple of (int, int)
        Axes of which a work-item has several points, and how many.
    inner : tuple[int, ...]
        Axes that a work-item covers as a whole, after its reductions.
    """

    lane: tuple[int, ...] | None = None
    width: int = 1
    along_reduction: bool = False
    rows: tuple[tuple[int, int], ...] = ()
    inner: tuple[int, ...] = ()


@dataclass(frozen=True)
class Memory:
    """What the model asks of a device profile.

    Attributes
    ----------
    width : int
        Lanes of the widest useful vector.
    rows : int
        Rows of a register tile.
    line_bytes, first_cache : int
        Bytes of a cache line, and of the cache that a work-item's reads go through; 0 for none.
    second_cache : int
        Bytes of the cache behind it.
    line_cost : float
        Vector instructions that a line from memory is worth.
    subgroup : int
        Work-items in lock step.
    """

    width: int
    rows: int
    line_bytes: int
    first_cache: int
    second_cache: int
    line_cost: float
    subgroup: int

    @classmethod
    def of(cls, profile: DeviceProfile) -> Memory:
        """Figures of a profile."""
        width = profile.compute.vector_width
        line = profile.cache.line_bytes / profile.bandwidth.global_gbps
        return cls(
            max(width, profile.compute.register_tile[1]),
            profile.compute.register_tile[0],
            profile.cache.line_bytes,
            profile.cache.buffer_l1_bytes,
            profile.cache.l2_bytes,
            line * profile.peak.float32_gflops / (2 * width),
            profile.work_group.subgroup_size,
        )


class KernelCost:
    """Cost of one kernel under walks and layouts.

    Attributes
    ----------
    walks : list of Walk
        What a schedule may do.
    accesses : list of (int, int)
        Work and access in it, for every access.
    """

    def __init__(self, kernel: Kernel, memory: Memory) -> None:
        self.memory = memory
        axes = range(len(kernel.sink.axes))
        runs: list[tuple[int, ...]] = [(d,) for d in axes]
        runs += [(d, d + 1) for d in axes if d + 1 in axes]
        self._sampled: KernelSamples = sample(kernel, runs, memory.width)
        self.work: list[Work] = self._sampled.work
        self.extents = self._sampled.extents
        self.accesses = [
            (number, position)
            for number, part in enumerate(self.work)
            for position in range(len(part.accesses))
        ]
        self.buffers = [self.work[w].accesses[p].buffer for w, p in self.accesses]
        self.walks = list(dict.fromkeys(self._walks()))

    # ---- walks ------------------------------------------------------------------------------

    def _walks(self) -> Iterator[Walk]:
        extents = self.extents
        wide = {d for d, n in enumerate(extents) if n > 1}
        reductions = self.work[:-1]
        used = set().union(*(part.axes for part in reductions)) if reductions else wide
        inner: tuple[int, ...] = ()
        if reductions and not any(wide <= part.axes for part in reductions):
            inner = tuple(sorted(wide - used))
        outer = sorted(wide - set(inner))
        most = self.memory.rows
        for lane in (None, *self._lanes(outer)):
            extent = math.prod(extents[d] for d in lane) if lane else 1
            width = 1 << (min(extent, self.memory.width).bit_length() - 1)
            yield Walk(lane, width, inner=inner)
            for row in outer if not inner else ():
                if lane is None or row not in lane:
                    yield Walk(lane, width, rows=((row, min(most, extents[row])),))
        if not reductions or self.memory.width < 2:
            return
        for row in (None, *(outer if not inner else ())):
            rows = () if row is None else ((row, min(4, extents[row])),)
            yield Walk(None, self.memory.width, True, rows, inner)
            for other in outer if rows else ():
                if other > row:
                    both = (*rows, (other, min(4, extents[other])))
                    yield Walk(None, self.memory.width, True, both, inner)

    def _lanes(self, outer: Sequence[int]) -> Iterator[tuple[int, ...]]:
        for d in outer:
            if self._sampled.symbolic[d]:
                continue
            yield (d,)
            if d - 1 in outer and not self._sampled.symbolic[d - 1]:
                yield (d - 1, d)

    # ---- costs ------------------------------------------------------------------------------

    def items(self, walk: Walk) -> float:
        """Work-items."""
        count = 1.0
        rows = dict(walk.rows)
        lane = walk.lane or ()
        for d, extent in enumerate(self.extents):
            if d not in walk.inner and d not in lane:
                count *= math.ceil(extent / rows.get(d, 1))
        if lane:
            count *= math.ceil(math.prod(self.extents[d] for d in lane) / walk.width)
        return count

    def base(self, walk: Walk) -> float:
        """Cost of the kernel without its accesses."""
        each = START
        for number, part in enumerate(self.work):
            points, repeats, width = self._shape(number, walk)
            each += points * repeats * part.weight
            if walk.along_reduction and part.reduced and width > 1:
                each += points * FOLD * math.log2(width)
        return each * self.items(walk)

    def access(self, number: int, walk: Walk, layout: Layout) -> float:
        """Cost of one access, by its place in `accesses`, under a layout of its tensor."""
        work, position = self.accesses[number]
        part, samples = self.work[work], self._sampled.samples[work][position]
        _, repeats, width = self._shape(work, walk)
        run = self._lane_of(work, walk)
        rows = [(d, n) for d, n in walk.rows if d in part.axes and (d,) in samples.runs and n > 1]
        times = math.prod(n for _, n in rows) * repeats
        each = self._instructions(samples, run, width, layout)
        fetched = self._lines(work, samples, walk, layout)
        size = math.prod(samples.extents) * samples.itemsize
        near = size <= self.memory.second_cache
        line = self.memory.line_cost * (SECOND_CACHE if near else 1.0)
        return self.items(walk) * (times * each + fetched * line)

    def followed(self, number: int, walk: Walk) -> tuple[Samples, Any, int]:
        """Samples of an access, the run that the lanes of its work follow, and their number."""
        work, position = self.accesses[number]
        samples = self._sampled.samples[work][position]
        return samples, self._lane_of(work, walk), self._shape(work, walk)[2]

    def _shape(self, number: int, walk: Walk) -> tuple[int, float, int]:
        """Points of a tile that the work distinguishes, vector steps at each, lanes of one."""
        part = self.work[number]
        is_sink = number == len(self.work) - 1
        points = math.prod(n for d, n in walk.rows if d in part.axes)
        repeats = float(part.repeats)
        if is_sink:
            repeats = float(math.prod(self.extents[d] for d in walk.inner))
        width = 1
        if walk.lane is not None and any(d in part.axes for d in walk.lane):
            width = walk.width
        elif walk.along_reduction and (part.reduced if not is_sink else walk.inner):
            last = self.extents[walk.inner[-1]] if is_sink else part.reduced[-1][1]
            width = min(walk.width, last)
            repeats /= width
        return points, repeats, width

    def _lane_of(self, work: int, walk: Walk) -> Any:
        """Run that the lanes of a work follow, as samples name it; None for scalars."""
        part = self.work[work]
        if walk.lane is not None:
            return walk.lane if any(d in part.axes for d in walk.lane) else None
        if not walk.along_reduction:
            return None
        if work == len(self.work) - 1:
            return (walk.inner[-1],) if walk.inner else None
        return part.reduced[-1][0] if part.reduced else None

    def _instructions(self, samples: Samples, run: Any, width: int, layout: Layout) -> float:
        if run is None or width < 2:
            return 1.0
        if samples.changes_condition(run):
            return CONDITIONAL_LANE * width
        stride = samples.stride(run, layout)
        if stride == 0:
            return BROADCAST
        return 1.0 if stride == 1 else GATHERED_LANE * width

    def _lines(self, work: int, samples: Samples, walk: Walk, layout: Layout) -> float:
        """Lines that a work-item fetches for one access."""
        part, is_sink = self.work[work], work == len(self.work) - 1
        run, (_, _, width) = self._lane_of(work, walk), self._shape(work, walk)
        steps: list[tuple[int | None, int]] = []  # stride and count, the innermost loop first
        if run is not None:
            steps.append((samples.stride(run, layout), width))
        if self.memory.first_cache == 0:
            return self._shared_lines(samples, walk, layout, steps, part, is_sink)
        steps += [(samples.stride((d,), layout), n) for d, n in walk.rows if d in part.axes]
        if is_sink:
            loops = [((d,), self.extents[d]) for d in reversed(walk.inner)]
        else:
            loops = [(var, extent) for var, extent in reversed(part.reduced)]
        for name, extent in loops:
            step = samples.stride(name, layout)
            if name == run:
                extent, step = extent // width, None if step is None else step * width
            steps.append((step, extent))
        return _fetched(steps, samples.itemsize, self.memory)

    def _shared_lines(
        self,
        samples: Samples,
        walk: Walk,
        layout: Layout,
        steps: list[tuple[int | None, int]],
        part: Work,
        is_sink: bool,
    ) -> float:
        """Lines of a device whose work-items share only what one instruction touches."""
        number = self.work.index(part)
        _, repeats, _ = self._shape(number, walk)
        rows = math.prod(n for d, n in walk.rows if d in part.axes and (d,) in samples.runs)
        outer = [d for d, n in enumerate(self.extents) if n > 1 and d not in walk.inner]
        across: tuple[int, ...] | None = walk.lane or ((outer[-1],) if outer else None)
        side = samples.stride(across, layout) if across is not None else 0
        items = self.memory.subgroup
        vector = steps[0] if steps else (0, 1)
        together = [
            vector,
            (None if side is None else side * (walk.width if walk.lane else 1), items),
        ]
        lines = _box_lines(together, samples.itemsize, self.memory.line_bytes)
        return rows * repeats * lines / items


def _box_lines(steps: Sequence[tuple[int | None, int]], itemsize: int, line: int) -> float:
    """Lines of a box of elements: strides and counts of its sides."""
    span, apart = float(itemsize), 1.0
    known = sorted((abs(s) * itemsize, n) for s, n in steps if s is not None and n > 1 and s)
    for stride, count in known:
        if stride <= max(span, line):
            span += stride * (count - 1)
        else:
            apart *= count
    for stride, count in steps:
        if stride is None:
            apart *= count
    return apart * max(1.0, span / line)


def _fetched(steps: Sequence[tuple[int | None, int]], itemsize: int, memory: Memory) -> float:
    """Lines fetched by nested loops, the innermost first, through a cache of limited size."""
    fetched = 1.0
    for depth, (_, count) in enumerate(steps, start=1):
        before = _box_lines(steps[: depth - 1], itemsize, memory.line_bytes)
        whole = _box_lines(steps[:depth], itemsize, memory.line_bytes)
        # A loop that comes again over lines which the cache has lost fetches them again. Half of
        # it is left to the other operands.
        kept = before * memory.line_bytes <= memory.first_cache / 2
        fetched *= whole / before if kept else count
    return fetched
