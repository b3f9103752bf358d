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
from .traffic_accesses import Access, is_device_memory
from .traffic_loops import Execution, collect_executions

# Attribute of a function: dimensions of each parameter that reduced axes run along.
REDUCED = "smartmem.reduced"
_POINTS = 8
_LENGTH = 16
_SEED = 20240427
_RANK = {how: rank for rank, how in enumerate(READINGS)}


@dataclass(frozen=True)
class _Loops:
    """Loops around a load that it moves along, each with its extent and stride; None if uneven.

    `in_turns` says that neighbouring lanes or work-items take neighbouring elements of a reduction.
    """

    lanes: dict[Any, tuple[int, int | None]]
    gathers: dict[Any, tuple[int, int | None]]
    reductions: dict[Any, tuple[int, int | None]]
    in_turns: bool
    in_vector: bool


def scheduled_readings(func: tirx.PrimFunc) -> dict[int, str]:
    """How each parameter that is read along a reduced axis is read, by its number.

    Of several loads in reduction loops the worst counts. Where vectors cover a whole reduction no
    loop is left of it: what :class:`smartmem_tvm.passes.ClassifyOperators` found to be reduced is
    then judged by all loads into registers. Kernels with open extents are left out.
    """
    found: dict[int, str] = {}
    into_registers: dict[int, str] = {}
    for launch in find_launches(func):
        executions = collect_executions(launch)
        if executions.symbolic:
            return {}
        reader = _Reader(launch.body, executions.found)
        for execution in executions.found:
            for read in execution.statement.reads:
                numbers = [n for n, p in enumerate(func.params) if p.same_as(read.buffer)]
                loops = reader.loops(execution, read) if numbers else None
                if loops is not None and (loops.reductions or loops.lanes or loops.gathers):
                    how, into = _reading(loops), found if loops.reductions else into_registers
                    worst = into.get(numbers[0], how)
                    into[numbers[0]] = max(how, worst, key=lambda name: _RANK[name])
    dims = func.attrs.get(REDUCED) or []
    reduced = {number for number, along in enumerate(dims) if along}
    return {n: how for n, how in into_registers.items() if n in reduced} | found


def _reading(loops: _Loops) -> str:
    if loops.gathers:
        return GATHERED
    if loops.in_turns:
        return ALONG_REDUCTION
    if loops.lanes:
        return ALONG_LANES if all(step == 1 for _, step in loops.lanes.values()) else GATHERED
    if any(step == 1 for _, step in loops.reductions.values()):
        return ALONG_REDUCTION
    return SHARED if loops.in_vector else SINGLE


class _Reader:
    """What the loops of one launch are for.

    Attributes
    ----------
    kinds : dict
        Kind of each loop.
    outer : list of variables
        Loops that results are stored along.
    vectors : list of buffers
        Private ones whose elements are a vector's lanes.
    team : list of variables
        Work-items that share a reduction and put their parts, `parts`, together.
    """

    def __init__(self, body: Any, executions: list[Execution]) -> None:
        self.kinds: dict[Any, Any] = {}
        structural_walk(
            body, (tirx.For, lambda stmt: self.kinds.setdefault(stmt.loop_var, stmt.kind))
        )
        self.outer: list[Any] = []
        self.vectors: list[Any] = []
        self.team: list[Any] = []
        self.parts: list[Any] = []
        for execution in executions:
            target = execution.statement.target
            if target is None:
                continue
            if is_device_memory(target.buffer):
                self.outer += [v for v in execution.loops if _moves(target, v)]
            elif str(target.buffer.ty.storage_scope).startswith("shared"):
                threads = set(execution.statement.domain) - set(execution.loops)
                self.team += [v for v in threads if _moves(target, v)]
                self.parts += [read.buffer for read in execution.statement.reads]
            lanes = self._of_kind(execution, tirx.ForKind.VECTORIZED)
            for access in (target, *execution.statement.reads):
                if not is_device_memory(access.buffer) and any(_moves(access, v) for v in lanes):
                    self.vectors.append(access.buffer)

    def _of_kind(self, execution: Execution, *kinds: Any) -> list[Any]:
        return [var for var in execution.loops if self.kinds.get(var) in kinds]

    def loops(self, execution: Execution, read: Access) -> _Loops | None:
        """Loops around a load by their use; None for outputs that reduce nothing."""
        target = execution.statement.target
        if target is None:
            return None
        domain = execution.statement.domain
        steps = {
            var: (domain[var][1] - domain[var][0], _step(execution, read, var))
            for var in domain
            if _moves(read, var)
        }
        lanes = self._of_kind(execution, tirx.ForKind.VECTORIZED)
        serial = self._of_kind(execution, tirx.ForKind.SERIAL)
        kept: list[Any] = []
        if _among(target.buffer, self.vectors) and not any(_moves(target, v) for v in lanes):
            single = self._of_kind(execution, tirx.ForKind.SERIAL, tirx.ForKind.UNROLLED)
            kept = [v for v in single if uses(target.indices[-1], v)]
        reductions = [
            v
            for v in serial
            if domain[v][1] - domain[v][0] > 1
            and not _moves(target, v)
            and not _among(v, [*kept, *self.outer])
        ]
        members = self.team if _among(target.buffer, self.parts) else []
        if str(target.buffer.ty.storage_scope).startswith("shared"):
            # Work-items that fetch for their group, which then reduces: neighbours are its lanes.
            fetching = [v for v in domain if v in steps and not _among(v, execution.loops)]
            lanes += [v for v in fetching if steps[v][1] == 1]
            members = [*members, *fetching]
        if is_device_memory(target.buffer) and not reductions:
            return None

        def among(chosen: list[Any]) -> dict[Any, tuple[int, int | None]]:
            return {var: steps[var] for var in chosen if var in steps}

        return _Loops(
            lanes=among(lanes),
            gathers=among(kept),
            reductions=among([*reductions, *members]),
            in_turns=any(
                steps.get(a, (0, 0))[1] == 1
                and steps.get(b, (0, 0))[1] == steps[a][0]
                and any(uses(index, a) and uses(index, b) for index in read.indices)
                for a in (*lanes, *members)
                for b in reductions
            ),
            in_vector=bool(self.vectors),
        )


def _moves(access: Access, var: Any) -> bool:
    return any(uses(index, var) for index in access.indices)


def _among(node: Any, nodes: Iterable[Any]) -> bool:
    return any(node.same_as(other) for other in nodes)


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
