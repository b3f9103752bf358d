"""Storages for the tensors that a function allocates, and how much memory that is.

Tensors share a storage when they are on one virtual device, in one memory scope, and

- buffers: of any size and element type. Where extents have no upper bound, sizes are compared as
  multiples of one product of extents, and only tensors with the same product share;
- images: of the same extents and channel type. A larger image could not be bound in place of a
  smaller one: the runtime gives each tensor an image of its own extents, from a pool by extents
  and format, whatever the storage is.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import tvm
from tvm import sym

from .liveness import Allocation, Liveness
from .memory_colouring import Item, colour, live_peak

ATTRIBUTE = "smartmem.memory"


@dataclass(frozen=True)
class Storage:
    """Memory for several tensors, one at a time.

    ``bytes`` and ``factor`` are as those of an :class:`.Allocation`: the largest of them.
    """

    bytes: int
    factor: Any | None
    members: tuple[Allocation, ...]


@dataclass(frozen=True)
class ScopeMemory:
    """Bytes of one memory scope, results and tensors without a known size left out.

    Attributes
    ----------
    planned
        Of all storages.
    live
        Of the tensors in use at one time, at most: what a planner with offsets could not go below.
    unplanned
        Of all tensors, each in memory of its own.
    """

    planned: int = 0
    live: int = 0
    unplanned: int = 0


@dataclass(frozen=True)
class Memory:
    """What was planned: bytes by scope, and the tensors that were left out, with reasons."""

    scopes: dict[str, ScopeMemory] = field(default_factory=dict)
    refused: tuple[tuple[str, str], ...] = ()


def plan_memory(liveness: Liveness) -> list[Storage]:
    """Storages for all tensors of a function that may be placed."""
    storages = []
    for members in _classes(liveness.allocations):
        items = [_item(member) for member in members]
        shared: dict[int, list[Allocation]] = {}
        for member, number in zip(members, colour(items), strict=True):
            shared.setdefault(number, []).append(member)
        for tenants in shared.values():
            tenants.sort(key=lambda tenant: tenant.first)
            size = max(_size(tenant) for tenant in tenants)
            storages.append(Storage(size, tenants[0].factor, tuple(tenants)))
    return storages


def count_memory(functions: Iterable[tuple[Liveness, Sequence[Storage]]]) -> Memory:
    """Memory of functions and their plans, added up."""
    scopes: dict[str, ScopeMemory] = {}
    refused: list[tuple[str, str]] = []
    for liveness, storages in functions:
        refused += [(allocation.var.name, reason) for allocation, reason in liveness.refused]
        known = [a for a in liveness.allocations if a.factor is None]
        for scope in sorted({allocation.scope for allocation in known}):
            items = [_item(allocation) for allocation in known if allocation.scope == scope]
            placed = [s for s in storages if s.factor is None and s.members[0].scope == scope]
            before = scopes.get(scope, ScopeMemory())
            scopes[scope] = ScopeMemory(
                before.planned + sum(storage.bytes for storage in placed),
                before.live + live_peak(items),
                before.unplanned + sum(item.bytes for item in items),
            )
    return Memory(scopes, tuple(refused))


def read_memory(mod: tvm.IRModule) -> Memory:
    """What :class:`smartmem_tvm.passes.PlanMemory` recorded in a module."""
    text = mod.get_attr(ATTRIBUTE)
    if text is None:
        return Memory()
    found = json.loads(str(text))
    return Memory(
        {scope: ScopeMemory(**bytes_) for scope, bytes_ in found["scopes"].items()},
        tuple((name, reason) for name, reason in found["refused"]),
    )


def with_memory(mod: tvm.IRModule, memory: Memory) -> tvm.IRModule:
    """Module with that recorded."""
    return mod.with_attr(ATTRIBUTE, json.dumps(asdict(memory)))


def _size(allocation: Allocation) -> int:
    return allocation.image.bytes if allocation.image else allocation.bytes


def _item(allocation: Allocation) -> Item:
    return Item(_size(allocation), allocation.first, allocation.last, allocation.dtype)


def _classes(allocations: Iterable[Allocation]) -> list[list[Allocation]]:
    """Tensors that may share memory when their times allow it."""
    analyzer = sym.Analyzer()
    factors: list[Any] = []

    def number_of(factor: Any) -> int:
        for number, other in enumerate(factors):
            if analyzer.can_prove_equal(factor, other):
                return number
        factors.append(factor)
        return len(factors) - 1

    classes: dict[Hashable, list[Allocation]] = {}
    for allocation in allocations:
        place: tuple[Hashable, ...] = (allocation.device, allocation.scope, allocation.image)
        if allocation.factor is not None:
            # A storage stands before the tensors, where what a branch binds is not known yet.
            place += (allocation.sequence, number_of(allocation.factor))
        classes.setdefault(place, []).append(allocation)
    return list(classes.values())
