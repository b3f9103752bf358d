"""A model as values and operators, for counting what any fusion of it has to move.

Reads a Relax module of ``call_tir`` whose relayouts are eliminated already. A *heavy* operator
reduces or is opaque: it stays a kernel. A *light* one (elementwise, broadcast, selection) can be
computed wherever its operands are at hand::

    a = matmul(x, w)      heavy: reads x, w; makes a
    b = add(a, bias)      light: b from a, bias
    c = layer_norm(b)     heavy: reads b; makes c
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir.expr import GenericConst

from smartmem_tvm.analysis.computation import OpaqueReason, read_stages
from smartmem_tvm.analysis.footprint import footprint_by_buffer
from smartmem_tvm.analysis.layout_class import LayoutClass, classify

CALL_TIR = tvm.ir.Op.get("relax.call_tir")
IN_PLACE = tvm.ir.Op.get("relax.call_tir_inplace")
RESHAPE = tvm.ir.Op.get("relax.reshape")
# A normalisation's statistics are at most this share of what it normalises.
_STATISTICS = 1 / 4


@dataclass(eq=False)
class Value:
    """A tensor: ``parameter`` and ``input`` come from outside, the rest is ``made``."""

    name: str
    bytes: int
    kind: str = "made"
    result: bool = False


@dataclass(eq=False)
class Operator:
    """What a call reads and writes, in bytes of each value."""

    name: str  # of the function
    heavy: bool
    reads: dict[Value, int]
    writes: dict[Value, int]
    opaque: bool = False
    statistics: Statistics | None = None

    @property
    def makes(self) -> list[Value]:
        """What it writes."""
        return list(self.writes)


@dataclass(frozen=True)
class Statistics:
    """An operator that reduces rows and normalises them with the result: what the first half is.

    Attributes
    ----------
    bytes : int
        Of what the rows are reduced to.
    reads : frozenset of Value
        What that needs; what normalises them may read more.
    """

    bytes: int
    reads: frozenset[Value]


@dataclass
class Graph:
    """Operators in an order of dependence."""

    operators: list[Operator] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)


def read_graph(mod: tvm.IRModule, entry: str = "main") -> Graph:
    """Graph of a module's function, whose first ``num_input`` parameters are the model's inputs."""
    return _Reader(mod).read(mod[entry])


class _Reader:
    def __init__(self, mod: tvm.IRModule) -> None:
        self._mod = mod
        self._graph = Graph()
        self._values: dict[Any, Any] = {}  # Relax variable: Value, or tuple of them
        self._constants: list[tuple[Any, Value]] = []
        self._facts: dict[Any, _Facts] = {}

    def read(self, func: relax.Function) -> Graph:
        count = int((func.attrs or {}).get("num_input", len(func.params)))
        for number, param in enumerate(func.params):
            kind = "input" if number < count else "parameter"
            self._values[param] = self._declare(param.ty, param.name, kind)
        for block in func.body.blocks:
            for binding in block.bindings:
                self._bind(binding.var, binding.value)
        for value in _flat(self._of(func.body.body)):
            value.result = True
        return self._graph

    def _declare(self, ty: Any, name: str, kind: str = "made") -> Any:
        if isinstance(ty, tvm.ir.TupleType):
            return tuple(
                self._declare(part, f"{name}_{i}", kind) for i, part in enumerate(ty.fields)
            )
        size = 0
        if isinstance(ty, relax.TensorType):
            if not isinstance(ty.shape, relax.ShapeExpr):
                raise ValueError(f"tensor '{name}' has no known shape")
            itemsize = tvm.DataType(str(getattr(ty.dtype, "dtype", ty.dtype))).itemsize
            size = math.prod(int(extent) for extent in ty.shape.values) * itemsize
        value = Value(name, size, kind)
        self._graph.values.append(value)
        return value

    def _of(self, expr: Any) -> Any:
        if isinstance(expr, GenericConst):
            for constant, value in self._constants:
                if constant.same_as(expr):
                    return value
            value = self._declare(expr.ty, f"constant_{len(self._constants)}", "parameter")
            self._constants.append((expr, value))
            return value
        if isinstance(expr, relax.Tuple):
            return tuple(self._of(part) for part in expr.fields)
        return self._values.get(expr, ())

    def _bind(self, var: Any, value: Any) -> None:
        if isinstance(value, relax.TupleGetItem):
            part = self._of(value.tuple_value)[int(value.index)]
            if not isinstance(part, tuple) and part.kind == "made":
                part.name = var.name
            self._values[var] = part
        elif isinstance(value, tvm.ir.Var | relax.Tuple | GenericConst):
            self._values[var] = self._of(value)
        elif isinstance(value, relax.Call) and value.op.same_as(RESHAPE):
            self._values[var] = self._of(value.args[0])  # a view: nothing moves
        else:
            self._values[var] = made = self._result(var, value)
            self._graph.operators.append(self._operator(value, _flat(made)))

    def _result(self, var: Any, call: Any) -> Any:
        """The value of a call: a new one, or the operand that it writes into."""
        if isinstance(call, relax.Call) and call.op.same_as(IN_PLACE):
            (position,) = (int(index) for index in call.attrs.inplace_indices)
            if position >= 0:
                return _flat(self._of(call.args[1]))[position]
        return self._declare(var.ty, var.name)

    def _operator(self, call: Any, makes: list[Value]) -> Operator:
        is_tir = isinstance(call, relax.Call) and any(map(call.op.same_as, (CALL_TIR, IN_PLACE)))
        name = call.args[0].name_hint if is_tir else str(getattr(call, "op", "opaque"))
        arguments = call.args[1] if is_tir else relax.Tuple(list(getattr(call, "args", ())))
        reads = _flat(self._of(arguments))
        tensors = [*reads, *(value for value in makes if value not in reads)]
        facts = self._facts_of(call.args[0], len(reads)) if is_tir else None
        if facts is None:
            whole = {read: read.bytes for read in reads}
            return Operator(name, True, whole, {made: made.bytes for made in makes}, opaque=True)
        needed: dict[Value, int] = {}
        for read, count in zip(reads, facts.reads, strict=True):
            if count:
                needed[read] = min(read.bytes, needed.get(read, 0) + count)
        written = {v: n for v, n in zip(tensors, facts.written, strict=True) if v in makes}
        operator = Operator(name, facts.heavy, needed, written, facts.opaque)
        if facts.statistics_bytes:
            reduced = frozenset(reads[position] for position in facts.reduced)
            operator.statistics = Statistics(facts.statistics_bytes, reduced)
        return operator

    def _facts_of(self, function: Any, count: int) -> _Facts | None:
        if function not in self._facts:
            self._facts[function] = _describe(self._mod[function], count)
        return self._facts[function]


@dataclass(frozen=True)
class _Facts:
    heavy: bool
    opaque: bool
    reads: tuple[int, ...]
    written: tuple[int, ...]
    statistics_bytes: int = 0
    reduced: frozenset[int] = frozenset()


def _describe(func: Any, count: int) -> _Facts | None:
    """What a function reads of each of its first `count` parameters; None if that is not known."""
    found = footprint_by_buffer(func.body)
    if found is None or any(isinstance(p.ty, tvm.ir.PrimType) for p in func.params[:count]):
        return None
    parts = [
        next((part for buffer, part in found.items() if buffer.same_as(param)), None)
        for param in func.params
    ]
    reads = tuple(0 if part is None else part.read for part in parts[:count])
    written = tuple(0 if part is None else part.written for part in parts)
    layout_class = classify(func).layout_class
    opaque = layout_class is LayoutClass.OPAQUE
    if layout_class is not LayoutClass.ILD:
        return _Facts(opaque, opaque, reads, written)
    return _Facts(True, False, reads, written, *_statistics(func, count))


def _statistics(func: Any, count: int) -> tuple[int, frozenset[int]]:
    """Bytes that rows are reduced to before the last stage normalises them, and from which reads.

    No bytes where the last stage reduces, or where the reduction is most of the result.
    """
    stages = read_stages(func)
    if isinstance(stages, OpaqueReason) or stages[-1].is_reduction:
        return 0, frozenset()
    made = sum(_bytes(buffer) for buffer in func.params[count:])
    waiting = [stage for stage in stages if stage.is_reduction]
    size = sum(_bytes(store.buffer) for stage in waiting for store in stage.stores)
    if size > _STATISTICS * made:
        return 0, frozenset()
    makers = {store.buffer: stage for stage in stages for store in stage.stores}
    needed: dict[Any, None] = {}
    while waiting:
        for load in waiting.pop().loads():
            if load.source not in needed and load.source in makers:
                waiting.append(makers[load.source])
            needed.setdefault(load.source)
    return size, frozenset(n for n, param in enumerate(func.params[:count]) if param in needed)


def _bytes(buffer: Any) -> int:
    count = math.prod(int(extent) for extent in buffer.shape)
    return count * tirx.const(0, buffer.dtype).ty.dtype.itemsize


def _flat(value: Any) -> list[Value]:
    if isinstance(value, tuple):
        return [part for item in value for part in _flat(item)]
    return [value]
