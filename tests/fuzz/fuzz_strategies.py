"""Hypothesis strategy for random graphs of 3 to 12 operators.

Each function of :data:`KINDS` adds one operator, or the few that make up a pattern (a roll, a window
partition), to the graph being drawn, or nothing where no tensor fits.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from fuzz_graphs import BATCH, BOUND, Graph, Shape, Step, Tensor, elements, is_symbolic
from hypothesis import strategies as st

EXTENTS = (1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 17)
LARGEST = 3000  # elements of a tensor
HEAVIEST = 200_000  # multiplications of a contraction


class Drawing:
    """A graph that grows; `draw` is Hypothesis's."""

    def __init__(self, draw: Any, *, symbolic: bool) -> None:
        self.draw = draw
        self.symbolic = symbolic
        self.tensors: list[Tensor] = []
        self.steps: list[Step] = []
        self.shapes: dict[str, Shape] = {}  # of what later steps may read
        self.numbers = 0

    def choose(self, choices: Any) -> Any:
        return self.draw(st.sampled_from(list(choices)))

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def tensor(self, shape: Shape, *, constant: bool | None = None, **kind: Any) -> str:
        """New input or constant; what has the symbolic batch is an input."""
        if any(is_symbolic(e) for e in shape):
            constant = False
        if constant is None:
            constant = self.flip()
        name = f"{'c' if constant else 'x'}{self.numbers}"
        self.numbers += 1
        self.tensors.append(Tensor(name, tuple(shape), **kind))
        return name

    def operand(self, fits: Callable[[Shape], bool] = lambda shape: True) -> str | None:
        """A tensor that fits, more often a late one."""
        names = [name for name, shape in self.shapes.items() if fits(shape)]
        if not names:
            return None
        if self.flip():
            return names[-1]
        return self.choose(names)

    def emit(self, op: str, reads: Any, attrs: dict[str, Any], *shapes: Any) -> str | None:
        """The step's first result; None where it would be too large."""
        if any(elements(shape) > LARGEST for shape in shapes):
            return None
        step = Step(f"v{len(self.steps)}", op, tuple(reads), attrs, tuple(tuple(s) for s in shapes))
        self.steps.append(step)
        self.shapes.update(zip(step.makes, step.shapes, strict=True))
        return step.makes[0]


def _static(shape: Shape) -> list[int]:
    return [axis for axis, extent in enumerate(shape) if not is_symbolic(extent)]


def _replaced(shape: Shape, axis: int, extent: int) -> Shape:
    return (*shape[:axis], extent, *shape[axis + 1 :])


def _factors(d: Drawing, extent: int, most: int) -> list[int]:
    found = []
    while len(found) < most - 1 and extent > 1 and d.flip():
        factor = d.choose([f for f in range(1, 17) if extent % f == 0])
        found.append(factor)
        extent //= factor
    return [*found, extent]


def reshape(d: Drawing) -> None:
    name = d.operand()
    shape = d.shapes[name]
    new = _factors(d, prod(shape), 5)
    if sum(is_symbolic(e) for e in new) > 1 or any(e > BATCH and not is_symbolic(e) for e in new):
        return
    if not any(is_symbolic(e) for e in shape):
        new = d.draw(st.permutations(new))
    d.emit("reshape", [name], {"shape": list(new)}, new)


def permute_dims(d: Drawing) -> None:
    name = d.operand(lambda shape: len(shape) > 1)
    if name is not None:
        shape = d.shapes[name]
        axes = d.draw(st.permutations(range(len(shape))))
        d.emit("permute_dims", [name], {"axes": list(axes)}, [shape[a] for a in axes])


def expand_dims(d: Drawing) -> None:
    name = d.operand(lambda shape: len(shape) < 6)
    if name is not None:
        shape = d.shapes[name]
        axis = d.integer(0, len(shape))
        d.emit("expand_dims", [name], {"axis": axis}, (*shape[:axis], 1, *shape[axis:]))


def squeeze(d: Drawing) -> None:
    name = d.operand(lambda shape: 1 in shape and len(shape) > 1)
    if name is not None:
        shape = d.shapes[name]
        axis = d.choose([a for a, extent in enumerate(shape) if extent == 1])
        d.emit("squeeze", [name], {"axis": axis}, (*shape[:axis], *shape[axis + 1 :]))


def flip(d: Drawing) -> None:
    name = d.operand(lambda shape: _static(shape) != [])
    if name is not None:
        d.emit("flip", [name], {"axis": d.choose(_static(d.shapes[name]))}, d.shapes[name])


def pixel_shuffle(d: Drawing) -> None:
    name = d.operand(lambda s: len(s) == 4 and s[1] % 4 == 0 and len(_static(s[1:])) == 3)
    if name is None:
        return
    n, c, h, w = d.shapes[name]
    apart, merged = (n, c // 4, 2, 2, h, w), (n, c // 4, 2 * h, 2 * w)
    one = d.emit("reshape", [name], {"shape": list(apart)}, apart)
    if one is not None:
        axes = [0, 1, 4, 2, 5, 3]
        two = d.emit("permute_dims", [one], {"axes": axes}, [apart[a] for a in axes])
        d.emit("reshape", [two], {"shape": list(merged)}, merged)


def window_partition(d: Drawing) -> None:
    """[…, a·p, b·q, …] → windows of p × q, as vision transformers do."""
    name = d.operand(lambda s: len(s) in (2, 3, 4) and len(_static(s[-3:-1] if s[2:] else s)) == 2)
    if name is None:
        return
    shape = d.shapes[name]
    at = len(shape) - 3 if len(shape) > 2 else 0
    (h, w), before, after = shape[at : at + 2], shape[:at], shape[at + 2 :]
    p, q = (d.choose([f for f in range(1, e + 1) if e % f == 0]) for e in (h, w))
    apart = (*before, h // p, p, w // q, q, *after)
    axes = [*range(at), at, at + 2, at + 1, at + 3, *range(at + 4, len(apart))]
    merged = (*before, h // p * (w // q), p * q, *after)
    one = d.emit("reshape", [name], {"shape": list(apart)}, apart)
    if one is not None:
        two = d.emit("permute_dims", [one], {"axes": axes}, [apart[a] for a in axes])
        d.emit("reshape", [two], {"shape": list(merged)}, merged)


def strided_slice(d: Drawing) -> None:
    name = d.operand(lambda shape: any(shape[axis] > 1 for axis in _static(shape)))
    if name is not None:
        axis = d.choose([a for a in _static(d.shapes[name]) if d.shapes[name][a] > 1])
        _slice(d, name, axis, d.integer(1, 3))


def _slice(d: Drawing, name: str, axis: int, stride: int) -> str | None:
    shape = d.shapes[name]
    begin = d.integer(0, shape[axis] - 1)
    end = d.integer(begin + 1, shape[axis])
    attrs = {"axis": axis, "begin": begin, "end": end, "stride": stride}
    new = _replaced(shape, axis, -((begin - end) // stride))
    return d.emit("strided_slice", [name], attrs, new)


def split(d: Drawing) -> None:
    name = d.operand(lambda shape: any(shape[axis] > 1 for axis in _static(shape)))
    if name is None:
        return
    shape = d.shapes[name]
    axis = d.choose([a for a in _static(shape) if shape[a] > 1])
    places = st.sets(st.integers(1, shape[axis] - 1), min_size=1, max_size=2)
    indices = sorted(d.draw(places))
    edges = [0, *indices, shape[axis]]
    parts = [_replaced(shape, axis, b - a) for a, b in zip(edges, edges[1:], strict=False)]
    d.emit("split", [name], {"indices": indices, "axis": axis}, *parts)


def concat(d: Drawing) -> None:
    name = d.operand(lambda shape: _static(shape) != [])
    if name is None:
        return
    shape = d.shapes[name]
    axis = d.choose(_static(shape))
    reads, total = [name], shape[axis]
    for _ in range(d.integer(1, 2)):
        other = d.operand(
            lambda s: len(s) == len(shape) and _replaced(s, axis, 0) == _replaced(shape, axis, 0)
        )
        if d.integer(0, 3) == 0:
            other = d.tensor(_replaced(shape, axis, d.choose(EXTENTS)))
            total += d.tensors[-1].shape[axis]
        else:
            total += d.shapes[other][axis]
        reads.append(other)
    if d.flip():
        reads.reverse()
    d.emit("concat", reads, {"axis": axis}, _replaced(shape, axis, total))


def pad(d: Drawing) -> None:
    name = d.operand(lambda shape: _static(shape) != [])
    if name is None:
        return
    shape = list(d.shapes[name])
    mode = d.choose(["constant", "constant", "replicate", "reflect", "circular"])
    widths = [[0, 0] for _ in shape]
    for axis in d.draw(st.sets(st.sampled_from(_static(shape)), min_size=1, max_size=2)):
        most = {"reflect": shape[axis] - 1, "circular": shape[axis]}.get(mode, 3)
        widths[axis] = [d.integer(0, min(3, most)), d.integer(0, min(3, most))]
        shape[axis] += sum(widths[axis])
    value = d.choose([0.0, 0.0, 1.5]) if mode == "constant" else 0.0
    d.emit("pad", [name], {"widths": widths, "mode": mode, "value": value}, shape)


def broadcast_to(d: Drawing) -> None:
    name = d.operand(lambda shape: len(shape) < 5)
    if name is None:
        return
    shape = [d.choose(EXTENTS) if e == 1 else e for e in d.shapes[name]]
    if d.flip():
        shape.insert(0, d.choose(EXTENTS))
    d.emit("broadcast_to", [name], {"shape": shape}, shape)


def repeat(d: Drawing) -> None:
    name = d.operand(lambda shape: _static(shape) != [])
    if name is not None:
        shape = d.shapes[name]
        axis, repeats = d.choose(_static(shape)), d.integer(2, 3)
        new = _replaced(shape, axis, repeats * shape[axis])
        d.emit("repeat", [name], {"repeats": repeats, "axis": axis}, new)


def tile(d: Drawing) -> None:
    name = d.operand(lambda shape: len(_static(shape)) == len(shape))
    if name is not None:
        shape = d.shapes[name]
        repeats = [d.integer(1, 2) for _ in shape]
        new = [r * e for r, e in zip(repeats, shape, strict=True)]
        d.emit("tile", [name], {"repeats": repeats}, new)


def take(d: Drawing) -> None:
    """Gather by constant or runtime indices."""
    name = d.operand(lambda shape: _static(shape) != [])
    if name is None:
        return
    shape = d.shapes[name]
    axis = d.choose(_static(shape))
    count = (d.choose(EXTENTS),) if d.flip() else (2, 3)
    dtype = d.choose(["int32", "int64"])
    indices = d.tensor(count, dtype=dtype, below=shape[axis])
    new = (*shape[:axis], *count, *shape[axis + 1 :])
    d.emit("take", [name, indices], {"axis": axis}, new)


def roll(d: Drawing) -> None:
    name = d.operand(lambda shape: any(shape[axis] > 1 for axis in _static(shape)))
    if name is None:
        return
    shape = d.shapes[name]
    axis = d.choose([a for a in _static(shape) if shape[a] > 1])
    edges = (0, d.integer(1, shape[axis] - 1), shape[axis])
    parts = []
    for begin, end in ((edges[1], edges[2]), (edges[0], edges[1])):
        attrs = {"axis": axis, "begin": begin, "end": end, "stride": 1}
        new = _replaced(shape, axis, end - begin)
        parts.append(d.emit("strided_slice", [name], attrs, new))
    d.emit("concat", parts, {"axis": axis}, shape)


def unary(d: Drawing) -> None:
    name = d.operand()
    op = d.choose(
        ["relu", "exp", "sigmoid", "tanh", "negative", "abs", "erf", "add_scalar"]
        + ["multiply_scalar"]
    )
    attrs = {"value": d.choose([-1.25, 0.5, 2.0])} if op.endswith("_scalar") else {}
    d.emit(op, [name], attrs, d.shapes[name])


def _broadcastable(d: Drawing, shape: Shape) -> str:
    """Another operand of an elementwise operator: of this shape, or broadcast to it."""

    def fits(other: Shape) -> bool:
        tail = shape[len(shape) - len(other) :] if len(other) <= len(shape) else ()
        return len(tail) == len(other) and all(
            o in (1, s) for o, s in zip(other, tail, strict=True)
        )

    name = d.operand(fits)
    if name is not None and d.integer(0, 3):
        return name
    lead = d.integer(0, len(shape) - 1) if shape else 0
    return d.tensor(tuple(1 if d.integer(0, 3) == 0 else e for e in shape[lead:]))


def binary(d: Drawing) -> None:
    name = d.operand()
    shape = d.shapes[name]
    other = _broadcastable(d, shape)
    op = d.choose(["add", "subtract", "multiply", "maximum", "minimum", "divide_safely"])
    known = d.shapes.get(other)
    reads = [name, other]
    if op != "divide_safely" and (known is None or d.flip()):
        reads.reverse()
    d.emit(op, reads, {}, shape)


def where(d: Drawing) -> None:
    name = d.operand()
    shape = d.shapes[name]
    if d.flip():
        condition = d.tensor(shape, constant=False, dtype="bool")
        d.emit("where", [condition, name, _broadcastable(d, shape)], {}, shape)
    else:
        first = _broadcastable(d, shape)
        attrs = {"value": d.choose([0.1, -0.3])}
        d.emit("where_greater", [name, first, _broadcastable(d, shape)], attrs, shape)


def matmul(d: Drawing) -> None:
    name = d.operand(lambda shape: len(shape) > 1 and not is_symbolic(shape[-1]))
    if name is None:
        return
    *batch, rows, inner = d.shapes[name]
    other = d.operand(
        lambda s: (
            len(s) > 1
            and s[-2] == inner
            and not is_symbolic(s[-1])
            and (len(s) == 2 or s[:-2] == tuple(batch))
        )
    )
    if other is None or d.integer(0, 2) == 0:
        stacked = batch if d.integer(0, 2) == 0 else []
        columns = d.choose(EXTENTS)
        other = d.tensor((*stacked, inner, columns))
    else:
        columns = d.shapes[other][-1]
    new = (*batch, rows, columns)
    if elements(new) * inner <= HEAVIEST:
        d.emit("matmul", [name, other], {}, new)


def parallel_matmuls(d: Drawing) -> None:
    """Two or three products of one tensor, as an attention's q, k and v."""
    name = d.operand(lambda shape: len(shape) > 1 and not is_symbolic(shape[-1]))
    if name is None:
        return
    *batch, rows, inner = d.shapes[name]
    columns = d.choose(EXTENTS)
    if elements((*batch, rows, columns)) * inner > HEAVIEST:
        return
    for _ in range(d.integer(2, 3)):
        weight = d.tensor((inner, columns))
        d.emit("matmul", [name, weight], {}, (*batch, rows, columns))


def conv2d(d: Drawing) -> None:
    name = d.operand(
        lambda s: len(s) == 4 and len(_static(s[1:])) == 3 and min(s[2:]) > 1 and max(s[1:]) < 65
    )
    if name is None:
        return
    n, c, h, w = d.shapes[name]
    groups = d.choose([g for g in range(1, c + 1) if c % g == 0])
    made = groups * d.integer(1, 3)
    size = [d.integer(1, 3), d.integer(1, 3)]
    strides = [d.integer(1, 2), d.integer(1, 2)]
    dilation = [d.integer(1, 2), d.integer(1, 2)]
    padding = [d.integer(0, 2) for _ in range(4)]
    spans = [k * (s - 1) + 1 for s, k in zip(size, dilation, strict=True)]
    rest = [h + padding[0] + padding[2] - spans[0], w + padding[1] + padding[3] - spans[1]]
    if min(rest) < 0:
        return
    new = (n, made, rest[0] // strides[0] + 1, rest[1] // strides[1] + 1)
    weight_shape = (made, c // groups, *size)
    if elements(new) * prod(weight_shape[1:]) > HEAVIEST:
        return
    weight = d.tensor(weight_shape)
    attrs = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    d.emit("conv2d", [name, weight], attrs, new)


def max_pool2d(d: Drawing) -> None:
    name = d.operand(lambda s: len(s) == 4 and len(_static(s[1:])) == 3 and min(s[2:]) > 1)
    if name is not None:
        n, c, h, w = d.shapes[name]
        size = [d.integer(1, 2), d.integer(1, 2)]
        strides = [d.integer(1, 2), d.integer(1, 2)]
        new = (n, c, (h - size[0]) // strides[0] + 1, (w - size[1]) // strides[1] + 1)
        d.emit("max_pool2d", [name], {"size": size, "strides": strides}, new)


def _some_axes(d: Drawing, shape: Shape) -> list[int]:
    return sorted(d.draw(st.sets(st.sampled_from(_static(shape)), min_size=1, max_size=3)))


def reduction(d: Drawing) -> None:
    name = d.operand(lambda shape: _static(shape) != [])
    if name is None:
        return
    shape = d.shapes[name]
    axes, keepdims = _some_axes(d, shape), d.flip()
    kept = [1 if axis in axes else e for axis, e in enumerate(shape)]
    new = kept if keepdims else [e for axis, e in enumerate(shape) if axis not in axes]
    op = d.choose(["sum", "mean", "max", "min", "variance"])
    if not new:
        return
    d.emit(op, [name], {"axes": axes, "keepdims": keepdims}, new)


def softmax(d: Drawing) -> None:
    name = d.operand(lambda shape: _static(shape) != [])
    if name is not None:
        axis = d.choose(_static(d.shapes[name]))
        d.emit("softmax", [name], {"axis": axis}, d.shapes[name])


def layer_norm(d: Drawing) -> None:
    name = d.operand(lambda shape: not is_symbolic(shape[-1]))
    if name is None:
        return
    shape = d.shapes[name]
    most = 2 if len(shape) > 1 and not is_symbolic(shape[-2]) else 1
    count = d.integer(1, most)
    axes = list(range(len(shape) - count, len(shape)))
    weights = [d.tensor(shape[len(shape) - count :], constant=True) for _ in range(2)]
    d.emit("layer_norm", [name, *weights], {"axes": axes}, shape)


RELAYOUTS = [reshape, permute_dims, expand_dims, squeeze, flip, pixel_shuffle, window_partition]
SELECTIONS = [strided_slice, split, concat, pad, broadcast_to, repeat, tile, take, roll]
ELEMENTWISE = [unary, binary, where]
HEAVY = [matmul, parallel_matmuls, conv2d, max_pool2d, reduction, softmax, layer_norm]
KINDS = (RELAYOUTS, SELECTIONS, ELEMENTWISE, HEAVY)


@st.composite
def graphs(draw: Any, *, symbolic: bool | None = None) -> Graph:
    """A random graph; with a symbolic batch if so said, or in one of four where nothing is."""
    if symbolic is None:
        symbolic = draw(st.integers(0, 3)) == 3
    d = Drawing(draw, symbolic=symbolic)
    for number in range(draw(st.integers(1, 2))):
        shape = tuple(draw(st.lists(st.sampled_from(EXTENTS), min_size=1, max_size=4)))
        while elements(shape) > LARGEST // 4:
            shape = shape[1:]
        if symbolic and (number == 0 or draw(st.booleans())):
            shape = (BATCH, *shape[:3])
        name = d.tensor(shape, constant=False)
        d.shapes[name] = shape
    wanted = draw(st.integers(3, 12))
    for _ in range(2 * wanted):
        if len(d.steps) >= wanted:
            break
        draw(st.sampled_from(draw(st.sampled_from(KINDS))))(d)
    return _finished(d)


def _finished(d: Drawing) -> Graph:
    """Outputs: what nobody reads, and now and then a tensor in the middle or a graph input."""
    read = {name for step in d.steps for name in step.reads}
    made = [name for step in d.steps for name in step.makes]
    outputs = [name for name in made if name not in read]
    for name in made:
        if name in read and d.integer(0, 7) == 0:
            outputs.append(name)
    tensors = {name for step in d.steps for name in step.reads}
    kept = tuple(t for t in d.tensors if t.name in tensors)
    has_batch = any(is_symbolic(e) for t in kept for e in t.shape)
    n = d.integer(1, BOUND) if has_batch else 0
    return Graph(kept, tuple(d.steps), tuple(outputs), n, d.integer(0, 2**16))
