"""The loops of a kernel's work-items over their operands, and the cache lines that these fetch.

::

    M[i, j] += A[i, k] * B[k, j], lanes of 4 along j, 8 rows of i, waves of 16 × 4 work-items:
    A is read along 8 rows, then along k; side by side lie the rows of 4 work-items

What a work-item touches again, or beside, is fetched once as long as its lines fit into the first
cache; where there is no such cache, the work-items of a wave (:mod:`.waves`) share what one
instruction touches, and nothing else is shared; what is read from images they share as long as it
fits into the images' first cache.
"""

from __future__ import annotations

import math
from typing import Any

from .cache_lines import Loop, Starts, every, fetched, first_of, lines_of, starts_of
from .fused_kernel import Kernel
from .kernel_samples import KernelSamples, Samples, sample
from .kernel_work import Work
from .layouts import Layout
from .texels import LANES
from .walks import Memory, Walk, list_walks, widest
from .waves import DEEP, GROUP, group_shape, thread_axes

# Lines of a set of the caches of images.
WAYS = 4
PAGE_BYTES = 4096
# Pages whose addresses a device knows. No profile has these figures: pages are of the common size,
# their number is that of small first-level translation buffers.
PAGES = 64


class WorkItemLoops:
    """Loops of the work-items of one kernel under walks and layouts.

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
        self.walks = list_walks(self._sampled, memory)
        self._waves: dict[Walk, dict[int, int]] = {}

    def samples(self, number: int) -> Samples:
        """Samples of an access, by its place in `accesses`."""
        work, position = self.accesses[number]
        return self._sampled.samples[work][position]

    def is_write(self, number: int) -> bool:
        """Whether an access, by its place in `accesses`, is a write: only the sink has any."""
        return len(self.accesses) - number <= self.work[-1].writes

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

    def followed(self, number: int, walk: Walk) -> tuple[Samples, Any, int]:
        """Samples of an access, the run that the lanes of its work follow, and their number."""
        work, samples = self.accesses[number][0], self.samples(number)
        return samples, self._lane_of(work, walk), self._shape(work, walk)[2]

    def stride(self, samples: Samples, walk: Walk, run: Any, layout: Layout) -> int | None:
        """Elements from lane to lane; None when that varies."""
        narrow = walk.lane is not None and walk.width < widest(self.extents, walk.lane, self.memory)
        if not narrow and not walk.team:
            return samples.stride(run, layout)
        # Runs are sampled for the widest vector; a team is wider, and some vectors are narrower.
        digits = samples.digits(run, layout)
        if not digits:
            return 0
        stride, count = digits[0]
        return stride if len(digits) == 1 or count % walk.width == 0 else None

    def tile_size(self, walk: Walk, d: int) -> int:
        """Points of an axis that a work-item covers at a time."""
        if walk.lane is not None and d in walk.lane:
            inner = math.prod(self.extents[o] for o in walk.lane if o > d)
            return max(1, walk.width // inner)
        return dict(walk.rows).get(d, 1)

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
            repeats *= math.ceil(last / width) / last
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

    @staticmethod
    def _rows(part: Work, samples: Samples, walk: Walk) -> list[tuple[int, int]]:
        """Axes of a tile's rows that an access moves along."""
        return [
            (d, n) for d, n in walk.rows if d in part.axes and n > 1 and not samples.rests((d,), n)
        ]

    @staticmethod
    def _size(samples: Samples, layout: Layout) -> int:
        return math.prod(layout.shape(samples.extents)) * samples.itemsize

    def _fetched(
        self, work: int, samples: Samples, walk: Walk, layout: Layout
    ) -> tuple[float, float]:
        """Lines and pages that a work-item fetches for one access, through caches of its own."""
        vector, around = self._loops(work, samples, walk, layout)
        grid = [
            loop
            for d, _ in enumerate(self.extents)
            if d not in walk.inner
            for loop in every(bytes_of(samples, (d,), layout), self.tile_size(walk, d))
        ]
        line, cache = self.memory.line_bytes, self.memory.first_cache
        nest, size = (*vector, *around), self._size(samples, layout)
        starts = self._starts(samples, grid, layout)
        lines = fetched(nest, samples.itemsize, line, starts, cache, math.ceil(size / line))
        reach, most = PAGES * PAGE_BYTES, math.ceil(size / PAGE_BYTES)
        pages = fetched(nest, samples.itemsize, PAGE_BYTES, None, reach, most)
        return lines, pages

    def _subgroup_lines(self, work: int, samples: Samples, walk: Walk, layout: Layout) -> float:
        """Lines of a work-item where subgroups share those of an instruction, and nothing else."""
        line, (_, repeats, _) = self.memory.line_bytes, self._shape(work, walk)
        vector, around = self._loops(work, samples, walk, layout)
        inside, beyond, sharing = self._side_by_side(samples, walk, layout)
        starts = self._starts(samples, [*around, *beyond], layout)
        limit = math.ceil(self._size(samples, layout) / line)
        times = repeats * math.prod(n for _, n in self._rows(self.work[work], samples, walk))
        lines = lines_of([*vector, *inside], samples.itemsize, line, starts, limit)
        return times * lines / sharing

    def _image_lines(self, work: int, samples: Samples, walk: Walk, layout: Layout) -> float:
        """Lines of a work-item where those of a wave share a small cache."""
        line, cache = self.memory.line_bytes, self.memory.image_cache
        vector, around = self._loops(work, samples, walk, layout)
        inside, beyond, sharing = self._side_by_side(samples, walk, layout)
        starts = self._starts(samples, beyond, layout)
        limit = math.ceil(self._size(samples, layout) / line)
        texel = (samples.itemsize, LANES)  # read as a whole, whatever loops go around it
        lanes, others = [x for x in around if x == texel], [x for x in around if x != texel]
        nest = (*vector, *lanes, *inside, *others)
        return fetched(nest, samples.itemsize, line, starts, cache, limit, WAYS) / sharing

    def _loops(
        self, work: int, samples: Samples, walk: Walk, layout: Layout
    ) -> tuple[list[Loop], list[Loop]]:
        """Loops of a work-item: over the lanes of a vector, and those around it."""
        part = self.work[work]
        run, (_, _, width) = self._lane_of(work, walk), self._shape(work, walk)
        around: list[Loop] = []
        for d, n in self._rows(part, samples, walk):
            around += first_of(bytes_of(samples, (d,), layout), n)
        if part is self.work[-1]:
            axes: list[Any] = [(d,) for d in reversed(walk.inner)]
        else:
            axes = [var for var, _ in reversed(part.reduced)]
        for axis in axes:
            whole = bytes_of(samples, axis, layout)
            around += every(whole, width) if axis == run else whole
        return self._vector(samples, walk, run, width, layout), around

    def _vector(
        self, samples: Samples, walk: Walk, run: Any, width: int, layout: Layout
    ) -> list[Loop]:
        if run is None or width < 2:
            return []
        stride = self.stride(samples, walk, run, layout)
        if stride is not None:
            return [(stride * samples.itemsize, width)] if stride else []
        if not isinstance(run, tuple):
            return first_of(bytes_of(samples, run, layout), width)
        found: list[Loop] = []
        for d in reversed(run):
            found += first_of(bytes_of(samples, (d,), layout), width)
            width = -(-width // self.extents[d])
        return found

    def _starts(self, samples: Samples, loops: list[Loop], layout: Layout) -> Starts:
        origin = samples.origin(layout) * samples.itemsize
        return starts_of(origin, loops, self.memory.line_bytes, samples.itemsize)

    def _side_by_side(
        self, samples: Samples, walk: Walk, layout: Layout
    ) -> tuple[list[Loop], list[Loop], float]:
        """Loops over the work-items of a wave, those over waves, and the work-items of one."""
        left = self._wave(walk)
        outer = [d for d, n in enumerate(self.extents) if n > 1 and d not in walk.inner]
        inside: list[Loop] = []
        beyond: list[Loop] = []
        for d in dict.fromkeys([*left, *reversed(outer)]):
            whole = every(bytes_of(samples, (d,), layout), self.tile_size(walk, d))
            inside += first_of(whole, left.get(d, 1))
            beyond += every(whole, left.get(d, 1))
        return inside, beyond, float(math.prod(left.values()))

    def _wave(self, walk: Walk) -> dict[int, int]:
        """Tiles of a wave along each axis that it lies along, those along x first."""
        if walk in self._waves:
            return self._waves[walk]
        lane = tuple(walk.lane or ())
        outer = [d for d, n in enumerate(self.extents) if n > 1 and d not in walk.inner]
        runs: dict[int | None, tuple[int, ...]]
        runs = {d: lane if d in lane else (d,) for d in outer}
        tiles = {d: math.ceil(self.extents[d] / self.tile_size(walk, d)) for d in outer}
        counts = {run: math.prod(tiles.get(d, 1) for d in run) for run in runs.values()}
        rows = [runs[d] for d, _ in walk.rows if d in runs]
        x, y = thread_axes(counts, runs.get(walk.fastest), rows, lane, DEEP)
        wave = 1 if walk.team else self.memory.subgroup  # a team is the vector
        most = max(wave, GROUP) if wave > 1 else 1
        totals = [math.prod(counts[run] for run in along) for along in (x, y)]
        threads, deep = group_shape(totals[0], totals[1], most, DEEP)
        threads = min(threads, wave)
        left: dict[int, int] = {}
        for along, items in ((x, threads), (y, min(deep, wave // threads))):
            for d in reversed([d for run in along for d in run if d in tiles]):
                left[d] = min(items, tiles[d])
                items = max(1, items // left[d])
        self._waves[walk] = left
        return left


def bytes_of(samples: Samples, axis: Any, layout: Layout) -> list[Loop]:
    """Loops over a whole axis, strides in bytes."""
    return [
        (None if stride is None else stride * samples.itemsize, count)
        for stride, count in samples.digits(axis, layout)
    ]
