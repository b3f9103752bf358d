"""What a PrimFunc computes, as a list of stages without loops.

A PrimFunc that TVM's legalisation makes is a sequence of loop nests with one block each. The loops
say nothing that the blocks' axes do not, so a :class:`Stage` keeps the axes and the stores only::

    for i, j, k in T.grid(8, 16, 4):
        with T.sblock("matmul"):                          axes    vi: 8, vj: 16, vk: 4 (reduced)
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])   →  stores  C[vi, vj] = C[vi, vj] + …
            with T.init():                                initial 0.0
                C[vi, vj] = 0.0
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

:func:`read_stages` refuses, with the reason, what has another form (extern calls, sorts, loops that
are already bound to threads, blocks that overlap): the operator is then *opaque*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlock, SBlockRealize
from tvm_ffi import structural_equal, structural_map, structural_walk

from .expressions import loads_of, substitute

_ALWAYS = tirx.IntImm("bool", 1)


@dataclass(frozen=True)
class Axis:
    """One iterator of a stage, from 0 to its extent; reduced or spatial."""

    var: Any
    extent: Any
    reduced: bool = False

    @property
    def range(self) -> tvm.ir.Range:
        """Values of the iterator."""
        return tvm.ir.Range(tirx.const(0, self.var.ty.dtype), self.extent)


@dataclass(frozen=True)
class Store:
    """One element written at every point of the stage, where the condition holds."""

    buffer: Any
    indices: tuple[Any, ...]
    value: Any
    condition: Any = None


@dataclass(frozen=True)
class Stage:
    """One block: axes and what is stored at each of their points.

    A stage with reduced axes has one initial value for each store, and reads back what it stores.
    Values that are stored together are computed before any of them is stored.
    """

    name: str
    axes: tuple[Axis, ...]
    stores: tuple[Store, ...]
    initial: tuple[Any, ...] = ()

    @property
    def is_reduction(self) -> bool:
        """Whether it has reduced axes."""
        return any(axis.reduced for axis in self.axes)

    @property
    def spatial(self) -> tuple[Axis, ...]:
        """Axes that are not reduced."""
        return tuple(axis for axis in self.axes if not axis.reduced)

    @property
    def domain(self) -> dict[Any, tvm.ir.Range]:
        """Range of every axis variable."""
        return {axis.var: axis.range for axis in self.axes}

    def loads(self) -> list[TensorLoad]:
        """Every load: in values, conditions, and in the indices of both; own results excepted."""
        own = {store.buffer for store in self.stores}
        return [load for load in self._all_loads() if load.source not in own]

    def _all_loads(self) -> list[TensorLoad]:
        parts = [part for s in self.stores for part in (s.value, *s.indices, s.condition)]
        return loads_of([part for part in (*parts, *self.initial) if part is not None])

    def is_pointwise(self, store: Store) -> bool:
        """Whether the store writes the element that the spatial axes name, unconditionally."""
        return (
            store.condition is None
            and len(store.indices) == len(self.spatial)
            and all(
                structural_equal(index, axis.var) or (is_int(index, 0) and is_int(axis.extent, 1))
                for index, axis in zip(store.indices, self.spatial, strict=True)
            )
        )


@dataclass(frozen=True)
class OpaqueReason:
    """Why a function has no stages."""

    reason: str


def is_int(expr: Any, value: int) -> bool:
    """Whether the expression is that integer constant."""
    return isinstance(expr, tirx.IntImm) and int(expr) == value


def fresh_axes(axes: Sequence[Axis]) -> tuple[tuple[Axis, ...], dict[Any, Any]]:
    """The same axes with new variables, and the map from the old ones to the new."""
    renamed = tuple(
        Axis(tirx.Var(axis.var.name, axis.var.ty), axis.extent, axis.reduced) for axis in axes
    )
    return renamed, {old.var: new.var for old, new in zip(axes, renamed, strict=True)}


def replace_loads(expr: Any, buffers: dict[Any, Any]) -> Any:
    """Expression whose loads of the given buffers become what the functions make of their indices.

    ``buffers[b](indices)`` gives what stands in place of ``b[indices]``; indices that hold loads
    themselves are replaced first.
    """

    def made_of(load: TensorLoad) -> Any:
        make = buffers.get(load.source)
        return load if make is None else make(list(load.indices))

    return structural_map(expr, (TensorLoad, made_of))


def map_stage(stage: Stage, change: Callable[[Any], Any]) -> Stage:
    """Stage with every value, index and condition changed, and the initial values."""
    stores = tuple(
        Store(
            store.buffer,
            tuple(change(index) for index in store.indices),
            change(store.value),
            None if store.condition is None else change(store.condition),
        )
        for store in stage.stores
    )
    return Stage(stage.name, stage.axes, stores, tuple(change(v) for v in stage.initial))


def replace_in_stage(stage: Stage, loads: dict[Any, Any]) -> Stage:
    """Stage whose loads are replaced everywhere; see :func:`replace_loads`."""
    return map_stage(stage, lambda expr: replace_loads(expr, loads))


def substitute_in_stage(stage: Stage, values: dict[Any, Any]) -> Stage:
    """Stage with variables replaced everywhere: buffers by buffers, symbols by expressions."""
    return _substitute(stage, values, {})


def with_fresh_axes(stage: Stage, values: dict[Any, Any]) -> Stage:
    """Stage with new axis variables, and variables replaced as by :func:`substitute_in_stage`."""
    _, fresh = fresh_axes(stage.axes)
    return _substitute(stage, {**values, **fresh}, fresh)


def stage_parts(stage: Stage) -> list[Any]:
    """Every expression of a stage, in a fixed order; ``1`` stands for no condition."""
    parts = [axis.extent for axis in stage.axes]
    for store in stage.stores:
        condition = _ALWAYS if store.condition is None else store.condition
        parts += (*store.indices, store.value, condition)
    return [*parts, *stage.initial]


def structure_of(stage: Stage) -> list[Any]:
    """Axes, buffers and expressions of a stage as one object to compare."""
    kinds = [int(axis.reduced) for axis in stage.axes]
    counts = [len(store.indices) for store in stage.stores]
    buffers = [store.buffer for store in stage.stores]
    return [[axis.var for axis in stage.axes], kinds, buffers, counts, stage_parts(stage)]


def _substitute(stage: Stage, values: dict[Any, Any], axes: dict[Any, Any]) -> Stage:
    """One walk over all expressions: a walk costs more to start than most of them to traverse."""
    if not values:
        return stage
    parts = iter(substitute(stage_parts(stage), values))
    return Stage(
        stage.name,
        tuple(
            Axis(axes.get(axis.var, axis.var), extent, axis.reduced)
            for axis, extent in zip(stage.axes, parts, strict=False)
        ),
        tuple(
            Store(
                values.get(store.buffer, store.buffer),
                tuple(next(parts) for _ in store.indices),
                next(parts),
                _condition(next(parts), store),
            )
            for store in stage.stores
        ),
        tuple(parts),
    )


def _condition(part: Any, store: Store) -> Any:
    return None if store.condition is None else part


def point_of(stage: Stage, buffer: Any, indices: list[Any]) -> dict[Any, Any]:
    """Values of the stage's spatial axes at which it writes ``buffer[indices]``."""
    store = next(store for store in stage.stores if store.buffer.same_as(buffer))
    values: dict[Any, Any] = {}
    for written, asked in zip(store.indices, indices, strict=True):
        if any(written.same_as(axis.var) for axis in stage.spatial):
            values[written] = asked
    for axis in stage.spatial:
        values.setdefault(axis.var, tirx.const(0, axis.var.ty.dtype))
    return values


def count_points(axes: Iterable[Axis]) -> int | None:
    """Product of the extents; None where one is symbolic."""
    total = 1
    for axis in axes:
        if not isinstance(axis.extent, tirx.IntImm):
            return None
        total *= int(axis.extent)
    return total


def read_stages(func: tirx.PrimFunc) -> list[Stage] | OpaqueReason:
    """Stages of a function in the order of its blocks, or why it cannot be read.

    The stages' variables and buffers are those of `func`; renew them before mixing functions.
    """
    if func.attrs.get("tirx.is_scheduled"):
        return OpaqueReason("it is scheduled by hand")
    root = func.body
    if not isinstance(root, SBlockRealize) or root.block.iter_vars:
        return OpaqueReason("its body is not one root block")
    if root.block.match_buffers:
        return OpaqueReason("it matches a buffer with a part of another")
    body = root.block.body
    nests = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    stages = []
    for nest in nests:
        stage = _read_nest(nest)
        if isinstance(stage, OpaqueReason):
            return stage
        stages.append(stage)
    return _check_order(stages)


def stored_twice(stage: Stage) -> str | None:
    """Where a stage stores several elements of one buffer at each point, in words.

    What puts a value in place of an element, or takes the stores apart, has to know which is meant.
    """
    seen: set[Any] = set()
    for store in stage.stores:
        if store.buffer in seen:
            return f"block '{stage.name}' stores in '{store.buffer.name}' twice"
        seen.add(store.buffer)
    return None


def _check_order(stages: list[Stage]) -> list[Stage] | OpaqueReason:
    written: set[Any] = set()
    for stage in stages:
        for store in stage.stores:
            if store.buffer in written:
                return OpaqueReason(f"buffer '{store.buffer.name}' is written by several blocks")
        written |= {store.buffer for store in stage.stores}
    return stages


def _read_nest(stmt: Any) -> Stage | OpaqueReason:
    loops: dict[Any, Any] = {}
    while isinstance(stmt, tirx.For):
        if stmt.kind != tirx.ForKind.SERIAL or not is_int(stmt.min, 0) or stmt.annotations:
            return OpaqueReason(f"loop '{stmt.loop_var.name}' has a schedule")
        loops[stmt.loop_var] = stmt.extent
        stmt = stmt.body
    if not isinstance(stmt, SBlockRealize):
        return OpaqueReason(f"it holds a statement of kind {type(stmt).__name__} outside of blocks")
    block = stmt.block
    if not is_int(stmt.predicate, 1) or block.alloc_buffers or block.match_buffers:
        return OpaqueReason(f"block '{block.name_hint}' has a predicate or buffers of its own")
    axes = []
    for iter_var, value in zip(block.iter_vars, stmt.iter_values, strict=True):
        kind = int(iter_var.iter_type)
        if kind not in (tirx.IterVar.DataPar, tirx.IterVar.CommReduce):
            return OpaqueReason(f"axis '{iter_var.var.name}' runs in order")
        extent = iter_var.dom.extent
        unit = is_int(value, 0) and is_int(extent, 1)
        if not unit and not structural_equal(loops.pop(value, None), extent):
            return OpaqueReason(f"axis '{iter_var.var.name}' is not one whole loop")
        axes.append(Axis(iter_var.var, extent, kind == tirx.IterVar.CommReduce))
    if any(not is_int(extent, 1) for extent in loops.values()):
        return OpaqueReason(f"block '{block.name_hint}' has loops that no axis uses")
    return _read_block(block, tuple(axes))


def _read_block(block: SBlock, axes: tuple[Axis, ...]) -> Stage | OpaqueReason:
    stores = _read_stores(block.body, None)
    if isinstance(stores, OpaqueReason):
        return stores
    initial: tuple[Any, ...] = ()
    if block.init is not None:
        first = _read_stores(block.init, None)
        if isinstance(first, OpaqueReason):
            return first
        if len(first) != len(stores) or any(
            one.condition is not None
            or not one.buffer.same_as(other.buffer)
            or not structural_equal(one.indices, other.indices)
            for one, other in zip(first, stores, strict=True)
        ):
            return OpaqueReason(f"block '{block.name_hint}' does not initialise what it stores")
        initial = tuple(store.value for store in first)
    if axes and all(is_int(axis.extent, 1) for axis in axes) and not any(s.indices for s in stores):
        # A tensor without dimensions: TVM gives its block one axis, which nothing needs.
        zeros = {axis.var: tirx.const(0, axis.var.ty.dtype) for axis in axes if not axis.reduced}
        stores = [Store(s.buffer, (), substitute(s.value, zeros), s.condition) for s in stores]
        axes = tuple(axis for axis in axes if axis.reduced)
    stage = Stage(block.name_hint, axes, tuple(stores), initial)
    if stage.is_reduction != bool(initial):
        return OpaqueReason(f"block '{block.name_hint}' reduces without an initial value")
    own = {store.buffer: store.indices for store in stores}
    for load in stage._all_loads():
        target = own.get(load.source)
        if target is None:
            continue
        if not stage.is_reduction:
            return OpaqueReason(f"block '{block.name_hint}' reads what it writes")
        if not _same_element(load, target, axes):
            return OpaqueReason(f"block '{block.name_hint}' reads another element that it writes")
    return stage


def _same_element(load: TensorLoad, target: Any, axes: tuple[Axis, ...]) -> bool:
    """Whether a load reads the element at those indices, axes of one value being 0."""
    units = {axis.var: tirx.const(0, axis.var.ty.dtype) for axis in axes if is_int(axis.extent, 1)}
    return all(
        is_int(extent, 1) or structural_equal(substitute(a, units), substitute(b, units))
        for extent, a, b in zip(load.source.shape, load.indices, target, strict=True)
    )


def _read_stores(stmt: Any, condition: Any) -> list[Store] | OpaqueReason:
    if isinstance(stmt, tirx.BufferStore):
        return [Store(stmt.buffer, tuple(stmt.indices), stmt.value, condition)]
    if isinstance(stmt, tirx.IfThenElse) and stmt.else_case is None:
        both = stmt.condition if condition is None else tirx.And(condition, stmt.condition)
        return _read_stores(stmt.then_case, both)
    if isinstance(stmt, tirx.SeqStmt):
        return _read_sequence(list(stmt.seq), condition)
    return OpaqueReason(f"a block holds a statement of kind {type(stmt).__name__}")


def _read_sequence(parts: list[Any], condition: Any) -> list[Store] | OpaqueReason:
    """Stores of statements in sequence, with the variables that they bind put in their places."""
    stores: list[Store] = []
    bound: dict[Any, Any] = {}
    for part in parts:
        written = {store.buffer for store in stores}
        read: list[TensorLoad] = []
        structural_walk(part, (TensorLoad, read.append))
        if any(load.source in written for load in read):
            return OpaqueReason("a block reads what it has just written")
        part = substitute(part, bound)
        if isinstance(part, tirx.Bind):
            bound[part.var] = part.value
            continue
        found = _read_stores(part, condition)
        if isinstance(found, OpaqueReason):
            return found
        stores += found
    return stores
