"""When each tensor that a Relax function allocates is in use, and what memory it asks for.

To be read off a module whose ``call_tir`` are calls of functions that write into what
``R.builtin.alloc_tensor`` gave them, as ``CallTIRRewrite`` leaves it::

    0  a = R.builtin.alloc_tensor(…)
    1  f(x, a)                              a: in use from 0 to 4, through b and the view c
    2  b = a                                d: from 3 to 4
    3  c = R.reshape(b, …)                  e: a result, so not ours to place
    4  d = R.builtin.alloc_tensor(…)
    5  …

A tensor is in use from its allocation to the last call that mentions it, under whatever name:
bindings, tuples and their fields, views, and kernels that write in place (they are calls like any
other) are followed. A call that is neither a PrimFunc's nor a view's may return what it was given,
so its result is another name of all of that. Positions count bindings in the order of the text,
branches included: those of a conditional lie between its own and the next one, and what a branch
uses from outside is in use until both have ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, sym, tirx

ALLOCATE = tvm.ir.Op.get("relax.builtin.alloc_tensor")
_VIEWS = [tvm.ir.Op.get(name) for name in ("relax.reshape", "relax.memory.view")]
_CALL_DYNAMIC = tvm.ir.Op.get("relax.vm.call_tir_dyn")
UPPER_BOUNDS = "tir_var_upper_bound"
_NON_NEGATIVE = "tir_non_negative_var"

# Which axes of a tensor in an image scope are rows, as its position from the front or the back.
_IMAGE_ROWS = {
    "global.texture": -3,
    "global.image2d": -3,
    "global.texture-weight": 0,
    "global.texture-nhwc": 1,
}

# Allocations that a value may be: of a tuple, by field.
Holding = frozenset[int] | tuple[Any, ...]
_NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Image:
    """Extents in texels of four channels, and a channel's type: equal images can be exchanged."""

    layers: int
    rows: int
    columns: int
    dtype: str

    @property
    def texel_bytes(self) -> int:
        """Bytes of one texel."""
        return 4 * _element_bytes(self.dtype)

    @property
    def bytes(self) -> int:
        """Bytes of all texels."""
        return self.layers * self.rows * self.columns * self.texel_bytes


@dataclass(frozen=True)
class Allocation:
    """A tensor that a function allocates.

    Attributes
    ----------
    var
        What ``R.builtin.alloc_tensor`` is bound to.
    device, scope
        Index of the virtual device, and the memory scope.
    dtype
        Of its elements.
    bytes
        Its size, or the largest it can have; where ``factor`` is given, bytes for each unit of it.
    factor
        Product of the extents without an upper bound.
    image
        Its extents where the scope is one of images.
    first, last
        Positions of its allocation and of the last call that may touch it.
    sequence
        The bindings that it is among.
    outermost
        What the binding of the function's own sequence is bound to that it is, or is inside of.
    """

    var: relax.Var
    device: int
    scope: str
    dtype: str
    bytes: int
    factor: Any | None
    image: Image | None
    first: int
    last: int
    sequence: relax.SeqExpr
    outermost: relax.Var


@dataclass(frozen=True)
class Liveness:
    """Tensors that a planner may place, and those that it may not, with reasons."""

    allocations: tuple[Allocation, ...]
    refused: tuple[tuple[Allocation, str], ...]


def read_liveness(func: relax.Function, mod: tvm.IRModule) -> Liveness:
    """Tensors that a function of a module allocates; not those of functions inside of it."""
    reader = _Reader(mod, upper_bounds(func))
    if isinstance(func.body, relax.SeqExpr):
        reader.read(func.body, "a result of the function")
    return reader.result()


def upper_bounds(func: relax.Function) -> sym.Analyzer:
    """What a function's attributes say about the extents in its signature."""
    analyzer = sym.Analyzer()
    bounds = {str(k): int(v) for k, v in _attribute(func, UPPER_BOUNDS, {}).items()}
    non_negative = {str(name) for name in _attribute(func, _NON_NEGATIVE, [])}
    for var in relax.analysis.defined_symbolic_vars(func):
        if var.name in bounds:
            analyzer.bind(var, tvm.ir.Range(0, bounds[var.name] + 1))
        elif var.name in non_negative:
            analyzer.mark_global_non_neg_value(var)
    return analyzer


def _attribute(func: relax.Function, name: str, missing: Any) -> Any:
    found = None if func.attrs is None else func.attrs.get(name)
    return missing if found is None else found


def bounded_size(extents: Iterable[Any], dtype: str, analyzer: sym.Analyzer) -> tuple[int, Any]:
    """Bytes of a tensor, and the product of the extents without an upper bound (None: of none)."""
    size, factor = _element_bytes(dtype), None
    for extent in extents:
        most = int(analyzer.const_int_bound(extent).max_value)
        if isinstance(extent, tirx.IntImm) or most < sym.ConstIntBound.POS_INF:
            size *= max(0, most)
        else:
            factor = extent if factor is None else factor * extent
    return size, factor


def image_of(scope: str, extents: list[Any], dtype: str) -> Image | None:
    """The image that holds a tensor of that scope; None when an extent is not a constant."""
    if not all(isinstance(extent, tirx.IntImm) for extent in extents) or len(extents) < 3:
        return None
    sizes = [int(extent) for extent in extents[:-1]]
    row = _IMAGE_ROWS[scope]
    row = row if row >= 0 else len(extents) + row
    return Image(math.prod(sizes[:row]), sizes[row], math.prod(sizes[row + 1 :]), dtype)


def is_image_scope(scope: str) -> bool:
    """Whether tensors of that memory scope are images."""
    return scope in _IMAGE_ROWS


def _element_bytes(dtype: str) -> int:
    kind = tvm.DataType(dtype)
    return -(-kind.bits // 8) * kind.lanes


class _Reader:
    def __init__(self, mod: tvm.IRModule, analyzer: sym.Analyzer) -> None:
        self.mod = mod
        self.analyzer = analyzer
        self.position = -1
        self.found: list[dict[str, Any]] = []
        self.holdings: dict[relax.Var, Holding] = {}
        self.escaping: dict[int, str] = {}

    def result(self) -> Liveness:
        allocations, refused = [], []
        for number, fields in enumerate(self.found):
            allocation = Allocation(**fields)
            reason = self.escaping.get(number) or _unknown_extents(allocation)
            if reason:
                refused.append((allocation, reason))
            else:
                allocations.append(allocation)
        return Liveness(tuple(allocations), tuple(refused))

    def read(
        self, sequence: relax.SeqExpr, escape: str, outermost: relax.Var | None = None
    ) -> None:
        before = len(self.found)
        for binding in (binding for block in sequence.blocks for binding in block.bindings):
            self.position += 1
            value = binding.value
            place = binding.var if outermost is None else outermost
            if isinstance(value, relax.Call) and value.op.same_as(ALLOCATE):
                self.holdings[binding.var] = frozenset({len(self.found)})
                where = {"sequence": sequence, "outermost": place}
                self.found.append({**self._described(binding), **where})
                continue
            if isinstance(value, relax.If):
                held, used = self._branches(value, place)
            else:
                held, used = self._follow(value)
            self.holdings[binding.var] = held
            for number in used:
                self.found[number]["last"] = self.position
        for number in self._mentioned(sequence.body):
            if number >= before:
                self.escaping[number] = escape

    def _branches(self, value: relax.If, outermost: relax.Var) -> tuple[Holding, Iterable[int]]:
        before = len(self.found)
        used = set(self._mentioned(value))
        held: set[int] = set()
        for branch in (value.true_branch, value.false_branch):
            if isinstance(branch, relax.SeqExpr):
                self.read(branch, "a result of a branch", outermost)
                branch = branch.body
            held.update(number for number in self._mentioned(branch) if number < before)
        return frozenset(held), used

    def _described(self, binding: Any) -> dict[str, Any]:
        shape, dtype, device, scope = binding.value.args
        name, kind = str(scope.value), str(dtype.value)
        size, factor = bounded_size(shape.values, kind, self.analyzer)
        image = image_of(name, list(shape.values), kind) if is_image_scope(name) else None
        return {
            "var": binding.var,
            "device": int(device),
            "scope": name,
            "dtype": kind,
            "bytes": size,
            "factor": factor,
            "image": image,
            "first": self.position,
            "last": self.position,
        }

    def _follow(self, value: Any) -> tuple[Holding, Iterable[int]]:
        """Allocations that a value may be, and those that making it touches."""
        if isinstance(value, (relax.Var, relax.Tuple, relax.TupleGetItem)):
            return self._holding(value), _NOTHING
        if isinstance(value, relax.Call) and any(value.op.same_as(view) for view in _VIEWS):
            return self._holding(value.args[0]), _NOTHING
        touched = frozenset(self._mentioned(value))
        if isinstance(value, relax.Function):  # touched when it is called
            return touched, _NOTHING
        if isinstance(value, relax.Call) and (self._writes(value) or not _may_hold(value.ty)):
            return _NOTHING, touched
        return touched, touched

    def _writes(self, call: relax.Call) -> bool:
        """Whether a PrimFunc is called: its results are among its arguments."""
        if isinstance(call.op, tvm.ir.GlobalVar):
            return call.op in self.mod.functions and isinstance(self.mod[call.op], tirx.PrimFunc)
        return bool(call.op.same_as(_CALL_DYNAMIC))

    def _holding(self, value: Any) -> Holding:
        if isinstance(value, relax.Tuple):
            return tuple(self._holding(field) for field in value.fields)
        if isinstance(value, relax.TupleGetItem):
            whole = self._holding(value.tuple_value)
            return whole[int(value.index)] if isinstance(whole, tuple) else whole
        if isinstance(value, relax.Var):
            return self.holdings.get(value, _NOTHING)
        return frozenset(self._mentioned(value))

    def _mentioned(self, value: Any) -> Iterator[int]:
        """Allocations under any name in an expression; of a field, those of the field alone."""
        if isinstance(value, (relax.Var, relax.Tuple, relax.TupleGetItem)):
            yield from _leaves(self._holding(value))
            return
        names: list[relax.Var] = []

        def visit(node: Any) -> None:
            if isinstance(node, relax.Var):
                names.append(node)

        relax.analysis.post_order_visit(value, visit)
        for name in names:
            yield from _leaves(self.holdings.get(name, _NOTHING))


def _unknown_extents(allocation: Allocation) -> str:
    if is_image_scope(allocation.scope) and allocation.image is None:
        return "an image whose extents are known only at run time"
    return ""


def _may_hold(ty: Any) -> bool:
    """Whether a value of that type can be a tensor, or have one in it."""
    if isinstance(ty, relax.TupleType):
        return any(_may_hold(field) for field in ty.fields)
    return not isinstance(ty, (relax.ShapeType, tvm.ir.PrimType))


def _leaves(holding: Holding) -> Iterator[int]:
    if isinstance(holding, frozenset):
        yield from holding
        return
    for field in holding:
        yield from _leaves(field)
