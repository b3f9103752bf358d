"""What a kernel's memory accesses cost under given layouts of its operands.

The kernel is imagined as a schedule would cut it: work-items that compute tiles, with vectors along
an axis of the output or along the reduction (:class:`Walk`). Of every access the model counts

- *instructions*: one for a vector that lies in one piece, one for an element that all lanes share,
  one for each lane of what is gathered; more where lanes are not evenly apart, so that each has an
  address of its own, under a condition that differs from lane to lane, and where a loop of the
  work-item goes through the blocks of a layout, so that indices are divided;
- *lines*: cache lines that have to be fetched. What a work-item touches again, or beside, is
  fetched once as long as its lines fit into the first cache; where there is no such cache, the
  work-items of a wave (:mod:`.waves`) share what one instruction touches, and nothing else is
  shared; what is read from images they share as long as it fits into the images' first cache;
- *pages*: the same of pages, whose addresses have to be looked up.

The counts are those of an enumeration of all points wherever tiles divide their axes. The cost of a
kernel under a walk is a sum over its accesses, each a function of one tensor's layout. So choosing
layouts and walks together is a problem of pairs (:mod:`.layout_choice`). Figures of a device come
from its profile. Unit: one vector instruction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .cache_lines import Loop, Starts, every, fetched, first_of, lines_of, starts_of
from .fused_kernel import Kernel
from .kernel_samples import KernelSamples, Samples, sample
from .kernel_work import Work
from .layouts import Layout
from .walks import Memory, Walk, list_walks, widest
from .waves import DEEP, GROUP, group_shape, thread_axes

__all__ = ["Counts", "KernelCost", "Memory", "Walk"]

# The weights below follow from what code generators emit. PAGE, SCATTERED_LANE and DIVISION were
# added after looking at pairs of benchmarks/layout_pairs.py that were ranked wrong (seeds 1 to 3);
# their values hardly matter there: from half to twice each, the same pairs are right but for one or
# two in a hundred, and the same holds for the other weights.

# A scalar operand of a vector instruction is folded into it.
BROADCAST = 0.5
# A scalar load and an insertion; with the arithmetic of an address of its own; with a comparison.
GATHERED_LANE = 1.0
SCATTERED_LANE = 2.0
CONDITIONAL_LANE = 2.0
# Lines of a set of the caches of images.
WAYS = 4
# Lanes of a texel.
LANES = 4
# Taking a lane out of a vector and storing it, beyond what loading one takes.
STORED_LANE = 2.0
# A quotient and a remainder by the size of a block.
DIVISION = 2.0
# What adding up the lanes of a partial result costs, for each halving.
FOLD = 4.0
# The start of a work-item.
START = 20.0
# Work-items that keep a device busy that runs many in lock step.
BUSY = 2048
# A line from the second cache against one from memory.
SECOND_CACHE = 1 / 8
# An address in a page that is not among the last ones. No profile has these: pages are of the
# common size, their number is that of small first-level translation buffers.
PAGE = 2.0
PAGE_BYTES = 4096
PAGES = 64


@dataclass(frozen=True)
class Counts:
    """What all work-items of a kernel together do for one access.

    Attributes
    ----------
    pieces : float
        Vectors that lie in one piece, and single elements of what is computed without vectors.
    shared : float
        Elements that all lanes of a vector share.
    gathered, scattered, conditional : float
        Lanes of vectors whose lanes are evenly apart, of those whose are not, and of those under a
        condition that differs from lane to lane.
    divided : float
        Vectors and elements whose place in a block a loop inside the work-item changes.
    lines, pages : float
        Cache lines that are fetched, and pages whose addresses are looked up.
    """

    pieces: float = 0.0
    shared: float = 0.0
    gathered: float = 0.0
    scattered: float = 0.0
    conditional: float = 0.0
    divided: float = 0.0
    lines: float = 0.0
    pages: float = 0.0


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
        self.walks = list_walks(self._sampled, memory)
        self._footprints: dict[Any, float] = {}
        self._waves: dict[Walk, dict[int, int]] = {}

    def samples(self, number: int) -> Samples:
        """Samples of an access, by its place in `accesses`."""
        work, position = self.accesses[number]
        return self._sampled.samples[work][position]

    def is_write(self, number: int) -> bool:
        """Whether an access, by its place in `accesses`, is a write: only the sink has any."""
        return len(self.accesses) - number <= self.work[-1].writes

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
            each += points * repeats * part.weight * self._vectors(walk)
            if walk.along_reduction and part.reduced and width > 1:
                each += points * FOLD * math.log2(width)
        return each * self.items(walk) * self._idle(walk)

    def _vectors(self, walk: Walk) -> float:
        """Vector instructions that one of all lanes is worth: a team issues as wide as it is."""
        return walk.width / self.memory.width if walk.team else 1.0

    def _idle(self, walk: Walk) -> float:
        """How many times longer a device takes that has too few work-items."""
        if self.memory.subgroup < 2:
            return 1.0
        return max(1.0, BUSY / (self.items(walk) * (walk.width if walk.team else 1)))

    def access(self, number: int, walk: Walk, layout: Layout, image: bool = False) -> float:
        """Cost of one access, by its place in `accesses`, under a layout of its tensor.

        `image` says that the tensor will be in an image.
        """
        counts = self.count(number, walk, layout, image)
        line = self.memory.image_line_cost if image else self.memory.line_cost
        if self.footprint(number, layout) <= self.memory.second_cache:
            line *= SECOND_CACHE
        vectors = self._vectors(walk)
        stored = STORED_LANE if self.is_write(number) else 0.0
        return self._idle(walk) * (
            vectors * counts.pieces
            + vectors * BROADCAST * counts.shared
            + GATHERED_LANE * counts.gathered
            + SCATTERED_LANE * counts.scattered
            + CONDITIONAL_LANE * counts.conditional
            + stored * (counts.gathered + counts.scattered + counts.conditional)
            + DIVISION * counts.divided
            + line * counts.lines
            + PAGE * counts.pages
        )

    def count(self, number: int, walk: Walk, layout: Layout, image: bool = False) -> Counts:
        """What all work-items together do for one access."""
        work, position = self.accesses[number]
        part, samples = self.work[work], self._sampled.samples[work][position]
        _, repeats, width = self._shape(work, walk)
        items = self.items(walk)
        instructions = items * repeats * math.prod(n for _, n in self._rows(part, samples, walk))
        kind = self._kind(samples, walk, self._lane_of(work, walk), width, layout)
        lanes = width if kind in ("gathered", "scattered", "conditional") else 1
        divided = instructions if self._divides(work, samples, walk, layout) else 0.0
        if image and not self.is_write(number):
            if self._reads_ahead(work, samples, walk, layout):
                instructions, divided = instructions / LANES, 0.0
            lines, pages = self._image_lines(work, samples, walk, layout), 0.0
        elif self.memory.first_cache == 0:
            lines, pages = self._subgroup_lines(work, samples, walk, layout), 0.0
        else:
            lines, pages = self._fetched(work, samples, walk, layout)
        return Counts(
            **{kind: instructions * lanes},
            divided=divided,
            lines=items * lines,
            pages=items * pages,
        )

    def writes_texels(self, number: int, walk: Walk, layout: Layout) -> bool:
        """Whether a write goes to four elements side by side at a time."""
        samples, run, width = self.followed(number, walk)
        if walk.lane is not None:
            return width >= LANES and self.stride(samples, walk, run, layout) == 1
        return any(samples.stride((d,), layout) == 1 for d in walk.inner)

    def footprint(self, number: int, layout: Layout, unit: int | None = None) -> float:
        """Bytes of the units, lines unless told otherwise, that an access touches altogether."""
        work, position = self.accesses[number]
        samples = self._sampled.samples[work][position]
        unit = unit or self.memory.line_bytes
        key = (work, position, layout, unit)
        if key not in self._footprints:
            loops = [loop for axis in samples.whole for loop in bytes_of(samples, axis, layout)]
            start = starts_of(samples.origin(layout) * samples.itemsize, (), unit, samples.itemsize)
            limit = math.ceil(self._size(samples, layout) / unit)
            self._footprints[key] = unit * lines_of(loops, samples.itemsize, unit, start, limit)
        return self._footprints[key]

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

    def _kind(self, samples: Samples, walk: Walk, run: Any, width: int, layout: Layout) -> str:
        if run is None or width < 2:
            return "pieces"
        if samples.changes_condition(run):
            return "conditional"
        stride = self.stride(samples, walk, run, layout)
        if stride == 0:
            return "shared"
        if stride is None:
            return "scattered"
        return "pieces" if stride == 1 else "gathered"

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

    def _divides(self, work: int, samples: Samples, walk: Walk, layout: Layout) -> bool:
        """Whether rows or loops of a work-item move along the dimension that is in blocks."""
        if layout.block is None:
            return False
        part, run = self.work[work], self._lane_of(work, walk)
        axes: list[Any] = [(d,) for d, _ in self._rows(part, samples, walk)]
        if part is self.work[-1]:
            axes += [(d,) for d in walk.inner]
        else:
            axes += [var for var, _ in part.reduced]
        return any(axis != run and samples.moves(axis, layout.block[0]) for axis in axes)

    @staticmethod
    def _rows(part: Work, samples: Samples, walk: Walk) -> list[tuple[int, int]]:
        """Axes of a tile's rows that an access moves along."""
        return [
            (d, n) for d, n in walk.rows if d in part.axes and n > 1 and not samples.rests((d,), n)
        ]

    @staticmethod
    def _size(samples: Samples, layout: Layout) -> int:
        return math.prod(layout.shape(samples.extents)) * samples.itemsize

    # ---- cache lines ------------------------------------------------------------------------

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

    def _reads_ahead(self, work: int, samples: Samples, walk: Walk, layout: Layout) -> bool:
        """Whether a loop of the work-item runs along texels, which it then reads as a whole."""
        part, run = self.work[work], self._lane_of(work, walk)
        axes: list[Any] = [(d,) for d in walk.inner]
        if part is not self.work[-1]:
            axes = [var for var, _ in part.reduced]
        digits = [samples.digits(axis, layout) for axis in axes if axis != run]
        return any(d and d[0][0] == 1 and d[0][1] % LANES == 0 for d in digits)

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

    def tile_size(self, walk: Walk, d: int) -> int:
        """Points of an axis that a work-item covers at a time."""
        if walk.lane is not None and d in walk.lane:
            inner = math.prod(self.extents[o] for o in walk.lane if o > d)
            return max(1, walk.width // inner)
        return dict(walk.rows).get(d, 1)

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
