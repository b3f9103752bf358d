"""Random operators that only move data: relayouts and selections.

Each function adds one operator, or the few that make up a pattern (a roll, a window partition), to
the graph being drawn, or nothing where no tensor fits.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

from fuzz_drawing import EXTENTS, Drawing, static_axes, with_extent
from fuzz_graphs import BATCH, is_symbolic
from hypothesis import strategies as st


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
    name = d.operand(lambda shape: static_axes(shape) != [])
    if name is not None:
        d.emit("flip", [name], {"axis": d.choose(static_axes(d.shapes[name]))}, d.shapes[name])


def pixel_shuffle(d: Drawing) -> None:
    name = d.operand(lambda s: len(s) == 4 and s[1] % 4 == 0 and len(static_axes(s[1:])) == 3)
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
    name = d.operand(
        lambda s: len(s) in (2, 3, 4) and len(static_axes(s[-3:-1] if s[2:] else s)) == 2
    )
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
    name = d.operand(lambda shape: any(shape[axis] > 1 for axis in static_axes(shape)))
    if name is not None:
        axis = d.choose([a for a in static_axes(d.shapes[name]) if d.shapes[name][a] > 1])
        _slice(d, name, axis, d.integer(1, 3))


def _slice(d: Drawing, name: str, axis: int, stride: int) -> str | None:
    shape = d.shapes[name]
    begin = d.integer(0, shape[axis] - 1)
    end = d.integer(begin + 1, shape[axis])
    attrs = {"axis": axis, "begin": begin, "end": end, "stride": stride}
    new = with_extent(shape, axis, -((begin - end) // stride))
    return d.emit("strided_slice", [name], attrs, new)


def split(d: Drawing) -> None:
    name = d.operand(lambda shape: any(shape[axis] > 1 for axis in static_axes(shape)))
    if name is None:
        return
    shape = d.shapes[name]
    axis = d.choose([a for a in static_axes(shape) if shape[a] > 1])
    places = st.sets(st.integers(1, shape[axis] - 1), min_size=1, max_size=2)
    indices = sorted(d.draw(places))
    edges = [0, *indices, shape[axis]]
    parts = [with_extent(shape, axis, b - a) for a, b in pairwise(edges)]
    d.emit("split", [name], {"indices": indices, "axis": axis}, *parts)


def concat(d: Drawing) -> None:
    name = d.operand(lambda shape: static_axes(shape) != [])
    if name is None:
        return
    shape = d.shapes[name]
    axis = d.choose(static_axes(shape))
    reads, total = [name], shape[axis]
    for _ in range(d.integer(1, 2)):
        other = d.operand(
            lambda s: (
                len(s) == len(shape) and with_extent(s, axis, 0) == with_extent(shape, axis, 0)
            )
        )
        if d.integer(0, 3) == 0:
            other = d.tensor(with_extent(shape, axis, d.choose(EXTENTS)))
            total += d.tensors[-1].shape[axis]
        else:
            total += d.shapes[other][axis]
        reads.append(other)
    if d.flip():
        reads.reverse()
    d.emit("concat", reads, {"axis": axis}, with_extent(shape, axis, total))


def pad(d: Drawing) -> None:
    name = d.operand(lambda shape: static_axes(shape) != [])
    if name is None:
        return
    shape = list(d.shapes[name])
    mode = d.choose(["constant", "constant", "replicate", "reflect", "circular"])
    widths = [[0, 0] for _ in shape]
    for axis in d.draw(st.sets(st.sampled_from(static_axes(shape)), min_size=1, max_size=2)):
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
    name = d.operand(lambda shape: static_axes(shape) != [])
    if name is not None:
        shape = d.shapes[name]
        axis, repeats = d.choose(static_axes(shape)), d.integer(2, 3)
        new = with_extent(shape, axis, repeats * shape[axis])
        d.emit("repeat", [name], {"repeats": repeats, "axis": axis}, new)


def tile(d: Drawing) -> None:
    name = d.operand(lambda shape: len(static_axes(shape)) == len(shape))
    if name is not None:
        shape = d.shapes[name]
        repeats = [d.integer(1, 2) for _ in shape]
        new = [r * e for r, e in zip(repeats, shape, strict=True)]
        d.emit("tile", [name], {"repeats": repeats}, new)


def take(d: Drawing) -> None:
    """Gather by constant or runtime indices."""
    name = d.operand(lambda shape: static_axes(shape) != [])
    if name is None:
        return
    shape = d.shapes[name]
    axis = d.choose(static_axes(shape))
    count = (d.choose(EXTENTS),) if d.flip() else (2, 3)
    dtype = d.choose(["int32", "int64"])
    indices = d.tensor(count, dtype=dtype, below=shape[axis])
    new = (*shape[:axis], *count, *shape[axis + 1 :])
    d.emit("take", [name, indices], {"axis": axis}, new)


def roll(d: Drawing) -> None:
    name = d.operand(lambda shape: any(shape[axis] > 1 for axis in static_axes(shape)))
    if name is None:
        return
    shape = d.shapes[name]
    axis = d.choose([a for a in static_axes(shape) if shape[a] > 1])
    edges = (0, d.integer(1, shape[axis] - 1), shape[axis])
    parts = []
    for begin, end in ((edges[1], edges[2]), (edges[0], edges[1])):
        attrs = {"axis": axis, "begin": begin, "end": end, "stride": 1}
        new = with_extent(shape, axis, end - begin)
        parts.append(d.emit("strided_slice", [name], attrs, new))
    d.emit("concat", parts, {"axis": axis}, shape)
