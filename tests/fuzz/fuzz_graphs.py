"""Random graphs as data: what the generator draws, the reference computes and a file keeps.

Tensors have names: ``x0`` is a graph input, ``c1`` a constant, ``v2`` what step 2 makes, ``v2.1``
the second of several. All are float32 but indices and the masks of ``where``; in a graph of half
precision the tensors are float16, and operators cast what they need.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

import numpy as np

# The extent k * BATCH stands for k * n with n symbolic. A prime that no static extent reaches.
BATCH = 10_007
BOUND = 8  # the declared upper bound of n
Shape = tuple[int, ...]


def is_symbolic(extent: int) -> bool:
    """Whether the extent is a multiple of the symbolic batch."""
    return extent > 0 and extent % BATCH == 0


def at(shape: Iterable[int], n: int) -> Shape:
    """The shape where the batch is `n`."""
    return tuple(e // BATCH * n if is_symbolic(e) else e for e in shape)


def elements(shape: Iterable[int]) -> int:
    """Elements at the largest batch."""
    return prod(at(shape, BOUND))


@dataclass(frozen=True)
class Tensor:
    """A graph input or constant; `below` is set for indices, which are smaller."""

    name: str
    shape: Shape
    dtype: str = "float32"
    below: int = 0

    @property
    def is_constant(self) -> bool:
        return self.name.startswith("c")


@dataclass(frozen=True)
class Step:
    """One operator: the names that it reads, its attributes and the shapes that it makes."""

    name: str
    op: str
    reads: tuple[str, ...]
    attrs: dict[str, Any]
    shapes: tuple[Shape, ...]

    @property
    def makes(self) -> tuple[str, ...]:
        if len(self.shapes) == 1:
            return (self.name,)
        return tuple(f"{self.name}.{number}" for number in range(len(self.shapes)))


@dataclass(frozen=True)
class Graph:
    """A graph; `n` is the batch that it is run with, 0 if it is static."""

    tensors: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    n: int = 0
    seed: int = field(default=0, compare=False)

    @property
    def inputs(self) -> list[Tensor]:
        return [tensor for tensor in self.tensors if not tensor.is_constant]

    @property
    def storage(self) -> str:
        """The type of tensors of real numbers."""
        half = any(tensor.dtype == "float16" for tensor in self.tensors)
        return "float16" if half else "float32"

    def values(self) -> dict[str, np.ndarray]:
        """Inputs and constants by name, from the seed."""
        values = {}
        for tensor in self.tensors:
            # By name, so that what is left of a graph keeps its values.
            number = int(tensor.name[1:])
            rng = np.random.default_rng([self.seed, number])
            shape = at(tensor.shape, self.n)
            if tensor.below:
                values[tensor.name] = rng.integers(0, tensor.below, shape).astype(tensor.dtype)
            elif tensor.dtype == "bool":
                values[tensor.name] = rng.random(shape) < 0.5
            else:
                values[tensor.name] = rng.standard_normal(shape).astype(tensor.dtype)
        return values

    def to_json(self) -> str:
        """The graph as JSON."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Graph:
        """The graph that :meth:`to_json` wrote."""
        stored = json.loads(text)
        return Graph(
            tuple(Tensor(**{**t, "shape": tuple(t["shape"])}) for t in stored["tensors"]),
            tuple(
                Step(
                    s["name"],
                    s["op"],
                    tuple(s["reads"]),
                    s["attrs"],
                    tuple(tuple(shape) for shape in s["shapes"]),
                )
                for s in stored["steps"]
            ),
            tuple(stored["outputs"]),
            stored["n"],
            stored["seed"],
        )

    def __str__(self) -> str:
        """One line for each step, as a failure shows it."""
        lines = [f"{t.name}: {t.dtype}{list(t.shape)}" for t in self.tensors]
        for step in self.steps:
            attrs = ", ".join(f"{key}={value}" for key, value in step.attrs.items())
            shapes = ", ".join(str(list(shape)) for shape in step.shapes)
            lines.append(f"{step.name} = {step.op}({', '.join(step.reads)}; {attrs}) -> {shapes}")
        return "\n".join(
            [*lines, f"outputs {', '.join(self.outputs)}; n={self.n} seed={self.seed}"]
        )


def without_unread(graph: Graph) -> Graph:
    """The graph without steps and tensors that no output depends on."""
    wanted, steps = set(graph.outputs), []
    for step in reversed(graph.steps):
        if wanted & set(step.makes):
            wanted |= set(step.reads)
            steps.append(step)
    tensors = tuple(tensor for tensor in graph.tensors if tensor.name in wanted)
    return Graph(tensors, tuple(reversed(steps)), graph.outputs, graph.n, graph.seed)
