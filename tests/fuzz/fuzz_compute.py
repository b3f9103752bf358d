"""Random operators that compute: elementwise operators, contractions and reductions."""

from __future__ import annotations

from math import prod

from fuzz_drawing import EXTENTS, Drawing, static_axes
from fuzz_graphs import Shape, elements, is_symbolic
from hypothesis import strategies as st

HEAVIEST = 200_000  # multiplications of a contraction
UNARY = ("relu", "exp", "sigmoid", "tanh", "negative", "abs", "erf")


def unary(d: Drawing) -> None:
    name = d.operand()
    op = d.choose([*UNARY, "add_scalar", "multiply_scalar"])
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
        lambda s: (
            len(s) == 4 and len(static_axes(s[1:])) == 3 and min(s[2:]) > 1 and max(s[1:]) < 65
        )
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
    name = d.operand(lambda s: len(s) == 4 and len(static_axes(s[1:])) == 3 and min(s[2:]) > 1)
    if name is not None:
        n, c, h, w = d.shapes[name]
        size = [d.integer(1, 2), d.integer(1, 2)]
        strides = [d.integer(1, 2), d.integer(1, 2)]
        new = (n, c, (h - size[0]) // strides[0] + 1, (w - size[1]) // strides[1] + 1)
        d.emit("max_pool2d", [name], {"size": size, "strides": strides}, new)


def _some_axes(d: Drawing, shape: Shape) -> list[int]:
    return sorted(d.draw(st.sets(st.sampled_from(static_axes(shape)), min_size=1, max_size=3)))


def reduction(d: Drawing) -> None:
    name = d.operand(lambda shape: static_axes(shape) != [])
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
    name = d.operand(lambda shape: static_axes(shape) != [])
    if name is not None:
        axis = d.choose(static_axes(d.shapes[name]))
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
