"""How a work-item may go through a kernel's domain, as a schedule would cut it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from smartmem_tvm.devices import DeviceProfile

from .kernel_samples import KernelSamples
from .kernel_work import axes_of_rows
from .layouts import row_major


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
    team : bool
        Whether the lanes are work-items in lock step, each with a part of every reduction.
    order : int
        Which of the orders that the loops of rows may have (:mod:`.loop_orders`).
    fastest : int or None
        Axis along which neighbouring work-items lie (:mod:`.waves`); the lanes' when None.
    """

    lane: tuple[int, ...] | None = None
    width: int = 1
    along_reduction: bool = False
    rows: tuple[tuple[int, int], ...] = ()
    inner: tuple[int, ...] = ()
    team: bool = False
    order: int = 0
    fastest: int | None = None


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
    image_line_cost : float
        The same of a line through the caches of images; 0 where tensors are in buffers.
    image_cache : int
        Bytes of the first cache of images.
    """

    width: int
    rows: int
    line_bytes: int
    first_cache: int
    second_cache: int
    line_cost: float
    subgroup: int
    image_line_cost: float = 0.0
    image_cache: int = 0

    @classmethod
    def of(cls, profile: DeviceProfile) -> Memory:
        """Figures of a profile."""
        width = profile.compute.vector_width
        line = profile.cache.line_bytes / profile.bandwidth.global_gbps
        worth = profile.peak.float32_gflops / (2 * width)
        images = 0.0
        if profile.texture is not None and profile.texture.preferred:
            rate = profile.bandwidth.texture_gbps or profile.bandwidth.global_gbps
            images = profile.cache.line_bytes / rate * worth
        return cls(
            max(width, profile.compute.register_tile[1]),
            profile.compute.register_tile[0],
            profile.cache.line_bytes,
            profile.cache.buffer_l1_bytes,
            profile.cache.l2_bytes,
            line * worth,
            profile.work_group.subgroup_size,
            images,
            profile.cache.texture_l1_bytes if images else 0,
        )


def list_walks(kernel: KernelSamples, memory: Memory) -> list[Walk]:
    """Walks of a kernel: lanes along any axes of the output or along the reduction, and rows."""
    return list(dict.fromkeys(_walks(kernel, memory)))


def _walks(kernel: KernelSamples, memory: Memory) -> Iterator[Walk]:
    extents = kernel.extents
    wide = [d for d, n in enumerate(extents) if n > 1]
    reductions = kernel.work[:-1]
    inner = axes_of_rows(kernel.work, wide) if reductions else ()
    outer = [d for d in wide if d not in inner]
    for lane in (None, *_lanes(kernel, outer)):
        for width in _widths(kernel, lane, memory):
            yield from _neighbours(Walk(lane, width, inner=inner), outer, memory)
            for row in outer if not inner else ():
                if lane is None or row not in lane:
                    tall = Walk(lane, width, rows=((row, _rows_of(extents[row], memory.rows)),))
                    yield from _neighbours(tall, outer, memory)
    if reductions and memory.subgroup > 1:
        yield Walk(None, memory.subgroup, True, inner=inner, team=True)
    if not reductions or memory.width < 2:
        return
    for row in (None, *(outer if not inner else ())):
        rows = () if row is None else ((row, min(4, extents[row])),)
        yield Walk(None, memory.width, True, rows, inner)
        for other in outer if row is not None else ():
            if row is not None and other > row:
                both = (*rows, (other, min(4, extents[other])))
                yield Walk(None, memory.width, True, both, inner)


def _neighbours(walk: Walk, outer: Sequence[int], memory: Memory) -> Iterator[Walk]:
    """The walk with neighbours along each axis, where they share what caches of images hold."""
    yield walk
    if memory.image_cache:
        yield from (replace(walk, fastest=d) for d in outer if d not in (walk.lane or ()))


def _widths(kernel: KernelSamples, lane: tuple[int, ...] | None, memory: Memory) -> Iterator[int]:
    """Lanes of vectors along some axes: as many as fit, and those within a group of channels.

    ::

        x[c // 24 * 24 + k]     16 lanes along c lie in one group or in two, 8 lanes always in one
    """
    most = widest(kernel.extents, lane or (), memory)
    yield most
    if lane is None or len(lane) > 1:
        return
    for part in kernel.samples:
        for samples in part:
            digits = samples.digits(lane, row_major(len(samples.extents)))
            if len(digits) > 1 and digits[0][0] == 0:
                within = math.gcd(digits[0][1], most)
                if 4 <= within < most:
                    yield within


def widest(extents: Sequence[int], lane: tuple[int, ...], memory: Memory) -> int:
    """Lanes of the widest vector along some axes."""
    extent = math.prod(extents[d] for d in lane)
    return 1 << (min(extent, memory.width).bit_length() - 1)


def _rows_of(extent: int, most: int) -> int:
    """Rows of a tile: those that leave least of the last tile over, one step more than the most.

    ::

        7 rows are best, but 8 where the extent is 24
    """
    sizes = range(max(1, most // 2), min(extent, most * 8 // 7) + 1)
    return min(sizes, key=lambda n: (-(-extent // n) * n, -n), default=extent)


def _lanes(kernel: KernelSamples, outer: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for d in outer:
        if kernel.symbolic[d]:
            continue
        yield (d,)
        both = (d - 1, d)
        if d - 1 not in outer or kernel.symbolic[d - 1]:
            continue
        # Schedules take axes together only where no condition tells them apart.
        if not any(s.changes_condition(both) for part in kernel.samples for s in part):
            yield both
