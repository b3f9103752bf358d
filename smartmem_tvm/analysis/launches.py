"""The device launches of a PrimFunc.

TVM's host/device split makes one kernel of every outermost thread-bound statement of a function
and leaves the rest on the host. So::

    for i in range(2):                                # host loop: runs its launches twice
        for bx in T.thread_binding(8, "blockIdx.x"):  # launch 0
            ...
    for bx in T.thread_binding(4, "blockIdx.x"):      # launch 1
        ...

has two kernels and three launches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_visit, structural_walk

CPU_DEVICE_TYPE = 1
THREAD_EXTENT = "thread_extent"


@dataclass(frozen=True)
class Launch:
    """One kernel of a PrimFunc.

    Attributes
    ----------
    body
        The outermost thread-bound statement: a ``For``, or a ``thread_extent`` ``AttrStmt`` when
        the function is already lowered to those.
    threads
        Extent of every thread axis bound inside, by its tag (``threadIdx.x`` …). An axis that is
        bound several times, as by a cooperative copy, appears once, with the largest extent.
    repeats
        Product of the host loops around it, None when one of them has no constant extent.
    """

    body: tirx.Stmt
    threads: dict[str, Any] = field(hash=False)
    repeats: int | None = 1

    def work_group(self) -> int | None:
        """Work-items in a group, None when an extent is symbolic."""
        size = 1
        for tag, extent in self.threads.items():
            if tag.startswith("threadIdx."):
                if not isinstance(extent, tirx.IntImm):
                    return None
                size *= int(extent)
        return size


def bound_thread(stmt: tirx.Stmt) -> tuple[str, Any] | None:
    """Thread tag and extent when the statement binds a loop to a thread axis, else None."""
    if isinstance(stmt, tirx.For) and stmt.kind == tirx.ForKind.THREAD_BINDING:
        return stmt.thread_binding.thread_tag, stmt.extent
    if isinstance(stmt, tirx.AttrStmt) and stmt.attr_key == THREAD_EXTENT:
        return stmt.node.thread_tag, stmt.value
    return None


def _threads_in(body: tirx.Stmt) -> dict[str, Any]:
    threads: dict[str, Any] = {}

    def visit(stmt: tirx.Stmt) -> None:
        bound = bound_thread(stmt)
        if bound is None:
            return
        tag, extent = bound
        known = threads.get(tag)
        both_static = isinstance(known, tirx.IntImm) and isinstance(extent, tirx.IntImm)
        if known is None or (both_static and int(extent) > int(known)):
            threads[tag] = extent

    structural_walk(body, ((tirx.For, tirx.AttrStmt), visit), order="pre")
    return threads


def _visit_host_part(
    func: tirx.PrimFunc, on_launch: Callable[[Launch], None], on_access: Callable[[Any], None]
) -> None:
    """Walk what runs on the host, handing over each launch without entering it."""
    host_loops: list[int | None] = []

    def repeats() -> int | None:
        total = 1
        for extent in host_loops:
            if extent is None:
                return None
            total *= extent
        return total

    def statement(stmt: Any, visitor: Any) -> Any:
        if bound_thread(stmt) is not None:
            on_launch(Launch(stmt, _threads_in(stmt), repeats()))
            return None
        if not isinstance(stmt, (tirx.For, tirx.While)):
            return visitor.default_visit(stmt)
        static = isinstance(stmt, tirx.For) and isinstance(stmt.extent, tirx.IntImm)
        host_loops.append(int(stmt.extent) if static else None)
        result = visitor.default_visit(stmt)
        host_loops.pop()
        return result

    def access(node: Any, visitor: Any) -> Any:
        on_access(node.source if isinstance(node, TensorLoad) else node.buffer)
        return visitor.default_visit(node)

    structural_visit(
        func.body,
        [
            ((tirx.For, tirx.While, tirx.AttrStmt), statement),
            ((TensorLoad, tirx.BufferStore), access),
        ],
    )


def find_launches(func: tirx.PrimFunc) -> list[Launch]:
    """Kernels of a scheduled PrimFunc, in the order in which the host launches them."""
    found: list[Launch] = []
    _visit_host_part(func, found.append, lambda buffer: None)
    return found


def accesses_outside_launches(func: tirx.PrimFunc) -> list[Any]:
    """Buffers that host code of the function would read or write itself, each once.

    On a device target these are device handles, which the host must not dereference.
    """
    found: list[Any] = []

    def remember(buffer: Any) -> None:
        if not any(buffer.same_as(known) for known in found):
            found.append(buffer)

    _visit_host_part(func, lambda launch: None, remember)
    return found


def is_host_function(func: tirx.PrimFunc, target: tvm.target.Target | None = None) -> bool:
    """Whether the function runs on the host: by its own attributes, else by `target`."""
    if func.attrs.get("tirx.is_host_func"):
        return True
    own = func.attrs.get("target")
    chosen = own if own is not None else target
    return chosen is not None and chosen.get_target_device_type() == CPU_DEVICE_TYPE
