"""Making a failing graph small: fewer outputs and steps, and results turned into inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from fuzz_graphs import Graph, Tensor, is_symbolic, without_unread


def minimise(graph: Graph, fails: Callable[[Graph], bool], tries: int = 200) -> Graph:
    """The smallest graph found that still fails, in at most so many tries."""
    progress = True
    while progress and tries > 0:
        progress = False
        for smaller in _smaller(graph):
            tries -= 1
            if fails(smaller):
                graph, progress = smaller, True
                break
            if tries <= 0:
                break
    return graph


def _smaller(graph: Graph) -> Iterator[Graph]:
    for output in graph.outputs:
        if len(graph.outputs) > 1:
            rest = tuple(name for name in graph.outputs if name != output)
            yield without_unread(replace(graph, outputs=rest))
    read = {name for step in graph.steps for name in step.reads}
    for step in graph.steps:  # an output further up the graph
        if set(step.makes) & set(graph.outputs) - read:
            others = tuple(name for name in graph.outputs if name not in step.makes)
            made = {name for other in graph.steps for name in other.makes}
            for name in dict.fromkeys(step.reads):
                if name in made and name not in others:
                    yield without_unread(replace(graph, outputs=(*others, name)))
    for step in graph.steps:
        if len(graph.steps) > 1:
            yield _with_input_for(graph, step.makes)
    for step in graph.steps:  # a step that keeps the shape is left out
        for name in step.reads:
            if len(step.shapes) == 1 and name not in graph.outputs:
                shapes = {t.name: t.shape for t in graph.tensors if t.dtype == graph.storage}
                for other in graph.steps:
                    shapes.update(zip(other.makes, other.shapes, strict=True))
                if shapes.get(name) == step.shapes[0]:
                    yield _with_name_for(graph, step.name, name)


def _with_input_for(graph: Graph, makes: tuple[str, ...]) -> Graph:
    """The graph with what a step makes given as inputs."""
    shapes = {n: s for step in graph.steps for n, s in zip(step.makes, step.shapes, strict=True)}
    number = 1 + max((int(t.name[1:]) for t in graph.tensors), default=0)
    fed = [name for name in makes if any(name in step.reads for step in graph.steps)]
    tensors, steps, outputs = graph.tensors, graph.steps, graph.outputs
    for name in fed:
        tensor = Tensor(f"x{number}", shapes[name], graph.storage)
        number += 1
        tensors = (*tensors, tensor)
        steps = tuple(_renamed(step, name, tensor.name) for step in steps)
    outputs = tuple(name for name in outputs if name not in makes)
    n = graph.n if any(is_symbolic(e) for t in tensors for e in t.shape) else 0
    if not outputs:
        return graph
    return without_unread(Graph(tensors, steps, outputs, n, graph.seed))


def _with_name_for(graph: Graph, old: str, new: str) -> Graph:
    steps = tuple(_renamed(step, old, new) for step in graph.steps if step.name != old)
    made = {name for step in steps for name in step.makes}
    outputs = tuple(new if name == old else name for name in graph.outputs)
    if len(set(outputs)) != len(outputs) or not set(outputs) <= made:
        return graph
    return without_unread(replace(graph, steps=steps, outputs=outputs))


def _renamed(step, old: str, new: str):
    return replace(step, reads=tuple(new if name == old else name for name in step.reads))
