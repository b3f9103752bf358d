"""How many cache lines the work-items of a group touch, by the group's shape.

::

    O[i, j] += A[i, k] * B[k, j]    16 × 16 work-items of 8 × 4 points: 128 rows of A, 64 columns
                                    of B; 64 × 4 work-items: 32 and 256, half as much again

What the work-items of a group share they fetch once, through local memory or through a cache that
holds what they need at a time. So all groups together fetch as many lines as one touches, times the
number of groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from .cache_lines import every, first_of, lines_of, starts_of
from .layouts import row_major
from .walks import Walk
from .work_item_loops import WorkItemLoops, bytes_of


class GroupTraffic:
    """Lines that groups of one kernel touch, whose layouts are what its buffers are.

    Parameters
    ----------
    model
        The kernel.
    walk
        What a work-item does.
    """

    def __init__(self, model: WorkItemLoops, walk: Walk) -> None:
        self._model = model
        self._sizes = {d: model.tile_size(walk, d) for d in range(len(model.extents))}
        self._inner = walk.inner
        self._found: dict[tuple[int, tuple[int, ...]], float] = {}

    def tiles(self, axis: int) -> int:
        """Work-items along an axis."""
        return 1 if axis in self._inner else -(-self._model.extents[axis] // self._sizes[axis])

    def groups(self, shape: Mapping[int, int]) -> int:
        """Groups of a shape: work-items along each axis, one along those that it does not name."""
        axes = range(len(self._model.extents))
        return math.prod(-(-self.tiles(d) // shape.get(d, 1)) for d in axes)

    def lines(self, shape: Mapping[int, int]) -> float:
        """Lines that all groups of a shape touch, added up."""
        each = sum(self._of(number, shape) for number in range(len(self._model.buffers)))
        return each * self.groups(shape)

    def _of(self, number: int, shape: Mapping[int, int]) -> float:
        samples = self._model.samples(number)
        layout = row_major(len(samples.extents))
        axes = [axis for axis in samples.whole if samples.digits(axis, layout)]
        own = [axis[0] for axis in axes if isinstance(axis, tuple) and axis[0] not in self._inner]
        key = number, tuple(shape.get(d, 1) for d in own)
        if key not in self._found:
            inside, beyond = [], []
            for axis in axes:
                loops = bytes_of(samples, axis, layout)
                if not isinstance(axis, tuple) or axis[0] in self._inner:
                    inside += loops
                    continue
                points = self._sizes[axis[0]] * shape.get(axis[0], 1)
                inside += first_of(loops, points)
                beyond += every(loops, points)
            line, itemsize = self._model.memory.line_bytes, samples.itemsize
            starts = starts_of(samples.origin(layout) * itemsize, beyond, line, itemsize)
            limit = math.ceil(math.prod(samples.extents) * itemsize / line)
            self._found[key] = lines_of(inside, itemsize, line, starts, limit)
        return self._found[key]
