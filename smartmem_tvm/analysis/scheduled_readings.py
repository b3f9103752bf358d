"""How the loops of a scheduled kernel go through its operands, to hold against what was planned.

::

    for r in range(96):                              r   reduction loop: serial, not in the target
        for p in T.unroll(4):
            s = x[i + p, r]                          x   stride one along its reduction
            for l in T.vectorized(16):
                M[p, l] += s * w[r, j + l]           w   stride one along vector lanes

Strides are taken at sampled points of the loops around. A vector that is gathered is a serial loop
into a private vector.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm_ffi import structural_walk

from .expressions import static, uses
from .index_evaluate import Evaluator
from .launches import find_launches
from .tensor_layouts import (
    ALONG_LANES,
    ALONG_REDUCTION,
    GATHERED,
    READINGS,
    SHARED,
    SINGLE,
)
from .traffic_accesses import Access
from .traffic_loops import Execution, collect_executions

_POINTS = 8
_LENGTH = 16
_SEED = 20240427
_RANK = {how: rank for rank, how in enumerate(READINGS)}


@dataclass(frozen=True)
class _Loops:
    """Loops around a load that it moves along, each with its extent and stride; None if uneven."""

    lanes: dict[Any, tuple[int, int | None]]
    gathers: dict[Any, tuple[int, int | None]]
    reductions: dict[Any, tuple[int, int | None]]
    threads: dict[Any, tuple[int, int | None]]
    in_vector: bool


def scheduled_readings(func: tirx.PrimFunc) -> dict[int, str]:
    """How each parameter that a reduction loop moves along is read, by its number.

    Of several loads the worst counts. Parameters of kernels with open extents are left out.
    """
    kinds: dict[Any, Any] = {}
    structural_walk(func.body, (tirx.For, lambda stmt: kinds.setdefault(stmt.loop_var, stmt.kind)))
    has_vectors = any(kind == tirx.ForKind.VECTORIZED for kind in kinds.values())
    found: dict[int, str] = {}
    for launch in find_launches(func):
        executions = collect_executions(launch)
        if executions.symbolic:
            return {}
        for execution in executions.found:
            for read in execution.statement.reads:
                numbers = [n for n, p in enumerate(func.params) if p.same_as(read.buffer)]
                loops = _loops(execution, read, kinds) if numbers else None
                if loops is not None and loops.reductions:
                    how = _reading(loops, has_vectors)
                    worst = found.get(numbers[0], how)
                    found[numbers[0]] = max(how, worst, key=lambda name: _RANK[name])
    return found


def count_scheduled(functions: Iterable[tirx.PrimFunc]) -> dict[str, int]:
    """Operands that are read along a reduced axis, by how, over the functions of all calls."""
    counts = dict.fromkeys(READINGS, 0)
    known: dict[Any, dict[int, str]] = {}
    for func in functions:
        if func not in known:
            known[func] = scheduled_readings(func)
        for how in known[func].values():
            counts[how] += 1
    return counts


def _reading(loops: _Loops, has_vectors: bool) -> str:
    if loops.gathers:
        return GATHERED
    steps = [step for _, step in loops.reductions.values()]
    for extent, step in (*loops.lanes.values(), *loops.threads.values()):
        if step == 1 and extent in steps:  # lanes or work-items take turns along a reduction
            return ALONG_REDUCTION
    if loops.lanes:
        return ALONG_LANES if all(step == 1 for _, step in loops.lanes.values()) else GATHERED
    if 1 in steps:
        return ALONG_REDUCTION
    return SHARED if loops.in_vector or has_vectors else SINGLE


def _loops(execution: Execution, read: Access, kinds: dict[Any, Any]) -> _Loops | None:
    target = execution.statement.target
    if target is None:
        return None
    vectors = [v for v in execution.loops if kinds.get(v) == tirx.ForKind.VECTORIZED]
    serial = [v for v in execution.loops if kinds.get(v) == tirx.ForKind.SERIAL]
    moved = [v for v in execution.statement.domain if any(uses(i, v) for i in read.indices)]
    steps = {
        var: (
            execution.statement.domain[var][1] - execution.statement.domain[var][0],
            _step(execution, read, var),
        )
        for var in moved
    }
    kept = [v for v in serial if any(uses(i, v) for i in target.indices)]
    private = not _is_shared(target.buffer)

    def among(chosen: list[Any]) -> dict[Any, tuple[int, int | None]]:
        return {var: steps[var] for var in chosen if var in steps}

    return _Loops(
        lanes=among(vectors),
        gathers=among(kept) if private else {},
        reductions=among([v for v in serial if not any(v.same_as(k) for k in kept)]),
        threads={v: s for v, s in steps.items() if not any(v.same_as(w) for w in execution.loops)},
        in_vector=bool(vectors),
    )


def _step(execution: Execution, read: Access, var: Any) -> int | None:
    """Elements from one iteration to the next, None when that varies."""
    rng = np.random.default_rng(_SEED)
    low, high = execution.statement.domain[var]
    length = min(high - low, _LENGTH)
    if length < 2:
        return 0
    values: dict[Any, NDArray[Any]] = {}
    for other, (begin, end) in execution.statement.domain.items():
        column = rng.integers(begin, max(end, begin + 1), _POINTS)
        values[other] = np.repeat(column, length)
    values[var] = np.tile(np.arange(low, low + length), _POINTS)
    evaluator = Evaluator(values, _some_element)
    offset = np.zeros(_POINTS * length, np.int64)
    for index, extent in zip(read.indices, read.buffer.shape, strict=True):
        offset = offset * (static(extent) or 1) + evaluator.of(index)
    steps = np.diff(offset.reshape(_POINTS, length), axis=1)
    first = int(steps.flat[0])
    return first if (steps == first).all() else None


def _some_element(_buffer: Any, indices: list[NDArray[Any]]) -> NDArray[Any]:
    """Data that is used as an index: small numbers without order."""
    mixed = np.asarray(sum(indices)) if indices else np.asarray(0)
    return np.asarray((mixed * 7919 + 13) % 31, np.int64)


def _is_shared(buffer: Any) -> bool:
    return str(buffer.ty.storage_scope) in ("", "global")
