"""Hypothesis strategy for random graphs of 3 to 12 operators."""

from __future__ import annotations

from typing import Any

import fuzz_compute as compute
import fuzz_movement as movement
from fuzz_drawing import EXTENTS, LARGEST, Drawing
from fuzz_graphs import BATCH, BOUND, Graph, elements, is_symbolic
from hypothesis import strategies as st

RELAYOUTS = [
    movement.reshape,
    movement.permute_dims,
    movement.expand_dims,
    movement.squeeze,
    movement.flip,
    movement.pixel_shuffle,
    movement.window_partition,
]
SELECTIONS = [
    movement.strided_slice,
    movement.split,
    movement.concat,
    movement.pad,
    movement.broadcast_to,
    movement.repeat,
    movement.tile,
    movement.take,
    movement.roll,
]
ELEMENTWISE = [compute.unary, compute.binary, compute.where]
HEAVY = [
    compute.matmul,
    compute.parallel_matmuls,
    compute.conv2d,
    compute.max_pool2d,
    compute.reduction,
    compute.softmax,
    compute.layer_norm,
]
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
