"""Executed traffic of scheduled functions, estimated without executing them.

Every load and store of device memory counts as often as its loops and thread axes run it, times its
bytes, less what a compiler certainly removes:

* an access does not run again for a loop that neither its indices nor its conditions depend on: it
  is moved out of the loop, and a sum that is kept in memory is kept in a register there; but not
  out of a loop that is not unrolled when a condition inside it decides about the access;
* in short loops around nothing but the load, which are unrolled, an element that the work-item has
  already loaded is not loaded again;
* what several statements load from the same place without a condition is loaded once, across
  barriers too: no other work-item may write it meanwhile;
* what a store has just written is not read back.

Conditions are counted, not assumed: the share of a padded tile that lies outside is not executed.
Data-dependent conditions count as true.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm_ffi import structural_equal

from ..errors import SmartMemError
from .kernels import count_calls, kernel_names
from .launches import Launch, find_launches
from .traffic_accesses import Access, Domain, conjuncts, contains_load, is_device_memory
from .traffic_loops import Execution, collect_executions
from .traffic_sets import bounded
from .traffic_values import Unknown, evaluate, grid, variables

_UNROLLED = 64  # iterations of the innermost loops that are taken for unrolled
_MOST = 1 << 24  # points of a condition that are evaluated


@dataclass(frozen=True)
class KernelEstimate:
    """Estimate for one launch of a kernel, in bytes of global memory and images.

    Attributes
    ----------
    name
        The OpenCL kernel.
    calls
        Launches in one inference.
    loaded, stored
        Bytes of one launch; None when an extent is symbolic.
    """

    name: str
    calls: int
    loaded: int | None
    stored: int | None

    @property
    def bytes(self) -> int | None:
        """Bytes loaded and stored by one launch."""
        return None if self.loaded is None or self.stored is None else self.loaded + self.stored


@dataclass(frozen=True)
class EstimatedTraffic:
    """Estimate of one inference; ``total`` is None when an extent is symbolic."""

    total: int | None
    kernels: tuple[KernelEstimate, ...]


def estimate(module: tvm.IRModule, entry: str = "main") -> EstimatedTraffic:
    """Estimate the executed traffic of a module whose functions are scheduled.

    Parameters
    ----------
    module
        The module after the stage ``"verify"`` of the pipeline.
    entry
        The Relax function that makes one inference.

    Raises
    ------
    SmartMemError
        If a function is not scheduled.
    """
    names = kernel_names(module)
    kernels = []
    for func_name, calls in count_calls(module, entry).items():
        launches = find_launches(module[func_name])
        if not launches:
            raise SmartMemError(
                f"function '{func_name}' has no thread bindings, so nothing is known of what it "
                "executes: estimate after the schedule stage"
            )
        for name, launch in zip(names[func_name], launches, strict=True):
            rounds = 1 if launch.repeats is None else max(0, launch.repeats)
            loaded, stored = _launch_bytes(launch)
            kernels.append(KernelEstimate(name, calls * rounds, loaded, stored))
    total: int | None = 0
    for kernel in kernels:
        total = (
            None if total is None or kernel.bytes is None else total + kernel.calls * kernel.bytes
        )
    return EstimatedTraffic(total, tuple(kernels))


def _launch_bytes(launch: Launch) -> tuple[int | None, int | None]:
    executions = collect_executions(launch)
    if executions.symbolic:
        return None, None
    loaded = stored = 0.0
    written: list[Access] = []
    loads: list[Access] = []
    shared = Counter(var for execution in executions.found for var in execution.loops)
    for execution in executions.found:
        statement, target = execution.statement, execution.statement.target
        threads = _without(executions.threads, execution.alone)
        own = [var for var in execution.loops if shared[var] == 1]
        for access in statement.reads:
            if not is_device_memory(access.buffer):
                continue
            conditions = _undecided(access, statement.domain)
            stays = _staying_loops(execution, conditions)
            if not stays and _is_among(access, written):
                continue
            if not conditions:
                plain = _simplified(access, statement.domain)
                if _is_among(plain, loads, executions.threads):
                    continue
                loads.append(plain)
            runs = _runs(access, conditions, statement.domain, threads, stays)
            share = 1.0 if stays else _first_loads(access, conditions, statement.domain, own)
            loaded += runs * share * _size(access)
        if target is not None and is_device_memory(target.buffer):
            conditions = _undecided(target, statement.domain)
            stays = _staying_loops(execution, conditions)
            if stays or not _is_among(target, written):
                threads = _without(threads, execution.merged)
                runs = _runs(target, conditions, statement.domain, threads, stays)
                stored += runs * _size(target)
            written.append(target)
    return round(loaded), round(stored)


def _staying_loops(execution: Execution, conditions: list[Any]) -> tuple[Any, ...]:
    """Loops that nothing is moved out of: a condition inside hides the access from them."""
    if execution.alone:
        return execution.loops
    return execution.rolled if conditions else ()


def _without(threads: Domain, axes: tuple[Any, ...]) -> Domain:
    return {axis: bounds for axis, bounds in threads.items() if axis not in axes}


def _is_among(access: Access, known: list[Access], threads: Iterable[Any] = ()) -> bool:
    """Whether an access to the same place came before, under other names of the loops."""
    axes = list(threads)
    return any(
        access.buffer.same_as(other.buffer)
        and structural_equal([*axes, *access.indices], [*axes, *other.indices], map_free_vars=True)
        for other in known
    )


def _simplified(access: Access, domain: Domain) -> Access:
    """The access without loops of one iteration."""
    analyzer = bounded(domain)
    return Access(access.buffer, tuple(analyzer.simplify(i) for i in access.indices), ())


def _undecided(access: Access, domain: Domain) -> list[Any]:
    """Conditions of the access that do not always hold."""
    if not access.guards:
        return []
    analyzer = bounded(domain)
    simplified = [analyzer.simplify(part) for g in access.guards for part in conjuncts(g)]
    return [
        part
        for part in simplified
        if not contains_load(part) and not (isinstance(part, tirx.IntImm) and int(part))
    ]


def _size(access: Access) -> int:
    dtype = tvm.DataType(access.buffer.ty.dtype.dtype)
    return dtype.itemsize * dtype.lanes


def _runs(
    access: Access,
    conditions: list[Any],
    domain: Domain,
    threads: Domain,
    loops: tuple[Any, ...] = (),
) -> int:
    """How often the access runs: loops it depends on times all work-items, under its conditions."""
    relevant = dict.fromkeys(
        var for expr in (*access.indices, *conditions, *loops) for var in variables(expr, domain)
    )
    free = {**{var: domain[var] for var in relevant}, **threads}
    groups: list[tuple[set[Any], list[Any]]] = []
    for condition in conditions:
        joined, members = set(variables(condition, domain)), [condition]
        apart = []
        for used, others in groups:
            if used & joined:
                joined |= used
                members = others + members
            else:
                apart.append((used, others))
        groups = [*apart, (joined, members)]
    count = 1
    for used, members in groups:
        count *= _satisfied(list(used), members, domain)
        for var in used:
            free.pop(var, None)
    return count * math.prod(extent for _, extent in free.values())


def _satisfied(names: list[Any], conditions: list[Any], domain: Domain) -> int:
    """How many points of a box satisfy the conditions; all where that cannot be evaluated."""
    points = math.prod(domain[var][1] for var in names)
    if points > _MOST:
        return points
    env = grid(names, domain)
    try:
        held = np.logical_and.reduce(
            np.broadcast_arrays(*(evaluate(condition, env) for condition in conditions))
        )
    except Unknown:
        return points
    return int(np.broadcast_to(held, tuple(domain[var][1] for var in names)).sum())


def _first_loads(access: Access, conditions: list[Any], domain: Domain, loops: list[Any]) -> float:
    """Share of the loads in unrolled loops whose element this work-item has not loaded before."""
    used = {v for expr in (*access.indices, *conditions) for v in variables(expr, domain)}
    unrolled: list[Any] = []
    points = 1
    for var in reversed(loops):
        if var not in domain or points * domain[var][1] > _UNROLLED:
            break
        points *= domain[var][1]
        unrolled.append(var)
    unrolled = [var for var in unrolled if var in used]
    if not unrolled or not access.indices:
        return 1.0
    fixed = {var: domain[var][0] + domain[var][1] // 2 for var in used if var not in unrolled}
    env = {**fixed, **grid(unrolled, domain)}
    extents = tuple(domain[var][1] for var in unrolled)
    try:
        places = [np.broadcast_to(evaluate(i, env), extents).ravel() for i in access.indices]
    except Unknown:
        return 1.0
    rows = np.stack(places, axis=1)
    return len(np.unique(rows, axis=0)) / len(rows)
