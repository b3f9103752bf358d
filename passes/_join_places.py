"""Join readers of several places of a kernel's output as the kernel's last stage.

::

    M[i, j] = sum(X[i, k] * W[k, j])   j in [0, 2n)       N[i, j] = sum(X[i, k] * W[k, j])
    G[i, j] = M[i, j] * gelu(M[i, j + n])            →    G[i, j] = N[i, j] * gelu(N[i, j + n])

A point of the last stage computes what it reads, here both halves of a row. That is no more work
than before when the points are so few that no element is computed twice.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_equal

from smartmem_tvm.analysis.computation import Stage, count_points, substitute_in_stage
from smartmem_tvm.analysis.expressions import loads_of
from smartmem_tvm.analysis.index_maps import Refusal

from ._graph import Node
from ._join import Joined


def join_places(kernel: Node, readers: list[Stage], needed: set[Any]) -> Joined | Refusal:
    """Kernel whose results are internal, and whose last stage does the work of all readers.

    Parameters
    ----------
    kernel
        Must write its outputs element by element.
    readers
        Pointwise stages with one store each, of equal extents.
    needed
        Outputs of the kernel that are read by others too: there must be none.
    """
    if needed:
        return Refusal(f"'{next(iter(needed)).name}' is read by others too")
    outputs = set(kernel.outputs)
    if any(
        store.buffer in outputs and not stage.is_pointwise(store)
        for stage in kernel.stages
        for store in stage.stores
    ):
        return Refusal(f"'{kernel.outputs[0].name}' is not written element by element")
    first, *others = readers
    stores = list(first.stores)
    for other in others:
        if len(other.axes) != len(first.axes) or not all(
            structural_equal(a.extent, b.extent)
            for a, b in zip(first.axes, other.axes, strict=True)
        ):
            return Refusal("its parts have different shapes")
        axes = {b.var: a.var for a, b in zip(first.axes, other.axes, strict=True)}
        stores += substitute_in_stage(other, axes).stores
    loads = [load for store in stores for load in loads_of(store.value) if load.source in outputs]
    if any(loads_of(index) for load in loads for index in load.indices):
        return Refusal("data says what it reads")
    points, elements = count_points(first.axes), _count_elements(outputs)
    if points is None or elements is None:
        return Refusal("the shapes are symbolic")
    computed = points * len(_distinct(loads))
    if computed > elements:
        return Refusal(f"it would compute {computed} elements where {elements} are needed")
    last = replace(first, stores=tuple(stores))
    return Joined([*kernel.stages, last], list(dict.fromkeys(s.buffer for s in last.stores)))


def _distinct(loads: list[TensorLoad]) -> list[TensorLoad]:
    found: list[TensorLoad] = []
    for load in loads:
        if not any(structural_equal(load, other) for other in found):
            found.append(load)
    return found


def _count_elements(buffers: set[Any]) -> int | None:
    extents = [extent for buffer in buffers for extent in buffer.shape]
    if not all(isinstance(extent, tirx.IntImm) for extent in extents):
        return None
    return sum(prod(int(extent) for extent in buffer.shape) for buffer in buffers)
