"""A random graph while it grows, for the functions that add operators to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fuzz_graphs import Shape, Step, Tensor, elements, is_symbolic
from hypothesis import strategies as st

EXTENTS = (1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 17)
LARGEST = 3000  # elements of a tensor


class Drawing:
    """A graph that grows, of tensors of so many elements; `draw` is Hypothesis's."""

    def __init__(self, draw: Any, *, symbolic: bool, largest: int = LARGEST) -> None:
        self.draw = draw
        self.symbolic = symbolic
        self.largest = largest
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
        if any(elements(shape) > self.largest for shape in shapes):
            return None
        step = Step(f"v{len(self.steps)}", op, tuple(reads), attrs, tuple(tuple(s) for s in shapes))
        self.steps.append(step)
        self.shapes.update(zip(step.makes, step.shapes, strict=True))
        return step.makes[0]


def static_axes(shape: Shape) -> list[int]:
    """Axes without the symbolic batch."""
    return [axis for axis, extent in enumerate(shape) if not is_symbolic(extent)]


def with_extent(shape: Shape, axis: int, extent: int) -> Shape:
    """The shape with another extent."""
    return (*shape[:axis], extent, *shape[axis + 1 :])
