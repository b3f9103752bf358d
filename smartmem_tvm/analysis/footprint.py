"""Footprint traffic: unique bytes of device memory that a launch reads and writes.

The count follows from index maps alone, so a register tile that reads an operand seven times costs
the same as one that reads it once, and a function costs the same before and after it is
scheduled::

    A[v_i * 2, v_k]   v_i in 64, v_k in 9                  64 · 9 elements
    T.if_then_else(1 <= v, A[v - 1], 0)   v in 8           7 elements: what a condition keeps out
                                                           is not read

What counts as device memory is what the launch shares with others: buffers in shared, local and
warp memory are free, and so are buffers that are allocated inside. Data passes through those by
demand: an element that nobody goes on to use is not computed, and what only it needs is not read.
An element that the launch has itself written before it reads it, such as an accumulator, is
written once and not read.

Data-dependent accesses have no exact number. A gather counts ``min(table, accesses)``, both sides
of a data-dependent choice count, and :attr:`Footprint.exact` is False.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm_ffi import structural_equal

from .launches import Launch
from .traffic_accesses import (
    Access,
    Collected,
    Statement,
    collect_statements,
    contains_load,
    is_device_memory,
)
from .traffic_sets import Demanded, ElementSet, elements_of, unite, without


@dataclass(frozen=True)
class Footprint:
    """Unique bytes of device memory.

    Attributes
    ----------
    read, written
        Bytes, each element once.
    exact
        False where accesses depend on data, and the numbers are upper bounds.
    """

    read: int
    written: int
    exact: bool

    @property
    def bytes(self) -> int:
        """Bytes read and written together."""
        return self.read + self.written


FOOTPRINT = "smartmem.footprint"
"""Attribute of a scheduled function of one launch: what its footprint was before the schedule."""


def record_footprint(scheduled: Any, unscheduled: Any) -> Any:
    """The scheduled function with the footprint of the unscheduled one in its attributes.

    The footprint does not depend on the schedule, but a scheduled body hides it: private arrays,
    clamped indices and shifted tiles make the exact count hard, or only an upper bound.
    """
    found = footprint_of(unscheduled.body)
    if found is None:
        return scheduled
    return scheduled.with_attr(FOOTPRINT, [found.read, found.written, int(found.exact)])


def recorded_footprint(func: Any) -> Footprint | None:
    """What :func:`record_footprint` wrote, or None."""
    found = func.attrs.get(FOOTPRINT)
    if found is None:
        return None
    read, written, exact = (int(number) for number in found)
    return Footprint(read, written, bool(exact))


def footprint_of_launch(func: Any, launches: list[Launch], number: int) -> Footprint | None:
    """Footprint of a function's launch; as recorded where the function has no other."""
    recorded = recorded_footprint(func) if len(launches) == 1 else None
    return footprint_of(launches[number].body) if recorded is None else recorded


def footprint_bytes(launch: Launch) -> int | None:
    """Unique bytes read plus written in device memory; None when a shape is symbolic."""
    found = footprint_of(launch.body)
    return None if found is None else found.bytes


def footprint_of(body: Any) -> Footprint | None:
    """Footprint of one launch, or of the body of an unscheduled function taken as one launch.

    Returns
    -------
    footprint
        None when a shape or a loop has no constant extent.
    """
    parts = footprint_by_buffer(body)
    if parts is None:
        return None
    read = sum(part.read for part in parts.values())
    written = sum(part.written for part in parts.values())
    return Footprint(read, written, all(part.exact for part in parts.values()))


def footprint_by_buffer(body: Any) -> dict[Any, Footprint] | None:
    """As :func:`footprint_of`, for each buffer of device memory by itself.

    What is not exact is not exact in all of them.
    """
    collected = collect_statements(body)
    return None if collected.symbolic else _Flow(collected).by_buffer()


class _Flow:
    """Demand from the last statement to the first."""

    def __init__(self, collected: Collected) -> None:
        self._statements = collected.statements
        self._allocated = collected.allocated
        self._wanted: dict[Any, list[ElementSet]] = {}
        self._read: dict[Any, list[tuple[int, ElementSet]]] = {}
        self._written: dict[Any, list[tuple[int, ElementSet]]] = {}
        self._exact = True

    def by_buffer(self) -> dict[Any, Footprint]:
        for number in reversed(range(len(self._statements))):
            self._follow(number, self._statements[number])
        read = {buffer: self._bytes(buffer, self._from_outside(buffer)) for buffer in self._read}
        written = {
            buffer: self._bytes(buffer, unite([s for _, s in sets]))
            for buffer, sets in self._written.items()
        }
        return {
            buffer: Footprint(read.get(buffer, 0), written.get(buffer, 0), self._exact)
            for buffer in {**read, **written}
        }

    def _follow(self, number: int, statement: Statement) -> None:
        demand = None
        target = statement.target
        if target is not None and self._is_inside(target.buffer):
            wanted = self._wanted_of(number, target.buffer)
            if wanted is None:
                return
            if not wanted.is_whole and not any(contains_load(i) for i in target.indices):
                demand = Demanded(wanted.mask(), target.indices)
        elif target is not None:
            self._record(self._written, number, target, statement)
        for access in statement.reads:
            if target is not None and _accumulates(access, target):
                if self._is_inside(target.buffer):
                    continue
            self._exact &= not any(contains_load(guard) for guard in access.guards)
            elements = elements_of(access, statement.domain, demand)
            self._exact &= elements.bound in (None, 0)
            if self._is_inside(access.buffer):
                self._wanted.setdefault(access.buffer, []).append(elements)
            else:
                self._read.setdefault(access.buffer, []).append((number, elements))

    def _wanted_of(self, number: int, buffer: Any) -> ElementSet | None:
        """What later statements want of a buffer; all of it where an earlier one reads it too.

        An earlier statement reads what a later one wrote when a loop is around both.
        """
        later = self._wanted.get(buffer, [])
        earlier = any(
            access.buffer.same_as(buffer)
            for statement in self._statements[:number]
            for access in statement.reads
            if statement.target is None or not _accumulates(access, statement.target)
        )
        if earlier:
            return ElementSet.whole(tuple(int(extent) for extent in buffer.ty.shape))
        return unite(later) if later else None

    def _record(
        self,
        table: dict[Any, list[tuple[int, ElementSet]]],
        number: int,
        access: Access,
        statement: Statement,
    ) -> None:
        self._exact &= not any(contains_load(guard) for guard in access.guards)
        elements = elements_of(access, statement.domain, None)
        self._exact &= elements.bound in (None, 0)
        table.setdefault(access.buffer, []).append((number, elements))

    def _from_outside(self, buffer: Any) -> ElementSet:
        """Elements read that no earlier statement of the launch has written."""
        writes = self._written.get(buffer, [])
        sets = []
        for number, elements in self._read[buffer]:
            for writer, written in writes:
                if writer < number:
                    elements = without(elements, written)
            sets.append(elements)
        return unite(sets)

    def _is_inside(self, buffer: Any) -> bool:
        return not is_device_memory(buffer) or any(
            buffer.same_as(known) for known in self._allocated
        )

    @staticmethod
    def _bytes(buffer: Any, elements: ElementSet) -> int:
        dtype = tvm.DataType(buffer.ty.dtype.dtype)
        return elements.size * dtype.itemsize * dtype.lanes


def _accumulates(access: Access, target: Access) -> bool:
    """Whether a store reads the very element that it writes."""
    return access.buffer.same_as(target.buffer) and structural_equal(
        list(access.indices), list(target.indices)
    )
