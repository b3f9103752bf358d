"""The loop over the lanes of a texel around a store, and the proof that it covers the texel.

Everything is read off the statements around the store, outermost first (:class:`Frame`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir import Range
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlock, SBlockRealize
from tvm_ffi import structural_walk

from smartmem_tvm.analysis.expressions import substitute, uses
from smartmem_tvm.analysis.launches import bound_thread
from smartmem_tvm.analysis.texels import LANES

from ._texture_access import refused

# Thread axes whose iterations are work-items; those of vthread run one after the other.
_WORK_ITEMS = ("blockIdx.", "threadIdx.")
_LEAVES = ("tirx.continue_loop", "tirx.break_loop", "tirx.thread_return", "tirx.ret")


@dataclass
class Frame:
    """One statement around a store, and what the stores inside it came to."""

    node: Any
    condition: Any = None
    texel_stores: list[SBlockRealize] = field(default_factory=list)  # to follow this lane loop
    orders: dict[Any, list[int]] = field(default_factory=dict)  # texture: lanes in that order
    local: list[Any] = field(default_factory=list)  # staging buffers to allocate here
    moved: dict[Any, list[Any]] = field(default_factory=dict)  # texture: staging written instead
    written: set[Any] = field(default_factory=set)  # textures written inside, by whole texels


@dataclass(frozen=True)
class LaneLoop:
    """A legal loop over the lanes of one texel.

    Attributes
    ----------
    at
        Its position among the frames.
    texel
        The other indices of the store, outside of the loop.
    conditions
        Under which the store runs, outside of the loop.
    order
        The lane written by each iteration.
    """

    at: int
    texel: list[Any]
    conditions: list[Any]
    order: list[int]


@dataclass(frozen=True)
class _Loop:
    variable: Any
    min: Any
    extent: Any
    step: Any
    thread: str | None

    @classmethod
    def of(cls, node: Any) -> _Loop | None:
        """Loop or thread axis that the statement is, else None."""
        thread = bound_thread(node)
        tag = thread[0] if thread is not None else None
        if isinstance(node, tirx.For):
            return cls(node.loop_var, node.min, node.extent, node.step, tag)
        if thread is not None:
            return cls(node.node.var, tirx.IntImm(node.value.ty, 0), node.value, None, tag)
        return None

    def runs(self, times: int) -> bool:
        """Whether it has exactly this many iterations, one apart."""
        one_apart = self.step is None or _is_constant(self.step, 1)
        return one_apart and _is_constant(self.extent, times)


def find_lane_loop(
    name: str, store: tirx.BufferStore, frames: Sequence[Frame], bound: dict[Any, Any]
) -> LaneLoop:
    """Lane loop of a store to one lane, refusing stores that have none."""
    indices = [substitute(index, bound) for index in store.indices]
    conditions: list[Any] = []
    between = None
    for at in range(len(frames) - 1, -1, -1):
        node = frames[at].node
        if frames[at].condition is not None:
            conditions.append(substitute(frames[at].condition, bound))
        loop = _Loop.of(node)
        if isinstance(node, SBlockRealize):
            values = block_values(node)
            indices = [substitute(index, values) for index in indices]
            conditions = [substitute(condition, values) for condition in conditions]
        elif isinstance(node, tirx.While):
            raise refused(
                name,
                store.buffer,
                "the store is inside a while loop",
                "store the result after the loop",
            )
        elif loop is None:
            continue
        elif uses(indices[-1], loop.variable):
            if between is not None:
                raise refused(
                    name,
                    store.buffer,
                    f"loop '{between.name}' walks over texels inside the loop "
                    f"'{loop.variable.name}' over lanes",
                    "make the loop over the four lanes the innermost one",
                )
            _check_loop(name, store.buffer, loop, conditions)
            _check_surroundings(name, store.buffer, frames[:at], node)
            return _prove_cover(name, store.buffer, frames, at, indices, conditions)
        elif loop.runs(1):
            only = {loop.variable: loop.min}
            indices = [substitute(index, only) for index in indices]
            conditions = [substitute(condition, only) for condition in conditions]
        elif any(uses(e, loop.variable) for e in (*indices[:-1], *conditions)):
            between = loop.variable
        elif loop.thread is not None:
            break
        elif not (isinstance(loop.extent, tirx.IntImm) and int(loop.extent) > 0):
            conditions.append(substitute(loop.extent > 0, bound))  # else nothing is stored
    raise refused(
        name,
        store.buffer,
        f"no loop over the lanes of a texel surrounds the store to lane {store.indices[-1]}",
        "write all four lanes in one loop of extent 4",
    )


def _check_loop(name: str, buffer: Any, loop: _Loop, conditions: list[Any]) -> None:
    lane = loop.variable
    if loop.thread is not None:
        raise refused(
            name,
            buffer,
            f"its lanes are spread over the work-items of {loop.thread}",
            "give each work-item whole texels: do not bind the loop over the lanes",
        )
    if not loop.runs(LANES):
        step = "" if loop.step is None else f" and step {loop.step}"
        raise refused(
            name,
            buffer,
            f"the loop '{lane.name}' over its lanes has "
            f"extent {loop.extent}{step}, a texel has {LANES} lanes",
            "split the loop by 4",
        )
    if any(uses(condition, lane) for condition in conditions):
        raise refused(
            name,
            buffer,
            f"it is stored under a condition on lane "
            f"'{lane.name}', so part of a texel would be missing",
            "select the value instead of the store (T.if_then_else)",
        )


def _check_surroundings(name: str, buffer: Any, around: Sequence[Frame], loop: tirx.For) -> None:
    def leaves(call: tvm.ir.Call) -> None:
        if getattr(call.op, "name", None) in _LEAVES:
            raise refused(
                name,
                buffer,
                f"{call} may leave the loop '{loop.loop_var.name}' over its lanes early",
                "select the value instead of the store (T.if_then_else)",
            )

    structural_walk(loop.body, (tvm.ir.Call, leaves))
    for frame in around:
        outer = frame.node
        # TVM would widen the store to the staging buffer, which all iterations share.
        if (
            isinstance(outer, tirx.For)
            and outer.kind == tirx.ForKind.VECTORIZED
            and not _is_constant(outer.extent, 1)
        ):
            raise refused(
                name,
                buffer,
                f"the loop '{loop.loop_var.name}' over its lanes is inside the vectorized loop "
                f"'{outer.loop_var.name}'",
                "vectorize the loop over the lanes only",
            )


def _prove_cover(
    name: str,
    buffer: Any,
    frames: Sequence[Frame],
    at: int,
    indices: list[Any],
    conditions: list[Any],
) -> LaneLoop:
    loop = frames[at].node
    lane = loop.loop_var
    data: list[Any] = []
    structural_walk([*indices, *conditions], (TensorLoad, data.append))
    if data:
        raise refused(
            name,
            buffer,
            f"where it is stored depends on the data in '{data[0].source.name}'",
            "write it to a buffer",
        )
    analyzer = _analyzer_of(frames[:at])
    per_lane = [
        [analyzer.simplify(substitute(index, {lane: loop.min + number})) for index in indices]
        for number in range(LANES)
    ]
    order = [int(point[-1]) for point in per_lane if isinstance(point[-1], tirx.IntImm)]
    texel = per_lane[0][:-1]
    same = all(
        analyzer.can_prove_equal(one, other)
        for point in per_lane[1:]
        for one, other in zip(texel, point[:-1], strict=True)
    )
    if sorted(order) != list(range(LANES)) or not same:
        shown = ", ".join(str(index) for index in indices)
        raise refused(
            name,
            buffer,
            f"over loop '{lane.name}' the store to "
            f"[{shown}] does not cover the four lanes of one texel",
            "align the split of the innermost dimension to 4",
        )
    conditions = [analyzer.simplify(condition) for condition in conditions]
    return LaneLoop(at, texel, [c for c in conditions if not _is_constant(c, 1)], order)


def _analyzer_of(frames: Sequence[Frame]) -> sym.Analyzer:
    analyzer = sym.Analyzer()
    for frame in frames:
        loop = _Loop.of(frame.node)
        if loop is not None:
            analyzer.bind(loop.variable, Range.from_min_extent(loop.min, loop.extent))
        elif isinstance(frame.node, SBlock):
            for iter_var in frame.node.iter_vars:
                analyzer.bind(iter_var.var, iter_var.dom)
    return analyzer


def check_owner(
    name: str, store: tirx.BufferStore, frames: Sequence[Frame], bound: dict[Any, Any]
) -> None:
    """Refuse texels that all work-items along a thread axis write."""
    # Where it is stored, and whether: both tell the work-items apart.
    choice = [substitute(index, bound) for index in store.indices[:-1]]
    owned: dict[str, bool] = {}
    for frame in reversed(frames):
        if frame.condition is not None:
            choice.append(substitute(frame.condition, bound))
        loop = _Loop.of(frame.node)
        if isinstance(frame.node, SBlockRealize):
            values = block_values(frame.node)
            choice = [substitute(expr, values) for expr in choice]
        elif loop is not None and loop.thread is not None and not loop.runs(1):
            used = any(uses(expr, loop.variable) for expr in choice)
            owned[loop.thread] = owned.get(loop.thread, False) or used
    for tag, used in owned.items():
        if tag.startswith(_WORK_ITEMS) and not used:
            raise refused(
                name,
                store.buffer,
                f"every work-item of {tag} writes the same texels",
                f"index it by {tag}, or let one work-item store it (T.where)",
            )


def block_values(realize: SBlockRealize) -> dict[Any, Any]:
    """Variables of a block with the values they take."""
    return dict(zip((v.var for v in realize.block.iter_vars), realize.iter_values, strict=True))


def _is_constant(expr: Any, value: int) -> bool:
    return isinstance(expr, tirx.IntImm) and int(expr) == value
