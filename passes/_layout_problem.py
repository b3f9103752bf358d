"""The choice of layouts for a graph, as variables and tables of costs.

Every tensor that may be stored freely is a variable whose values are layouts. Every kernel is a
table over its tensors: what it costs under the walk that suits their layouts best, with its own
constants stored as that walk likes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from smartmem_tvm.analysis.expressions import static
from smartmem_tvm.analysis.fused_kernel import NotAKernel, read_kernel
from smartmem_tvm.analysis.kernel_samples import NOMINAL
from smartmem_tvm.analysis.layout_choice import Problem
from smartmem_tvm.analysis.layouts import Layout, innermost, row_major
from smartmem_tvm.analysis.ordered_cost import OrderedCost
from smartmem_tvm.analysis.texels import LANES, has_texels
from smartmem_tvm.analysis.walks import Memory, Walk

from ._graph import Graph, Node
from ._tensors import is_constant, is_reshape, public_tensors, shared_memory

Costs = NDArray[np.float64]
# Entries of the largest table of one kernel; beyond it the kernel's walk is a variable too.
LARGEST_KERNEL = 1 << 14
# How many times more a kernel costs that would write single lanes of an image.
NO_TEXELS = 100.0


@dataclass
class Operand:
    """A tensor of a kernel: its accesses, and their cost under [walk, layout]."""

    buffer: Any
    layouts: list[Layout]
    costs: Costs


def with_own(base: Costs, own: list[Operand]) -> Costs:
    """Cost under each walk with a kernel's own constants stored as that walk likes them."""
    return base + sum((operand.costs.min(axis=1) for operand in own), np.zeros_like(base))


@dataclass
class KernelChoice:
    """A kernel of the graph in the problem.

    Attributes
    ----------
    walks : list of Walk
        Those that are best for some layouts.
    base : array
        Cost of each without the operands.
    free, own : list of Operand
        Tensors that are variables; constants that only this kernel has in its layout.
    """

    node: Node
    model: OrderedCost
    walks: list[Walk]
    base: Costs
    free: list[Operand]
    own: list[Operand]

    def totals(self, layouts: dict[Any, Layout], without: Any = None) -> Costs:
        """Cost under each walk where the free tensors have these layouts, one of them left out."""
        total = with_own(self.base, self.own)
        for operand in self.free:
            if without is None or not operand.buffer.same_as(without):
                total += operand.costs[:, operand.layouts.index(layouts[operand.buffer])]
        return total

    def best_walk(self, layouts: dict[Any, Layout]) -> int:
        """Number of the best walk where the free tensors have these layouts."""
        return int(self.totals(layouts).argmin())


@dataclass
class LayoutProblem:
    """Variables and tables of a graph.

    Attributes
    ----------
    problem : Problem
        To be solved; the first variables are those of `tensors`, in that order.
    tensors : dict
        Layouts of each free tensor; of several in one memory, of the one that stands for them.
    roots : dict
        The tensor that stands for each that shares its memory.
    fixed : dict
        Why a tensor is no variable.
    kernels : list of KernelChoice
        Those that a cost model exists for.
    copies : list of Copy
        Second copies that were made (:mod:`._copies`).
    """

    problem: Problem
    tensors: dict[Any, list[Layout]]
    roots: dict[Any, Any]
    fixed: dict[Any, str]
    kernels: list[KernelChoice] = field(default_factory=list)
    copies: list[Any] = field(default_factory=list)


class ProblemBuilder:
    """States problems; kernels of one function are measured once."""

    def __init__(self, mod: tvm.IRModule, memory: Memory) -> None:
        self.mod = mod
        self.memory = memory
        # Images are blocks of texels, whatever vectors kernels compute.
        self.width = LANES if memory.image_line_cost else memory.width
        self._models: dict[Any, OrderedCost | str] = {}
        self._tables: dict[Any, Costs] = {}

    def state(self, graph: Graph) -> LayoutProblem:
        """Problem of a graph."""
        roots = shared_memory(graph)
        fixed = self._fixed(graph, roots)
        found = LayoutProblem(Problem(), {}, roots, fixed)
        numbers: dict[Any, int] = {}
        models = [(node, self.model(node)) for node in graph.kernels()]
        for node, _ in models:
            for buffer in node.outputs:
                root = roots.get(buffer, buffer)
                if root not in found.tensors and root not in fixed:
                    layouts = candidates(buffer.shape, self.width)
                    # As many tensors as possible are to be images where the device has them.
                    layouts = list(filter(self._images(buffer), layouts)) or layouts
                    found.tensors[root] = layouts
                    numbers[root] = found.problem.add_variable(len(layouts))
        for node, model in models:
            if isinstance(model, OrderedCost):
                choice = self._choice(graph, found, node, model)
                found.kernels.append(choice)
                _add(found.problem, choice, numbers)
        return found

    def model(self, node: Node) -> OrderedCost | str:
        """Cost model of the function that a node was read from, or why there is none."""
        if node.origin is None:
            return "it was not read from a function"
        global_var, _ = node.origin
        if global_var not in self._models:
            func = self.mod[global_var]
            found: OrderedCost | str
            if is_reshape(func):
                found = "it leaves every element in its place as long as both lie row by row"
            else:
                try:
                    found = OrderedCost(read_kernel(func), self.memory)
                except NotAKernel as error:
                    found = str(error)
            self._models[global_var] = found
        return self._models[global_var]

    def _fixed(self, graph: Graph, roots: dict[Any, Any]) -> dict[Any, str]:
        fixed = public_tensors(graph)
        for node in graph.kernels():
            model = self.model(node)
            if isinstance(model, str):
                reason = f"kernel '{node.name}' has it row by row: {model}"
                for buffer in (*node.inputs(), *node.outputs):
                    if not is_constant(graph, buffer):
                        fixed.setdefault(buffer, reason)
        for buffer, reason in list(fixed.items()):
            fixed.setdefault(roots.get(buffer, buffer), reason)
        for buffer, root in roots.items():
            if root in fixed:
                fixed.setdefault(buffer, fixed[root])
        return fixed

    def _choice(
        self, graph: Graph, found: LayoutProblem, node: Node, model: OrderedCost
    ) -> KernelChoice:
        global_var, arguments = node.origin or (None, [])
        actual = dict(zip(self.mod[global_var].params, arguments, strict=True))
        places: dict[Any, list[int]] = {}
        for number, parameter in enumerate(model.buffers):
            buffer = actual[parameter]
            places.setdefault(found.roots.get(buffer, buffer), []).append(number)
        base = self._table((global_var, "base"), lambda: [model.base(w) for w in model.walks])
        free, own = [], []
        for buffer, accesses in places.items():
            layouts = found.tensors.get(buffer)
            if layouts is None and is_constant(graph, buffer):
                layouts = candidates(buffer.shape, self.width)
                own.append(
                    Operand(buffer, layouts, self._costs(global_var, model, accesses, layouts))
                )
            elif layouts is None:
                layouts = [row_major(len(buffer.shape))]
                base = base + self._costs(global_var, model, accesses, layouts)[:, 0]
            else:
                costs = self._costs(global_var, model, accesses, layouts, self._images(buffer))
                free.append(Operand(buffer, layouts, costs))
        if self.memory.image_line_cost:
            self._write_texels(model, places, base, free, own)
        kept = _undominated(base, free, own)
        for operand in (*free, *own):
            operand.costs = operand.costs[kept]
        return KernelChoice(node, model, [model.walks[n] for n in kept], base[kept], free, own)

    def _write_texels(
        self,
        model: OrderedCost,
        places: dict[Any, list[int]],
        base: Costs,
        free: list[Operand],
        own: list[Operand],
    ) -> None:
        """Rule out walks that write less than a texel at a time to what will be an image.

        Its kernel must write whole ones, whatever it reads best: its constants had better be laid
        out for that. Where no walk does, the tensor will be a buffer.
        """
        total = with_own(base, own)
        lowest = total + sum((o.costs.min(axis=1) for o in free), np.zeros_like(total))
        for operand in free:
            is_image = self._images(operand.buffer)
            operand.costs = operand.costs.copy()
            for column, layout in enumerate(operand.layouts):
                if not is_image(layout):
                    continue
                for row, walk in enumerate(model.walks):
                    if any(model.single_lanes(n, walk, layout) for n in places[operand.buffer]):
                        operand.costs[row, column] += NO_TEXELS * lowest[row]

    def _images(self, buffer: Any) -> Callable[[Layout], bool]:
        """Whether a tensor will be an image in a layout."""
        extents = [static(extent) for extent in buffer.shape]
        if not self.memory.image_line_cost or None in extents:
            return lambda _: False
        return lambda layout: has_texels(layout.shape(extents))

    def _costs(
        self,
        global_var: Any,
        model: OrderedCost,
        accesses: list[int],
        layouts: list[Layout],
        is_image: Callable[[Layout], bool] = lambda _: False,
    ) -> Costs:
        images = tuple(map(is_image, layouts))
        return self._table(
            (global_var, tuple(accesses), images),
            lambda: [
                [
                    sum(model.access(a, walk, layout, image) for a in accesses)
                    for layout, image in zip(layouts, images, strict=True)
                ]
                for walk in model.walks
            ],
        )

    def _table(self, key: Any, compute: Any) -> Costs:
        if key not in self._tables:
            self._tables[key] = np.array(compute(), float)
        return self._tables[key]


def candidates(shape: Sequence[Any], width: int) -> list[Layout]:
    """Layouts of a tensor: row by row, one dimension innermost, one in vectors."""
    extents = [static(extent) or NOMINAL for extent in shape]
    ndim = len(extents)
    found = {_effective(row_major(ndim), extents): row_major(ndim)}
    for d in range(ndim):
        layout = innermost(ndim, d)
        found.setdefault(_effective(layout, extents), layout)
    for d in range(ndim):
        # Whole panels of a vector's width, one after the other.
        others = [extents[o] for o in range(ndim) if o != d]
        if static(shape[d]) is not None and extents[d] >= width > 1 and prod(others) > 1:
            layout = Layout((d, *(o for o in range(ndim) if o != d)), (d, width))
            found.setdefault(_effective(layout, extents), layout)
    return list(found.values())


def _effective(layout: Layout, extents: list[int]) -> tuple[Any, ...]:
    """Layouts that differ only in dimensions of extent 1 are the same."""
    order = tuple(d for d in layout.order if extents[d] > 1)
    if layout.block is None:
        return (order,)
    dim, lanes = layout.block
    if extents[dim] == lanes:
        return ((*(d for d in order if d != dim), dim),)
    return order, layout.block


def _undominated(base: Costs, free: list[Operand], own: list[Operand]) -> list[int]:
    """Walks that are best for some layouts: none is at least as good whatever they are."""
    lowest = with_own(base, own)
    kept: list[int] = []
    for walk in np.argsort(lowest, kind="stable"):
        better = (
            lowest[other] + sum((o.costs[other] - o.costs[walk]).max() for o in free)
            for other in kept
        )
        if not any(cost <= lowest[walk] for cost in better):
            kept.append(int(walk))
    return kept


def _add(problem: Problem, choice: KernelChoice, numbers: dict[Any, int]) -> None:
    """Tables of a kernel over its free tensors."""
    base = with_own(choice.base, choice.own)
    variables = [numbers[operand.buffer] for operand in choice.free]
    if not variables:
        return
    if prod(problem.sizes[v] for v in variables) * len(base) > LARGEST_KERNEL:
        walk = problem.add_variable(len(base))
        problem.add_table([walk], base)
        for variable, operand in zip(variables, choice.free, strict=True):
            problem.add_table([walk, variable], operand.costs)
        return
    parts = [
        operand.costs.reshape([len(base), *(s if n == place else 1 for n, s in enumerate(shape))])
        for place, operand in enumerate(choice.free)
        for shape in ([problem.sizes[v] for v in variables],)
    ]
    start = base.reshape([len(base), *(1 for _ in variables)])
    problem.add_table(variables, reduce(np.add, parts, start).min(axis=0))
