"""The least bytes of storages for a set of tensors, as an integer programme.

Every storage is named by its largest tensor. x[i, j] says that j, which is no larger, is in the
storage named by i, and x[i, i] that there is such a storage::

    minimise    sum over i of bytes(i) x[i, i]
    such that   sum over i of x[i, j] = 1                  for every tensor j
                sum over j in use at t of x[i, j] <= x[i, i]      for every i and time t
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from smartmem_tvm.analysis.memory_colouring import Item


def optimum(items: Sequence[Item], seconds: float) -> int | None:
    """The least bytes; None where the solver does not prove it in that time."""
    if not items:
        return 0
    ordered = sorted(items, key=lambda item: -item.bytes)
    columns: dict[tuple[int, int], int] = {}
    for i, one in enumerate(ordered):
        for j in range(i, len(ordered)):
            other = ordered[j]
            if i == j or other.last < one.first or one.last < other.first:
                columns[i, j] = len(columns)
    entries: list[tuple[int, int, int]] = []  # row, column, factor
    limits: list[tuple[float, float]] = []
    for j in range(len(ordered)):
        entries += [(j, columns[i, j], 1) for i in range(j + 1) if (i, j) in columns]
        limits.append((1, 1))
    crowds = _crowds(ordered)
    for i in range(len(ordered)):
        for crowd in {frozenset(j for j in c if j > i and (i, j) in columns) for c in crowds}:
            row = len(limits)
            entries += [(row, columns[i, j], 1) for j in sorted(crowd)]
            entries.append((row, columns[i, i], -1))
            limits.append((-np.inf, 0))
    rows, places, factors = zip(*entries, strict=True)
    matrix = coo_array((factors, (rows, places)), shape=(len(limits), len(columns)))
    cost = np.zeros(len(columns))
    for i, item in enumerate(ordered):
        cost[columns[i, i]] = item.bytes
    found = milp(
        cost,
        constraints=LinearConstraint(matrix.tocsr(), *zip(*limits, strict=True)),
        integrality=np.ones(len(columns)),
        bounds=Bounds(0, 1),
        options={"time_limit": seconds, "mip_rel_gap": 0},
    )
    return round(found.fun) if found.status == 0 else None


def _crowds(items: Sequence[Item]) -> list[list[int]]:
    """Tensors in use at one time, for every time at which one begins."""
    times = sorted({item.first for item in items})
    return [[j for j, item in enumerate(items) if item.first <= t <= item.last] for t in times]
