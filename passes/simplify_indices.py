"""Simplify index arithmetic under the bounds of the iterators: fewer divisions and modulos.

::

    B[i, j] = A[(i * 64 + j) // 64, (i * 64 + j) % 64]        →      B[i, j] = A[i, j]

Conditions that the bounds decide go away with the branch that cannot be taken. Every rule is proved
(:mod:`smartmem_tvm.analysis.index_maps`).

Requires: PrimFuncs that can be read as stages; others, scheduled ones among them, stay as they are.
Guarantees: the same values. Source: SmartMem, section 3.2.1, "index comprehension".
"""

from __future__ import annotations

import tvm

from ._emit import rewrite_blocks
from ._graph import Graph
from ._views import SimplifiedStages


@tvm.transform.module_pass(opt_level=0, name="smartmem.SimplifyIndices")
class SimplifyIndices:
    """Reduce the divisions and modulos in every function's indices."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with indices simplified."""
        simplified = SimplifiedStages()
        return rewrite_blocks(mod, lambda graph: _simplify(graph, simplified))


def _simplify(graph: Graph, simplified: SimplifiedStages) -> None:
    for node in graph.kernels():
        node.stages = [simplified(stage) for stage in node.stages]
