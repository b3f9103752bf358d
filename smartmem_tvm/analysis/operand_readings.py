"""How an access of a kernel goes through memory: under a walk and a layout of its tensor.

::

    S[i, j] = sum(q[i, k] * K[j, k]), vectors along j      K row by row   gathered, lanes K apart
                                                           K as (k, j)    stride one along lanes
                                                           q row by row   stride one along k
"""

from __future__ import annotations

from typing import Any

from .expressions import loads_of, uses
from .kernel_samples import Samples
from .layouts import Layout
from .tensor_layouts import (
    ALONG_LANES,
    ALONG_REDUCTION,
    GATHERED,
    SHARED,
    SINGLE,
)
from .transactions import KernelCost, Walk


def is_reduced(model: KernelCost, number: int) -> bool:
    """Whether an access moves along a reduced axis."""
    samples, _, _ = model.followed(number, model.walks[0])
    return bool(_reduced_runs(model, number, samples))


def read_as(model: KernelCost, number: int, walk: Walk, layout: Layout) -> tuple[str, str]:
    """How an access is read (:data:`.tensor_layouts.READINGS`), and what keeps it from stride one.

    Parameters
    ----------
    model
        Of the kernel.
    number
        Access, by its place in the model's `accesses`.
    walk
        How the kernel goes through its domain.
    layout
        Of the tensor.
    """
    samples, run, width = model.followed(number, walk)
    reduced = _reduced_runs(model, number, samples)
    has_lanes = run is not None and width > 1
    if has_lanes and run in samples.runs:
        stride = model.stride(samples, walk, run, layout)
        if samples.changes_condition(run):
            return GATHERED, "a condition around it differs from lane to lane"
        if stride == 1:
            return (ALONG_REDUCTION if run in reduced else ALONG_LANES), ""
        if stride != 0:
            return GATHERED, f"its lanes are {_apart(model, number, stride)}"
    steps = [samples.stride(var, layout) for var in reduced]
    if 1 in steps:
        return ALONG_REDUCTION, ""
    how = SHARED if has_lanes else SINGLE
    if not steps:
        return how, ""
    return how, f"along its reduction its elements are {_apart(model, number, steps[-1])}"


def _reduced_runs(model: KernelCost, number: int, samples: Samples) -> list[Any]:
    work, position = model.accesses[number]
    part = model.work[work]
    indices = part.accesses[position].indices
    return [
        var
        for var, _ in part.reduced
        if var in samples.runs and any(uses(index, var) for index in indices)
    ]


def _apart(model: KernelCost, number: int, stride: int | None) -> str:
    if stride is not None:
        return f"{abs(stride)} elements apart"
    work, position = model.accesses[number]
    if any(loads_of(index) for index in model.work[work].accesses[position].indices):
        return "where data says"
    return "not evenly apart"
