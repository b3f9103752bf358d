"""Choose how every tensor is stored, by what its readers reduce over and what that costs.

::

    S[i, j] = sum(q[i, k] * K[j, k])         K: along k, j in vector lanes
                                        →    smartmem.layouts = [None, (j, k) → (k, j), None]

The choice is one for the whole graph: the walk of every kernel through its domain and the layout
of every tensor, so that the memory transactions of all kernels together cost least
(:mod:`smartmem_tvm.analysis.transactions`). Both depend on each other: vectors along j want K with
j innermost, vectors along the reduction want it with k innermost. A constant gets the layout that
its reader likes best; a tensor that several kernels touch gets the one that is best for all of
them, its producer included.

Solvers (:mod:`smartmem_tvm.analysis.layout_choice`): ``exact`` eliminates the tensors one by one
and falls back on ``greedy``, which decides tensor after tensor, where a table grows too large.

Where the device prefers images, tensors take layouts that are whole texels if they have any, and a
kernel writes them by vectors (:class:`MapTextures`).

Legal for tensors that only kernels with stages touch. Parameters and results of the graph, what
opaque operators touch, and what a kernel without stages touches stay row by row.

Requires: PrimFuncs; to be run when nothing will be fused any more. Guarantees: only attributes
change; :class:`RewriteLayouts` rewrites to them. What was chosen for every tensor, why, and what
the next best would have cost is recorded in the module
(:mod:`smartmem_tvm.analysis.tensor_layouts`). Source: SmartMem, section 3.2.2.
"""

from __future__ import annotations

from typing import Any, Literal

import tvm
from tvm.target import Target

from smartmem_tvm.analysis.layout_choice import Problem, solve_exactly, solve_greedily
from smartmem_tvm.analysis.layouts import Layout
from smartmem_tvm.analysis.tensor_layouts import TensorLayout, with_tensor_layouts
from smartmem_tvm.analysis.transactions import Memory
from smartmem_tvm.devices import DeviceProfile, profile_for

from ._copies import add_copies
from ._emit import rewrite_blocks
from ._graph import Graph
from ._layout_problem import LayoutProblem, ProblemBuilder
from ._layout_reasons import tensor_layouts

Solver = Literal["exact", "greedy", "none"]


@tvm.transform.module_pass(opt_level=0, name="smartmem.SelectLayouts")
class SelectLayouts:
    """Annotate every PrimFunc with the layouts of its tensors.

    Parameters
    ----------
    profile
        Device that the costs are of; that of the current target when not given.
    solver
        ``"exact"`` or ``"greedy"``; ``"none"`` leaves all tensors row by row, and only records
        what that costs.
    """

    def __init__(self, profile: DeviceProfile | None = None, solver: Solver = "exact") -> None:
        self.profile = profile
        self.solver = solver

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with the attributes set."""
        profile = self.profile or profile_for(Target.current(allow_none=True))
        builder = ProblemBuilder(mod, Memory.of(profile))
        records: list[TensorLayout] = []
        selected = rewrite_blocks(
            mod, lambda graph: records.extend(self._select(graph, builder)), in_place=True
        )
        return with_tensor_layouts(selected, records)

    def _select(self, graph: Graph, builder: ProblemBuilder) -> list[TensorLayout]:
        stated = builder.state(graph)
        if self.solver != "none":
            chosen = annotate(stated, _solve(stated.problem, self.solver))
            stated.copies = add_copies(graph, stated, chosen)
        return tensor_layouts(graph, stated, builder)


def _solve(problem: Problem, solver: Solver) -> list[int]:
    values = solve_exactly(problem) if solver == "exact" else None
    return solve_greedily(problem) if values is None else values


def annotate(stated: LayoutProblem, values: list[int]) -> dict[Any, Layout]:
    """Give every kernel the layouts that the values stand for; returns those of the variables."""
    chosen: dict[Any, Layout] = {
        buffer: layouts[value]
        for (buffer, layouts), value in zip(stated.tensors.items(), values, strict=False)
    }
    for choice in stated.kernels:
        walk = choice.best_walk(chosen)
        picked = {o.buffer: o.layouts[int(o.costs[walk].argmin())] for o in choice.own}
        for buffer in {*choice.node.inputs(), *choice.node.outputs}:
            root = stated.roots.get(buffer, buffer)
            layout = picked.get(buffer) or chosen.get(root)
            if layout is not None and not layout.is_row_major:
                choice.node.layouts[buffer] = layout.index_map()
    return chosen
