"""Where the accesses of a kernel go, sampled: how indices move along each axis.

Index expressions are evaluated at a few points and along short runs of every axis from there, so
that any view, with divisions or conditions, is treated like any other, and a physical layout needs
nothing but arithmetic on the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm_ffi import structural_walk

from .expressions import dtype_of, static, uses
from .fused_kernel import Kernel
from .index_evaluate import Evaluator
from .kernel_work import Access, Work, list_work
from .layouts import Layout

# Points at random that are looked at.
POINTS = 6
# Points along a whole axis, at most.
LONGEST = 512
# Elements that are so far from each other share no cache line.
APART = 16
# Extent that a symbolic axis is taken for.
NOMINAL = 16
_SEED = 20240427


# A loop of an access: elements from one of its steps to the next, and steps; the stride of one that
# goes nowhere in particular is None.
Digit = tuple[int | None, int]


@dataclass
class Samples:
    """Logical indices of one access.

    Attributes
    ----------
    extents : tuple[int, ...]
        Of the tensor.
    itemsize : int
        Bytes of an element.
    runs : dict
        For every run of axes: indices [points, length of the run, dimensions], and whether a
        condition around the access changes along it. A run is a tuple of axes of the sink taken
        together, or a reduced axis.
    whole : dict
        Indices [points, extent, dimensions] along the whole of every single axis; of long axes, the
        first part. The first point is the origin of all other axes.
    steps : dict
        Extent of each single axis.
    """

    extents: tuple[int, ...]
    itemsize: int
    runs: dict[Any, tuple[NDArray[np.int64], bool]]
    whole: dict[Any, NDArray[np.int64]]
    steps: dict[Any, int]
    _strides: dict[tuple[Any, Layout], int | None] = field(default_factory=dict)
    _digits: dict[tuple[Any, Layout], tuple[Digit, ...]] = field(default_factory=dict)
    _rests: dict[tuple[Any, int], bool] = field(default_factory=dict)

    def stride(self, run: Any, layout: Layout) -> int | None:
        """Elements from one point of a run to the next in a layout; None when that varies."""
        key = (run, layout)
        if key not in self._strides:
            if run not in self.runs:
                return 0
            steps = np.diff(self.offsets(self.runs[run][0], layout), axis=1)
            first = int(steps.flat[0]) if steps.size else 0
            self._strides[key] = first if (steps == first).all() else None
        return self._strides[key]

    def rests(self, run: Any, count: int) -> bool:
        """Whether an access stays where it is along every `count` points of a run, whole tiles."""
        if run not in self.runs:
            return True
        if (run, count) not in self._rests:
            self._rests[run, count] = self._rests_along(run, count)
        return self._rests[run, count]

    def _rests_along(self, run: Any, count: int) -> bool:
        if self.runs[run][1] or run not in self.whole or self.steps[run] % count:
            return False
        indices = self.whole[run]
        first = np.arange(indices.shape[1]) // count * count
        return bool((indices == indices[:, first]).all())

    def digits(self, axis: Any, layout: Layout) -> tuple[Digit, ...]:
        """Loops that a single axis amounts to in a layout, the innermost first.

        ::

            64 channels in blocks of 16, 100 elements apart:    (1, 16), (1600, 4)
        """
        key = (axis, layout)
        if key not in self._digits:
            found: tuple[Digit, ...] = ()
            if axis in self.whole:
                found = split_digits(self.offsets(self.whole[axis], layout), self.steps[axis])
            self._digits[key] = found
        return self._digits[key]

    def moves(self, axis: Any, dim: int) -> bool:
        """Whether the index of a dimension of the tensor changes along a single axis."""
        if axis not in self.whole:
            return False
        column = self.whole[axis][..., dim]
        return bool((column != column[:, :1]).any())

    def origin(self, layout: Layout) -> int:
        """Place of the element at the start of all axes, or of one of them."""
        for indices in self.whole.values():
            return int(self.offsets(indices[:1, :1], layout)[0, 0])
        return 0

    def offsets(self, indices: NDArray[np.int64], layout: Layout) -> NDArray[np.int64]:
        """Places [points, length] of elements."""
        columns = [indices[..., d] for d in range(len(self.extents))]
        placed = layout.indices(columns)
        strides = layout.strides(self.extents)
        zero = np.zeros(indices.shape[:2], np.int64)
        return sum((c * s for c, s in zip(placed, strides, strict=True)), start=zero)

    def changes_condition(self, run: Any) -> bool:
        """Whether a condition around the access changes along a run."""
        return run in self.runs and self.runs[run][1]


def split_digits(offsets: NDArray[np.int64], extent: int) -> tuple[Digit, ...]:
    """Nested loops that give the places of every row, each from its start.

    `extent` is that of the axis, of which the places may be the first part.
    """
    moved = offsets - offsets[:, :1]
    if not moved.any():
        return ()
    digits = None if (moved != moved[0]).any() else _nested(moved[0])
    if digits is None:
        return _pieces(moved, extent)
    stride, _ = digits[-1]
    done = int(np.prod([count for _, count in digits[:-1]], initial=1))
    digits[-1] = (stride, -(-extent // done))
    return tuple(digits)


def _nested(places: NDArray[np.int64]) -> list[Digit] | None:
    digits: list[Digit] = []
    while len(places) > 1:
        steps = np.diff(places)
        changed = np.flatnonzero(steps != steps[0])
        count = int(changed[0]) + 1 if changed.size else len(places)
        again = places[::count]
        if (
            (np.arange(count) * steps[0] + again[:, None]).reshape(-1)[: len(places)] != places
        ).any():
            return None
        digits.append((int(steps[0]), count))
        places = again
    return digits


def _pieces(moved: NDArray[np.int64], extent: int) -> tuple[Digit, ...]:
    """Pieces of neighbouring elements that lie anywhere, as many as in an average row."""
    pieces = spans = 0
    for row in moved:
        places = np.unique(row)
        breaks = np.flatnonzero(np.diff(places) >= APART)
        pieces += len(breaks) + 1
        first, last = places[[0, *(breaks + 1)]], places[[*breaks, -1]]
        spans += int((last - first + 1).sum())
    count = pieces / len(moved) * max(1.0, extent / moved.shape[1])
    return ((1, max(1, round(spans / pieces))), (None, max(1, round(count))))


@dataclass
class KernelSamples:
    """Samples of every access of a kernel, and the axes they are along.

    Attributes
    ----------
    extents : tuple[int, ...]
        Of the sink's axes.
    work : list of Work
        Stages and sink, see :mod:`.kernel_work`.
    samples : list of list of Samples
        For each of the work's accesses.
    """

    extents: tuple[int, ...]
    symbolic: tuple[bool, ...]
    work: list[Work]
    samples: list[list[Samples]]


def sample(kernel: Kernel, runs: Sequence[tuple[int, ...]], length: int) -> KernelSamples:
    """Sample a kernel along runs of neighbouring axes of its sink and all reduced axes.

    Parameters
    ----------
    kernel
        What is sampled.
    runs
        Axes of the sink, by number, that are taken together; a run is followed at its innermost
        axis first.
    length
        Points of a run, at most.
    """
    work = list_work(kernel)
    extents = tuple(static(axis.extent) or NOMINAL for axis in kernel.sink.axes)
    symbolic = tuple(static(axis.extent) is None for axis in kernel.sink.axes)
    sampler = _Sampler(kernel, extents, length)
    samples = [[sampler.of(part, access, runs) for access in part.accesses] for part in work]
    return KernelSamples(extents, symbolic, work, samples)


class _Sampler:
    def __init__(self, kernel: Kernel, extents: tuple[int, ...], length: int) -> None:
        self.axes = [axis.var for axis in kernel.sink.axes]
        self.extents = extents
        self.length = length
        self.symbols: dict[Any, NDArray[np.int64]] = {}

    def of(self, part: Work, access: Access, runs: Sequence[tuple[int, ...]]) -> Samples:
        parts = (*access.indices, *access.conditions)
        own = {var: extent for var, extent in part.reduced}
        domain = dict(zip(self.axes, self.extents, strict=True)) | own
        used = {var for var in domain if any(uses(expr, var) for expr in parts)}
        found: dict[Any, tuple[NDArray[np.int64], bool]] = {}
        whole: dict[Any, NDArray[np.int64]] = {}
        steps: dict[Any, int] = {}
        for run in runs:
            members = [(self.axes[d], self.extents[d]) for d in run]
            if any(var in used for var, _ in members):
                found[run] = self._along(access, domain, members, self.length)
        for var, extent in part.reduced:
            if var in used and extent > 1:
                found[var] = self._along(access, domain, [(var, extent)], self.length)
        for axis in found:
            if not isinstance(axis, tuple) or len(axis) == 1:
                var = self.axes[axis[0]] if isinstance(axis, tuple) else axis
                steps[axis] = domain[var]
                whole[axis], _ = self._along(access, domain, [(var, domain[var])], LONGEST)
        shape = tuple(static(extent) or NOMINAL for extent in access.buffer.shape)
        return Samples(shape, _itemsize(access.buffer), found, whole, steps)

    def _along(
        self, access: Access, domain: dict[Any, int], members: list[tuple[Any, int]], most: int
    ) -> tuple[NDArray[np.int64], bool]:
        rng = np.random.default_rng(_SEED)
        total = int(np.prod([extent for _, extent in members]))
        length = min(most, total)
        points = self._points(rng, domain)
        count = len(next(iter(points.values())))
        # The first vector, the last one, and some between, all whole.
        first = rng.integers(0, max(total // length, 1), count) * length
        first[::2], first[1::4] = 0, total - length
        if most == LONGEST:
            first[:] = 0
        along = first[:, None] + np.arange(length)
        shape = along.shape
        values: dict[Any, NDArray[Any]] = {
            var: np.broadcast_to(column[:, None], shape).reshape(-1)
            for var, column in points.items()
        }
        columns = np.unravel_index(along.reshape(-1), [extent for _, extent in members])
        values |= {var: column for (var, _), column in zip(members, columns, strict=True)}
        self._add_symbols(access, values)
        evaluator = Evaluator(values, _some_element)
        indices = [np.asarray(evaluator.of(i), np.int64).reshape(shape) for i in access.indices]
        stacked = np.stack(indices, -1) if indices else np.zeros((*shape, 0), np.int64)
        changes = any(
            (np.diff(evaluator.of(c).reshape(shape).astype(np.int8), axis=1) != 0).any()
            for c in access.conditions
        )
        return stacked, bool(changes)

    @staticmethod
    def _points(rng: np.random.Generator, domain: dict[Any, int]) -> dict[Any, NDArray[np.int64]]:
        """Points of a domain: its corners, at random, and with one axis at an end.

        Conditions change at the ends of axes, and seldom where two axes are at an end at once.
        """
        found = {}
        for number, (var, extent) in enumerate(domain.items()):
            ends = np.full(2 * len(domain), extent // 2)
            ends[[2 * number, 2 * number + 1]] = 0, extent - 1
            found[var] = np.concatenate([[0, extent - 1], rng.integers(0, extent, POINTS), ends])
        return found

    def _add_symbols(self, access: Access, values: dict[Any, NDArray[Any]]) -> None:
        """Shape variables get a value; they stand in indices of flattened tensors."""
        size = len(next(iter(values.values())))

        def visit(var: Any) -> None:
            if var not in values and isinstance(var.ty, tvm.ir.PrimType):
                values[var] = np.full(size, NOMINAL)

        for expr in (*access.indices, *access.conditions):
            structural_walk(expr, (tvm.ir.Var, visit))


def _some_element(_buffer: Any, indices: list[NDArray[Any]]) -> NDArray[Any]:
    """Data that is used as an index: small numbers without order."""
    mixed = np.asarray(sum(indices)) if indices else np.asarray(0)
    return np.asarray((mixed * 7919 + 13) % 31, np.int64)


def _itemsize(buffer: Any) -> int:
    return int(tvm.DataType(dtype_of(buffer)).itemsize)
