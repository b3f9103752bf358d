"""What the statements of a work-item are put together from: registers, loops, assignments."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad, ForKind
from tvm_ffi import structural_equal, structural_walk

from smartmem_tvm.analysis.computation import Axis
from smartmem_tvm.analysis.expressions import const, dtype_of, uses

from .arithmetic import by_arithmetic
from .lanes import Lane
from .statements import loop, loops, private, sequence

# Expressions that a lane's loop may become when it is written out, all rows together: about half
# of what keeps a kernel's source below 64 KB, which some phones' compilers want.
MOST_UNROLLED = 4000


@dataclass
class Prelude:
    """Statements ahead of an assignment, which compute parts of its value.

    Attributes
    ----------
    copies : int
        How often the assignment is written out.
    statements : list
        The statements, in order.
    made : list of (expression, TensorLoad)
        Parts that they compute, and the loads that stand for them.
    """

    copies: int = 1
    statements: list[Any] = field(default_factory=list)
    made: list[tuple[Any, TensorLoad]] = field(default_factory=list)

    def load_of(self, part: Any) -> TensorLoad | None:
        """Load that stands for a part; None where it has not been computed."""
        return next((load for known, load in self.made if structural_equal(known, part)), None)

    def compute(self, part: Any, load: TensorLoad, statement: Any) -> None:
        """Add a statement that computes a part, which a load then stands for."""
        self.statements.append(statement)
        self.made.append((part, load))


class Builder:
    """Registers and loops of one work-item.

    Attributes
    ----------
    analyzer : tvm.sym.Analyzer
        Knows the bounds of every variable.
    """

    def __init__(self) -> None:
        self.analyzer = sym.Analyzer()
        self._buffers: list[Any] = []
        self._atoms: dict[Any, Any] = {}
        self._names = 0

    def _name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}_{self._names}"

    def _private(self, prefix: str, shape: list[int], dtype: str) -> Any:
        buffer = private(self._name(prefix), shape, dtype)
        self._buffers.append(buffer)
        return buffer

    def _fresh_loop(self, axis: Axis) -> Any:
        var = tirx.Var(self._name("r" if axis.reduced else "c"), axis.var.ty)
        self.analyzer.bind(var, tvm.ir.Range(const(0, var), axis.extent))
        return var

    def _hide(self, var: Any, value: Any) -> Any:
        """Keep an index in a register, so that simplification sees an atom; see `Grid.atoms`."""
        kept = self._private(var.name, [1], "int32")
        zero = tirx.IntImm("int32", 0)
        load = BufferLoad(kept, [zero])
        self._atoms[var] = load if dtype_of(var) == "int32" else tirx.Cast(dtype_of(var), load)
        return tirx.BufferStore(kept, tirx.Cast("int32", value), [zero])

    def _assign(
        self, to: TensorLoad, value: Any, rows: list[Any], lane: Lane | None, split: bool = True
    ) -> Any:
        """``to = value`` at all points of the tile that `to` distinguishes."""
        before = Prelude(math.prod(n for _, n in rows))
        value = by_arithmetic(value, lambda e: self._kept(e, lane, before))
        if lane is None:
            body = tirx.BufferStore(to.source, value, to.indices)
        else:
            if split:
                value = self._vector(value, lane, before)
            body = loop(
                lane.var,
                const(lane.width, lane.var),
                tirx.BufferStore(to.source, value, to.indices),
                ForKind.VECTORIZED,
            )
        shared, own = _by_rows(before.statements, [var for var, _ in rows])
        inner = self._over(rows, sequence([*own, body]), ForKind.UNROLLED)
        return sequence([*shared, inner])

    def _vector(self, value: Any, lane: Lane, before: Prelude) -> Any:
        """Vector form of a value; what has none, and what lanes share, is computed before it."""
        return lane.split(
            value, lambda e: self._by_lane(e, lane, before), lambda e: self._once(e, before)
        )

    def _kept(self, part: Any, lane: Lane | None, before: Prelude) -> Any:
        """Compute a part of a value into a register, or a vector of them; returns its load."""
        if lane is None or not uses(part, lane.var):
            return self._once(part, before)
        buffer = self._private("kept", [lane.width], dtype_of(part))
        store = tirx.BufferStore(buffer, self._vector(part, lane, before), [lane.var])
        before.statements.append(
            loop(lane.var, const(lane.width, lane.var), store, ForKind.VECTORIZED)
        )
        return BufferLoad(buffer, [lane.var])

    def _by_lane(self, part: Any, lane: Lane, before: Prelude) -> Any:
        """Compute a part of a value lane by lane into a buffer; returns its load at the lane."""
        load = before.load_of(part)
        if load is None:
            load = BufferLoad(self._private("lanes", [lane.width], dtype_of(part)), [lane.var])
            store = tirx.BufferStore(load.source, part, load.indices)
            unrolled = before.copies * lane.width * size_of(part) <= MOST_UNROLLED
            kind = ForKind.UNROLLED if unrolled else ForKind.SERIAL
            before.compute(part, load, loop(lane.var, const(lane.width, lane.var), store, kind))
        return load

    def _once(self, part: Any, before: Prelude) -> Any:
        """Compute what all lanes share into a register: TVM writes a broadcast out lane by lane."""
        if isinstance(part, tirx.FloatImm):
            return part
        if isinstance(part, TensorLoad) and part.source.ty.storage_scope == "local":
            return part
        load = before.load_of(part)
        if load is None:
            zero = tirx.IntImm("int32", 0)
            load = BufferLoad(self._private("scalar", [1], dtype_of(part)), [zero])
            before.compute(part, load, tirx.BufferStore(load.source, part, load.indices))
        return load

    def _over_rows(self, body: Any, kind: ForKind) -> Any:
        return self._over(self._rows, body, kind)

    def _over(self, rows: list[tuple[Any, int]], body: Any, kind: ForKind) -> Any:
        return loops([(var, const(n, var)) for var, n in rows], body, kind)


def size_of(value: Any) -> int:
    """Expressions in an expression."""
    found: list[Any] = []
    structural_walk(value, (tvm.ir.Expr, found.append))
    return len(found)


def _by_rows(statements: list[Any], rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """Statements that all rows share, and those of each: they name it, or what one of them made."""
    shared: list[Any] = []
    own: list[Any] = []
    made: set[Any] = set()
    for statement in statements:
        loads: list[Any] = []
        structural_walk(statement, (TensorLoad, loads.append))
        if any(uses(statement, row) for row in rows) or any(x.source in made for x in loads):
            own.append(statement)
            stores: list[Any] = []
            structural_walk(statement, (tirx.BufferStore, stores.append))
            made |= {store.buffer for store in stores}
        else:
            shared.append(statement)
    return shared, own
