"""What a kernel's memory accesses cost under given layouts of its operands.

The kernel is imagined as a schedule would cut it: work-items that compute tiles, with vectors along
an axis of the output or along the reduction (:class:`Walk`). Of every access the model counts

- *instructions*: one for a vector that lies in one piece, one for an element that all lanes share,
  one for each lane of what is gathered; more where lanes are not evenly apart, so that each has an
  address of its own, under a condition that differs from lane to lane, and where a loop of the
  work-item goes through the blocks of a layout, so that indices are divided;
- *lines*: cache lines that have to be fetched (:mod:`.work_item_loops`);
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

from .cache_lines import lines_of, starts_of
from .fused_kernel import Kernel
from .kernel_samples import Samples
from .layouts import Layout
from .texels import LANES
from .walks import Memory, Walk
from .work_item_loops import WorkItemLoops, bytes_of

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
# An address in a page that is not among the last ones.
PAGE = 2.0


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


class KernelCost(WorkItemLoops):
    """Cost of one kernel under walks and layouts."""

    def __init__(self, kernel: Kernel, memory: Memory) -> None:
        super().__init__(kernel, memory)
        self._footprints: dict[Any, float] = {}

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
        samples = self.samples(number)
        unit = unit or self.memory.line_bytes
        key = (number, layout, unit)
        if key not in self._footprints:
            loops = [loop for axis in samples.whole for loop in bytes_of(samples, axis, layout)]
            start = starts_of(samples.origin(layout) * samples.itemsize, (), unit, samples.itemsize)
            limit = math.ceil(self._size(samples, layout) / unit)
            self._footprints[key] = unit * lines_of(loops, samples.itemsize, unit, start, limit)
        return self._footprints[key]

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

    def _reads_ahead(self, work: int, samples: Samples, walk: Walk, layout: Layout) -> bool:
        """Whether a loop of the work-item runs along texels, which it then reads as a whole."""
        part, run = self.work[work], self._lane_of(work, walk)
        axes: list[Any] = [(d,) for d in walk.inner]
        if part is not self.work[-1]:
            axes = [var for var, _ in part.reduced]
        digits = [samples.digits(axis, layout) for axis in axes if axis != run]
        return any(d and d[0][0] == 1 and d[0][1] % LANES == 0 for d in digits)
