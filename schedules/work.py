"""How much a kernel computes."""

from __future__ import annotations

from smartmem_tvm.analysis.expressions import static
from smartmem_tvm.analysis.fused_kernel import Kernel


def least_operations(kernel: Kernel) -> int:
    """Updates of all reductions when each element is computed once; symbolic extents count as 1."""
    total = 0
    for stage in kernel.stages:
        points = 1
        for axis in stage.axes:
            points *= static(axis.extent) or 1
        total += points * len(stage.stores)
    return total
