"""Random layouts of the tensors of a module, as attributes for RewriteLayouts."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import tvm
from tvm import tirx

from smartmem_tvm.analysis.expressions import static
from smartmem_tvm.analysis.layouts import Layout
from smartmem_tvm.passes._emit import rewrite_blocks
from smartmem_tvm.passes._graph import Graph
from smartmem_tvm.passes._tensors import is_constant, public_tensors, shared_memory

LANES = (2, 3, 4, 16)
FORMS = ("row by row", "permuted", "vectors", "padded vectors", "fused and split")


@tvm.transform.module_pass(opt_level=0, name="smartmem.test.RandomLayouts")
class RandomLayouts:
    """A random layout for every tensor that may have one; constants have one for each reader.

    Parameters
    ----------
    seed
        What is drawn for a tensor depends on it and on the tensor's name.
    drawn
        Where layouts are counted by their form.
    """

    def __init__(self, seed: int, drawn: Counter[str]) -> None:
        self.seed = seed
        self.drawn = drawn

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return rewrite_blocks(mod, self._draw_all, in_place=True)

    def _draw_all(self, graph: Graph) -> None:
        roots = shared_memory(graph)
        fixed = {roots.get(buffer, buffer) for buffer in public_tensors(graph)}
        maps: dict[Any, Any] = {}
        for number, node in enumerate(graph.kernels()):
            for buffer in dict.fromkeys([*node.inputs(), *node.outputs]):
                root = roots.get(buffer, buffer)
                key = (root, number) if is_constant(graph, buffer) else root
                if root in fixed:
                    continue
                if key not in maps:
                    maps[key] = self._draw(root, number if is_constant(graph, buffer) else 0)
                node.layouts[buffer] = maps[key]

    def _draw(self, buffer: Any, reader: int) -> tirx.IndexMap:
        rng = Random(f"{self.seed} {buffer.name} {reader}")
        return draw_layout(buffer.shape, rng, self.drawn)


def draw_layout(shape: Any, rng: Random, drawn: Counter[str]) -> tirx.IndexMap:
    """A random layout of a tensor, counted by its form."""
    extents = [static(extent) for extent in shape]
    ndim = len(extents)
    order = rng.sample(range(ndim), ndim)
    # One in eight is of a form that no Layout has: neighbours fused, and split elsewhere.
    pairs = [d for d in range(ndim - 1) if None not in extents[d : d + 2]]
    if pairs and rng.random() < 0.125:
        drawn["fused and split"] += 1
        return _fused_and_split(rng.choice(pairs), extents, rng.choice(LANES), order)
    if not ndim or rng.random() < 0.5:
        drawn["permuted" if order != sorted(order) else "row by row"] += 1
        return Layout(tuple(order)).index_map()
    dim, lanes = rng.randrange(ndim), rng.choice(LANES)
    padded = extents[dim] is None or extents[dim] % lanes
    drawn["padded vectors" if padded else "vectors"] += 1
    return Layout(tuple(order), (dim, lanes)).index_map()


def _fused_and_split(first: int, extents: list[Any], lanes: int, order: list[int]) -> Any:
    def places(*indices: Any) -> tuple[Any, ...]:
        place = indices[first] * extents[first + 1] + indices[first + 1]
        parts = [*indices[:first], place // lanes, place % lanes, *indices[first + 2 :]]
        return tuple(parts[d] for d in order)

    names = [tirx.Var(f"i{d}", "int64") for d in range(len(extents))]
    return tirx.IndexMap(names, list(places(*names)), None)
