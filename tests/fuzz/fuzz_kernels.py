"""Hypothesis strategy for kernels: a heavy operator of a kind, with what is fused around it.

A kernel is drawn as a :class:`fuzz_graphs.Graph`, whose operators the pipeline joins; most become
one function. `largest` bounds the elements of a tensor, `work` the multiplications of an operator.
"""

from __future__ import annotations

from math import prod
from typing import Any

from fuzz_graphs import Graph, without_unread
from fuzz_kernel_parts import (
    EXTENTS,
    LONG,
    KernelDrawing,
    RefusedError,
    bias,
    elementwise,
    epilogue,
    leaving,
    operand,
)
from hypothesis import reject
from hypothesis import strategies as st

# ---- contractions -------------------------------------------------------------------------------


def _product(d: KernelDrawing, left: str, right: str) -> str:
    a, b = d.shapes[left], d.shapes[right]
    longer = a if len(a) > len(b) else b
    batch = longer[:-2]
    if len(a) == len(b):
        batch = tuple(max(x, y) for x, y in zip(a[:-2], b[:-2], strict=True))
    return d.step("matmul", [left, right], {}, (*batch, a[-2], b[-1]))


def matmul(d: KernelDrawing) -> str:
    """Matrix product: square, skinny or of a vector; with a batch on one side or both."""
    batch = d.extents(d.choose([0, 0, 0, 1, 2]), 12)
    m, n = d.extents(2, d.work // 4)
    form = d.choose(["free", "free", "row", "column", "skinny"])
    if form in ("row", "skinny"):
        m = 1 if form == "row" else d.integer(2, 5)
    elif form == "column":
        n = 1
    if form in ("row", "column"):
        k = d.choose([*EXTENTS, *LONG])
    else:
        k = d.choose([e for e in EXTENTS if e * prod(batch) * m * n <= d.work] or [1])
    left_batch = [1 if d.integer(0, 5) == 0 else e for e in batch]
    right_batch = d.choose([batch, batch, []])
    if right_batch != batch:
        left_batch = batch
    left = operand(d, (*left_batch, m, k))
    right = operand(d, (*right_batch, k, n), weight=not right_batch)
    return _product(d, left, right)


def transposed_matmul(d: KernelDrawing) -> str:
    """q · kᵀ of an attention: the right operand stored as the left one, heads apart."""
    heads, rows, width = d.choose([1, 2, 3, 4]), d.choose(EXTENTS), d.choose([4, 8, 16, 24, 31])
    count = d.choose(EXTENTS) if d.flip() else rows
    if heads * rows * width * count > d.work:
        raise RefusedError("too much work")
    left = _heads(d, rows, heads, width)
    right = _heads(d, count, heads, width)
    turned = d.step("permute_dims", [right], {"axes": [0, 2, 1]}, (heads, width, count))
    return _product(d, left, turned)


def _heads(d: KernelDrawing, rows: int, heads: int, width: int) -> str:
    whole = operand(d, (rows, heads * width), 1)
    apart = d.step("reshape", [whole], {"shape": [rows, heads, width]}, (rows, heads, width))
    return d.step("permute_dims", [apart], {"axes": [1, 0, 2]}, (heads, rows, width))


def grouped_matmul(d: KernelDrawing) -> str:
    """Products of the parts of a row, side by side in the result again."""
    m, groups, k, n = d.choose(EXTENTS), d.integer(2, 5), d.choose(EXTENTS), d.choose(EXTENTS)
    if m * groups * k * n > d.work:
        raise RefusedError("too much work")
    made = _product(d, _heads(d, m, groups, k), operand(d, (groups, k, n), 1, weight=True))
    turned = d.step("permute_dims", [made], {"axes": [1, 0, 2]}, (m, groups, n))
    return d.step("reshape", [turned], {"shape": [m, groups * n]}, (m, groups * n))


def parallel_matmuls(d: KernelDrawing) -> str:
    """Two or three products of one operand; the others are results of their own."""
    m, k, n = d.extents(3, d.work // 3)
    left = operand(d, (m, k))
    for _ in range(d.integer(1, 2)):
        made = _product(d, left, operand(d, (k, n), 1, weight=True))
        epilogue(d, bias(d, made, 1) if d.flip() else made)
    return _product(d, left, operand(d, (k, n), 1, weight=True))


# ---- convolutions -------------------------------------------------------------------------------


def convolution(d: KernelDrawing) -> str:
    """Any two-dimensional convolution, depthwise and the first of a network among them."""
    form = d.choose(["free", "free", "1x1", "depthwise", "grouped", "stem", "line"])
    groups, channels, made = 1, d.choose(EXTENTS), d.choose(EXTENTS)
    if form in ("depthwise", "grouped"):
        groups = d.choose([2, 3, 4, 8, 16, 31, 32])
        each = 1 if form == "depthwise" else d.integer(1, 6)
        channels, made = groups * each, groups * d.integer(1, 3)
    elif form == "stem":
        channels = d.choose([1, 3, 4])
    side = st.sampled_from([1, 2, 3, 5, 7])
    kernel = [d.draw(side), d.draw(side)] if d.flip() else [d.draw(side)] * 2
    strides = [d.integer(1, 2), d.integer(1, 2)]
    dilation = [d.integer(1, 3), d.integer(1, 3)] if d.integer(0, 3) == 0 else [1, 1]
    if form == "1x1":
        kernel, strides = [1, 1], [d.choose([1, 1, 2])] * 2
    elif form == "stem":
        strides = [d.choose([2, 4])] * 2
    elif form == "line":
        kernel[0] = strides[0] = dilation[0] = 1
    padding = [d.integer(0, 3) for _ in range(4)] if d.flip() else [kernel[0] // 2] * 4
    budget = d.work // (made * channels // groups * prod(kernel))
    budget = min(budget, d.largest // max(made, channels * prod(strides)))
    wanted = d.extents(2, max(1, budget))
    if form == "line":
        padding[0] = padding[2] = 0
        wanted[0] = 1
    sizes, out = [], []
    for a, number in enumerate(wanted):
        span = dilation[a] * (kernel[a] - 1) + 1
        around = padding[a] + padding[a + 2]
        least = max(1, span - around)
        asked = (number - 1) * strides[a] + span - around + d.integer(0, strides[a] - 1)
        sizes.append(max(least, asked))
        out.append((sizes[a] + around - span) // strides[a] + 1)
    data = operand(d, (d.choose([1, 1, 2]), channels, *sizes), d.integer(0, 2))
    weight = operand(d, (made, channels // groups, *kernel), d.integer(0, 1), weight=True)
    attrs = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    shape = (d.shapes[data][0], made, *out)
    result = d.step("conv2d", [data, weight], attrs, shape)
    return bias(d, result, 1) if d.flip() else result


def transposed_convolution(d: KernelDrawing) -> str:
    """The gradient of a convolution by its input, as upsamplings have it."""
    groups = d.choose([1, 1, 2, 4])
    channels, made = groups * d.integer(1, 9), d.integer(1, 9)
    kernel, strides = [d.integer(1, 4), d.integer(1, 4)], [d.integer(1, 3), d.integer(1, 3)]
    dilation = [1, 1] if d.integer(0, 3) else [d.integer(1, 2), d.integer(1, 2)]
    padding = [d.integer(0, k - 1) for k in (*kernel, *kernel)]
    extra = [d.integer(0, s - 1) for s in strides]
    sizes = d.extents(2, max(1, d.work // (channels * made * prod(kernel) * prod(strides))))
    out = [
        (n - 1) * s + e * (k - 1) + 1 + x - padding[a] - padding[a + 2]
        for a, (n, s, e, k, x) in enumerate(
            zip(sizes, strides, dilation, kernel, extra, strict=True)
        )
    ]
    data = operand(d, (d.choose([1, 1, 2]), channels, *sizes), d.integer(0, 2))
    weight = operand(d, (channels, made, *kernel), d.integer(0, 1), weight=True)
    attrs = {"strides": strides, "padding": padding, "dilation": dilation}
    attrs |= {"groups": groups, "output_padding": extra}
    shape = (d.shapes[data][0], groups * made, *out)
    return d.step("conv2d_transpose", [data, weight], attrs, shape)


def pooling(d: KernelDrawing) -> str:
    """Maximum or mean of windows, padded or not."""
    size, strides = [d.integer(1, 4), d.integer(1, 4)], [d.integer(1, 3), d.integer(1, 3)]
    padding = [d.integer(0, k // 2) for k in (*size, *size)]
    channels, *sizes = d.extents(3, d.largest)
    out = [
        (n + padding[a] + padding[a + 2] - size[a]) // strides[a] + 1 for a, n in enumerate(sizes)
    ]
    if min(out) < 1:
        raise RefusedError("the window is larger than the tensor")
    data = operand(d, (1, channels, *sizes))
    attrs = {"kind": d.choose(["max", "avg"]), "size": size, "strides": strides}
    attrs |= {"padding": padding, "count_padding": d.flip()}
    return d.step("pool2d", [data], attrs, (1, channels, *out))


# ---- reductions ---------------------------------------------------------------------------------


def _rows(d: KernelDrawing, least: int = 1) -> tuple[str, tuple[int, ...]]:
    """An operand to reduce: many short rows, or few long ones."""
    count = d.integer(least, 4)
    choices = [*EXTENTS, *LONG] if d.integer(0, 2) == 0 else EXTENTS
    shape = tuple(d.extents(count, d.largest, choices))
    return operand(d, shape), shape


def softmax(d: KernelDrawing) -> str:
    """Softmax over any axis."""
    data, shape = _rows(d)
    return d.step("softmax", [data], {"axis": d.integer(0, len(shape) - 1)}, shape)


def normalisation(d: KernelDrawing) -> str:
    """Layer, group or root-mean-square normalisation."""
    op = d.choose(["layer_norm", "rms_norm", "group_norm"])
    data, shape = _rows(d, {"layer_norm": 1, "rms_norm": 2, "group_norm": 3}[op])
    if op == "group_norm":
        weights = [d.real(shape[1:2], constant=True) for _ in range(2)]
        attrs = {"groups": d.factor(shape[1]), "ndim": len(shape)}
        return d.step(op, [data, *weights], attrs, shape)
    first = len(shape) - d.integer(1, min(2, len(shape)))
    if op == "rms_norm":
        first = max(1, first)  # TVM's has no form that reduces all axes
    axes = list(range(first, len(shape)))
    count = 2 if op == "layer_norm" else 1
    weights = [d.real(shape[first:], constant=d.flip()) for _ in range(count)]
    return d.step(op, [data, *weights], {"axes": axes}, shape)


def _some_axes(d: KernelDrawing, shape: Any) -> list[int]:
    return sorted(d.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1, max_size=3)))


def reduction(d: KernelDrawing) -> str:
    """Sum, mean, extreme or variance over some axes; half of them go back into the operand."""
    data, shape = _rows(d)
    axes, again = _some_axes(d, shape), d.flip()
    keepdims = again or d.flip()
    kept = [1 if axis in axes else extent for axis, extent in enumerate(shape)]
    if not keepdims:
        kept = [extent for axis, extent in enumerate(shape) if axis not in axes]
    op = d.choose(["sum", "mean", "max", "min", "variance"])
    made = d.step(op, [data], {"axes": axes, "keepdims": keepdims}, kept)
    if not again:
        return made
    return d.step(d.choose(["subtract", "add", "maximum"]), [data, made], {}, shape)


def extreme_index(d: KernelDrawing) -> None:
    """Index of the largest or smallest element of every row."""
    data, shape = _rows(d)
    axis, keepdims = d.integer(0, len(shape) - 1), d.flip()
    kept = shape[:axis] + ((1,) if keepdims else ()) + shape[axis + 1 :]
    attrs = {"axis": axis, "keepdims": keepdims}
    d.step(d.choose(["argmax", "argmin"]), [data], attrs, kept)


# ---- nothing reduced ----------------------------------------------------------------------------


def pointwise(d: KernelDrawing) -> str:
    """Elementwise operators of operands that are read through views."""
    shape = d.extents(d.integer(1, 4), d.largest, [*EXTENTS, *LONG])
    return elementwise(d, elementwise(d, operand(d, shape)))


def selection(d: KernelDrawing) -> str:
    """Up to four views on end, which nothing follows."""
    return operand(d, d.extents(d.integer(1, 4), d.largest // 4), d.integer(2, 4))


def scatter(d: KernelDrawing) -> str:
    """Elements or slices of a tensor replaced, or added to, at places that are data."""
    shape = d.extents(d.integer(1, 3), min(d.largest, 4096))
    data = operand(d, shape, 1)
    reduction = d.choose(["update", "add"])
    if d.flip():
        axis = d.integer(0, len(shape) - 1)
        part = [d.integer(1, extent) for extent in shape]
        indices = d.tensor(tuple(part), dtype="int64", below=shape[axis])
        attrs = {"axis": axis, "reduction": reduction}
        reads = [data, indices, d.real(part)]
        return d.step("scatter_elements", reads, attrs, shape)
    depth = d.integer(1, len(shape))
    count = d.choose([1, 2, 5, 8, 17])
    indices = d.tensor((count, depth), dtype="int64", below=min(shape[:depth]))
    updates = d.real((count, *shape[depth:]))
    return d.step("scatter_nd", [data, indices, updates], {"reduction": reduction}, shape)


KINDS = {
    "contraction": [matmul, matmul, matmul, transposed_matmul, grouped_matmul, parallel_matmuls],
    "convolution": [convolution, convolution, convolution, transposed_convolution],
    "row reduction": [softmax, normalisation, reduction, extreme_index],
    "pooling": [pooling],
    "pointwise": [pointwise],
    "selection": [selection, selection, scatter],
}
# How often each kind is drawn.
_DRAWN = ["contraction"] * 4 + ["convolution"] * 4 + ["row reduction"] * 4 + list(KINDS)[3:]


@st.composite
def kernels(
    draw: Any,
    *,
    kind: str | None = None,
    dtype: str = "float32",
    largest: int = 60_000,
    work: int = 2_000_000,
) -> Graph:
    """A random kernel of a kind (:data:`KINDS`), of any where none is said."""
    d = KernelDrawing(draw, largest=largest, work=work, dtype=dtype)
    try:
        made = draw(st.sampled_from(KINDS[kind or draw(st.sampled_from(_DRAWN))]))(d)
        if made is not None and any(made in step.makes for step in d.steps):
            leaving(d, made) if draw(st.integers(0, 3)) == 0 else epilogue(d, made)
    except RefusedError:
        reject()
    read = {name for step in d.steps for name in step.reads}
    outputs = tuple(name for step in d.steps for name in step.makes if name not in read)
    if not outputs:
        reject()
    graph = Graph(tuple(d.tensors), tuple(d.steps), outputs, 0, draw(st.integers(0, 2**16)))
    return without_unread(graph)
