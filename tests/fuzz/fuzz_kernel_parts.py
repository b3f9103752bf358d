"""What surrounds the heavy operator of a random kernel: views of operands, elementwise operators.

An operand is drawn from its shape upwards: the view that makes the shape, then what is read through
it, and so on to a graph input or constant.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

from fuzz_compute import UNARY
from fuzz_drawing import Drawing, with_extent
from fuzz_graphs import Shape
from hypothesis import strategies as st

EXTENTS = (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 16, 17, 24, 31, 32, 33, 47, 48, 49, 64, 65, 96, 97)
LONG = (127, 128, 197, 256, 500, 512, 1000)


class RefusedError(Exception):
    """What was drawn is too large; another is drawn in its place."""


class KernelDrawing(Drawing):
    """A graph for one kernel: so many elements in a tensor, so many multiplications in a step."""

    def __init__(self, draw: Any, *, largest: int, work: int, dtype: str) -> None:
        super().__init__(draw, symbolic=False, largest=largest)
        self.work = work
        self.dtype = dtype

    def step(self, op: str, reads: Any, attrs: dict[str, Any], shape: Any) -> str:
        """Emit a step with one result."""
        if min(shape, default=1) < 1:
            raise RefusedError(f"{op} makes nothing")
        name = self.emit(op, reads, attrs, tuple(shape))
        if name is None:
            raise RefusedError(f"{op} makes too much")
        return name

    def real(self, shape: Any, *, constant: bool | None = None) -> str:
        """A new tensor of real numbers."""
        shape = tuple(shape)
        if prod(shape) > 4 * self.largest:  # of which a view may take a part
            raise RefusedError("a tensor is too large")
        name = self.tensor(shape, constant=constant, dtype=self.dtype)
        self.shapes[name] = shape
        return name

    def extents(self, count: int, budget: int, choices: Any = EXTENTS) -> list[int]:
        """So many extents, of a product that the budget allows, in any order."""
        found: list[int] = []
        for _ in range(count):
            left = max(1, budget // prod(found))
            found.append(self.choose([e for e in choices if e <= left] or [1]))
        return list(self.draw(st.permutations(found)))

    def factor(self, extent: int) -> int:
        """A divisor."""
        return self.choose([f for f in range(1, extent + 1) if extent % f == 0])


# ---- operands read through views ----------------------------------------------------------------


def operand(d: KernelDrawing, shape: Any, depth: int = 2, *, weight: bool = False) -> str:
    """A tensor of that shape: as it is, through up to `depth` views, perhaps computed.

    A `weight` is a constant more often than not, and never computed.
    """
    shape = tuple(shape)
    if not weight and depth and d.integer(0, 5) == 0:
        return elementwise(d, operand(d, shape, depth - 1))
    if not depth or d.integer(0, 2) == 0:
        constant = d.integer(0, 3) > 0 if weight else d.integer(0, 7) == 0
        return d.real(shape, constant=constant)
    return d.choose(_VIEWS)(d, shape, depth - 1, weight)


def _permuted(d: KernelDrawing, shape: Shape, depth: int, weight: bool) -> str:
    axes = list(d.draw(st.permutations(range(len(shape)))))
    below = [shape[axes.index(axis)] for axis in range(len(shape))]
    return d.step("permute_dims", [operand(d, below, depth, weight=weight)], {"axes": axes}, shape)


def _factors(d: KernelDrawing, extent: int) -> list[int]:
    found = []
    while extent > 1 and len(found) < 2 and d.flip():
        found.append(d.factor(extent))
        extent //= found[-1]
    return [*found, extent]


def _reshaped(d: KernelDrawing, shape: Shape, depth: int, weight: bool) -> str:
    parts = [f for extent in shape for f in _factors(d, extent)]
    below = _merged(d, parts)
    read = operand(d, below, depth, weight=weight)
    return d.step("reshape", [read], {"shape": list(shape)}, shape)


def _merged(d: KernelDrawing, parts: list[int]) -> list[int]:
    """Neighbours multiplied at random, so that at most four are left."""
    most = min(4, len(parts)) - 1
    ends = d.draw(st.sets(st.integers(1, len(parts) - 1), max_size=most)) if most > 0 else set()
    return [prod(parts[a:b]) for a, b in pairwise([0, *sorted(ends), len(parts)])]


def _regrouped(d: KernelDrawing, shape: Shape, depth: int, weight: bool) -> str:
    """Factors of the extents in another order, as windows, heads and pixel shuffles have them."""
    parts = [f for extent in shape for f in _factors(d, extent)]
    axes = list(d.draw(st.permutations(range(len(parts)))))
    apart = [parts[axes.index(axis)] for axis in range(len(parts))]
    read = operand(d, _merged(d, apart), depth, weight=weight)
    one = d.step("reshape", [read], {"shape": apart}, apart)
    two = d.step("permute_dims", [one], {"axes": axes}, parts)
    return d.step("reshape", [two], {"shape": list(shape)}, shape)


def _sliced(d: KernelDrawing, shape: Shape, depth: int, weight: bool) -> str:
    axis = d.integer(0, len(shape) - 1)
    stride, begin, rest = d.integer(1, 2), d.integer(0, 3), d.integer(0, 3)
    end = begin + (shape[axis] - 1) * stride + 1
    read = operand(d, with_extent(shape, axis, end + rest), depth, weight=weight)
    attrs = {"axis": axis, "begin": begin, "end": end, "stride": stride}
    return d.step("strided_slice", [read], attrs, shape)


def _broadcast(d: KernelDrawing, shape: Shape, depth: int, weight: bool) -> str:
    axis = d.integer(0, len(shape) - 1)
    read = operand(d, with_extent(shape, axis, 1), depth, weight=weight)
    return d.step("broadcast_to", [read], {"shape": list(shape)}, shape)


def _padded(d: KernelDrawing, shape: Shape, depth: int, weight: bool) -> str:
    axis = d.integer(0, len(shape) - 1)
    spare = min(4, shape[axis] - 1)
    before = d.integer(0, spare)
    after = d.integer(0, spare - before)
    widths = [[0, 0] for _ in shape]
    widths[axis] = [before, after]
    read = operand(d, with_extent(shape, axis, shape[axis] - before - after), depth, weight=weight)
    attrs = {"widths": widths, "mode": "constant", "value": d.choose([0.0, 0.0, 1.5])}
    return d.step("pad", [read], attrs, shape)


def _flipped(d: KernelDrawing, shape: Shape, depth: int, weight: bool) -> str:
    axis = d.integer(0, len(shape) - 1)
    return d.step("flip", [operand(d, shape, depth, weight=weight)], {"axis": axis}, shape)


def _joined(d: KernelDrawing, shape: Shape, depth: int, weight: bool) -> str:
    axis = d.integer(0, len(shape) - 1)
    if shape[axis] < 2:
        return operand(d, shape, depth, weight=weight)
    first = d.integer(1, shape[axis] - 1)
    reads = [
        operand(d, with_extent(shape, axis, extent), depth, weight=weight)
        for extent in (first, shape[axis] - first)
    ]
    return d.step("concat", reads, {"axis": axis}, shape)


def _gathered(d: KernelDrawing, shape: Shape, depth: int, weight: bool) -> str:
    axis = d.integer(0, len(shape) - 1)
    extent = d.choose(EXTENTS)
    read = operand(d, with_extent(shape, axis, extent), depth, weight=weight)
    indices = d.tensor((shape[axis],), dtype=d.choose(["int32", "int64"]), below=extent)
    return d.step("take", [read, indices], {"axis": axis}, shape)


_RELAYOUTS = [_permuted, _reshaped, _regrouped]
_VIEWS = [*_RELAYOUTS, *_RELAYOUTS, _sliced, _broadcast, _padded, _flipped, _joined, _gathered]


# ---- elementwise operators ----------------------------------------------------------------------


def elementwise(d: KernelDrawing, name: str) -> str:
    """One elementwise operator more, with an operand that may be broadcast."""
    shape = d.shapes[name]
    kind = d.integer(0, 5)
    if kind == 0 and shape:
        condition = d.tensor(shape, constant=False, dtype="bool")
        return d.step("where", [condition, name, _other(d, shape)], {}, shape)
    if kind < 3:
        op = d.choose([*UNARY, "add_scalar", "multiply_scalar"])
        attrs = {"value": d.choose([-1.25, 0.5, 2.0])} if op.endswith("_scalar") else {}
        return d.step(op, [name], attrs, shape)
    op = d.choose(["add", "subtract", "multiply", "maximum", "minimum", "divide_safely"])
    reads = [name, _other(d, shape)]
    return d.step(op, reads if op == "divide_safely" or d.flip() else reads[::-1], {}, shape)


def _other(d: KernelDrawing, shape: Shape) -> str:
    lead = d.integer(0, len(shape) - 1) if shape else 0
    narrow = [1 if d.integer(0, 2) == 0 else extent for extent in shape[lead:]]
    return operand(d, narrow, d.integer(0, 1)) if narrow else d.real(())


def bias(d: KernelDrawing, name: str, axis: int) -> str:
    """A constant added along one axis."""
    shape = [1] * len(d.shapes[name])
    shape[axis] = d.shapes[name][axis]
    return d.step("add", [name, d.real(shape, constant=True)], {}, d.shapes[name])


def epilogue(d: KernelDrawing, name: str) -> str:
    """What follows the heavy operator: elementwise operators, then perhaps a view."""
    for _ in range(d.integer(0, 3)):
        name = elementwise(d, name)
    return leaving(d, name)


def leaving(d: KernelDrawing, name: str) -> str:
    """Perhaps a view through which the result is written."""
    shape = d.shapes[name]
    kind = d.integer(0, 6)
    if kind == 0 and len(shape) > 1:
        axes = list(d.draw(st.permutations(range(len(shape)))))
        return d.step("permute_dims", [name], {"axes": axes}, [shape[a] for a in axes])
    if kind == 1 and shape:
        new = _merged(d, [f for extent in shape for f in _factors(d, extent)])
        return d.step("reshape", [name], {"shape": new}, new)
    if kind == 2 and shape:
        axis = d.integer(0, len(shape) - 1)
        begin = d.integer(0, min(3, shape[axis] - 1))
        attrs = {"axis": axis, "begin": begin, "end": shape[axis], "stride": 1}
        return d.step("strided_slice", [name], attrs, with_extent(shape, axis, shape[axis] - begin))
    if kind == 3 and shape:
        axis = d.integer(0, len(shape) - 1)
        other = d.real(with_extent(shape, axis, d.integer(1, 5)))
        total = shape[axis] + d.shapes[other][axis]
        reads = [name, other] if d.flip() else [other, name]
        return d.step("concat", reads, {"axis": axis}, with_extent(shape, axis, total))
    return name
