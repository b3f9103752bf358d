"""64-bit integers that only say where an element is, held in 32 bits while indices are narrowed.

::

    tokens: Tensor((16,), "int64")                       tokens: Tensor((16,), "int64")
    kept: local Tensor((1,), "int64")                    kept: local Tensor((1,), "int32")
    kept[0] = select(tokens[i] < 0,                →     kept[0] = select(int32(tokens[i]) < 0,
                     tokens[i] + 256, tokens[i])                          int32(tokens[i]) + 256, …)
    y[i, j] = table[kept[0], j]                          y[i, j] = table[kept[0], j]

Legal where a datum of more than 32 bits would be outside of the tensor that it is an index of, so
that none comes: it is the index, or that with a number added or subtracted, or both branches of a
choice that asks nothing else are such. Not where it is divided, clamped, computed with otherwise or
stored: ``x[datum % 8]`` is an element for every datum. Data whose bounds are known, because the
module makes it (:mod:`smartmem_tvm.analysis.data_bounds`), is legal everywhere. A 64-bit result is
cast where it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlock
from tvm_ffi import structural_equal, structural_map, structural_visit, structural_walk

from smartmem_tvm.analysis.data_bounds import WIDE_TYPES, Bounds
from smartmem_tvm.analysis.expressions import dtype_of, loads_of

# Exact in 32 bits where operands and results fit, as all must (`narrow_indices.py`).
CUT = (
    *(tirx.Add, tirx.Sub, tirx.Mul, tirx.Min, tirx.Max),
    *(tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod),
)


@dataclass(frozen=True)
class HeldData:
    """A function on 32-bit twins of its 64-bit tensors.

    Attributes
    ----------
    func
        The function on the twins.
    kept
        Twins of private tensors: what is stored there is part of an index.
    known
        Bounds of the data in twins, where there are some.
    """

    func: tirx.PrimFunc
    kept: frozenset[Any]
    known: Mapping[Any, Bounds]
    _places: Mapping[int, str]

    def released(self, narrowed: tirx.PrimFunc) -> tirx.PrimFunc:
        """The function with its own parameters again; they are cast where they are accessed."""
        wide = {}
        for place, dtype in self._places.items():
            twin = narrowed.params[place]
            wide[twin] = tirx.decl_buffer(twin.shape, dtype, twin.name, layout=None)

        def value(node: tirx.BufferStore) -> Any:
            return tirx.Cast(wide[node.buffer].dtype, node.value)

        body = structural_map(narrowed.body, _exchanged(wide, "int32", value))
        params = [wide.get(param, param) for param in narrowed.params]
        return tirx.PrimFunc(params, body, narrowed.ret_type, narrowed.attrs)


def hold_narrow(func: tirx.PrimFunc, bounds: Mapping[int, Bounds]) -> HeldData | str:
    """The function on 32-bit twins of its 64-bit tensors, or why that could change a result.

    The data of the parameters in `bounds`, by place, is within these.
    """
    wide = _wide_tensors(func)
    known = {func.params[place]: bound for place, bound in bounds.items()}
    reason = _Uses(_carriers(func, wide, known), set(func.params)).stray(func.body)
    if reason is not None:
        return reason
    twins = {
        buffer: tirx.decl_buffer(
            buffer.shape, "int32", buffer.name, scope=str(buffer.ty.storage_scope), layout=None
        )
        for buffer in wide
    }
    params = [twins.get(param, param) for param in func.params]
    places = {n: str(param.dtype) for n, param in enumerate(func.params) if param in twins}
    body = _with_twins(func.body, twins, set(func.params))
    held = tirx.PrimFunc(params, body, func.ret_type, func.attrs)
    of_twins = {twins[param]: bound for param, bound in known.items() if param in twins}
    return HeldData(held, frozenset(twins.values()) - set(params), of_twins, places)


def _wide_tensors(func: tirx.PrimFunc) -> dict[Any, None]:
    found = {
        param: None
        for param in func.params
        if not isinstance(param.ty, tvm.ir.PrimType) and str(param.dtype) in WIDE_TYPES
    }

    def allocated(block: SBlock) -> None:
        for buffer in block.alloc_buffers:
            if str(buffer.dtype) in WIDE_TYPES:
                found[buffer] = None

    structural_walk(func.body, (SBlock, allocated))
    return found


def _carriers(
    func: tirx.PrimFunc, wide: Mapping[Any, None], known: Mapping[Any, Bounds]
) -> set[Any]:
    """The tensors that hold data of any size: parameters, and private ones where it is stored."""
    stores: list[tirx.BufferStore] = []
    structural_walk(func.body, (tirx.BufferStore, stores.append))
    found = set(func.params) & set(wide) - set(known)
    grown = True
    while grown:
        more = {
            store.buffer
            for store in stores
            if store.buffer in wide and any(load.source in found for load in loads_of(store.value))
        }
        grown = not more <= found
        found |= more
    return found


def _with_twins(body: Any, twins: Mapping[Any, Any], params: set[Any]) -> Any:
    def value(node: tirx.BufferStore) -> Any:
        return tirx.Cast("int32", node.value) if node.buffer in params else _cut(node.value)

    def block(node: SBlock) -> Any:
        if not any(buffer in twins for buffer in node.alloc_buffers):
            return node
        return SBlock(
            node.iter_vars,
            node.reads,
            node.writes,
            node.name_hint,
            node.body,
            node.init,
            [twins.get(buffer, buffer) for buffer in node.alloc_buffers],
            node.match_buffers,
            node.annotations,
        )

    return structural_map(body, [*_exchanged(twins, "int64", value), (SBlock, block)])


def _exchanged(
    buffers: Mapping[Any, Any], read_as: str, value: Callable[[tirx.BufferStore], Any]
) -> list[tuple[Any, Callable[[Any], Any]]]:
    """Changes that load from and store in other buffers, in types of theirs."""

    def load(node: TensorLoad) -> Any:
        if node.source not in buffers:
            return node
        return tirx.Cast(read_as, tirx.BufferLoad(buffers[node.source], node.indices))

    def store(node: tirx.BufferStore) -> Any:
        if node.buffer not in buffers:
            return node
        return tirx.BufferStore(buffers[node.buffer], value(node), list(node.indices))

    return [(TensorLoad, load), (tirx.BufferStore, store)]


def _cut(expr: Any) -> Any:
    """What is stored in a private tensor, computed in 32 bits."""
    if isinstance(expr, tirx.Cast) and dtype_of(expr.value) == "int32":
        return expr.value
    if isinstance(expr, CUT):
        return type(expr)(_cut(expr.a), _cut(expr.b))
    if isinstance(expr, tirx.Select):
        return tirx.Select(expr.condition, _cut(expr.true_value), _cut(expr.false_value))
    if isinstance(expr, tirx.IntImm) and abs(int(expr)) < 2**31:
        return tirx.IntImm("int32", int(expr))
    return tirx.Cast("int32", expr)


class _Uses:
    """What is done with the elements of 64-bit tensors."""

    def __init__(self, wide: set[Any], params: set[Any]) -> None:
        self.wide, self.params = wide, params

    def stray(self, body: Any) -> str | None:
        """A use that is no part of where an element is, in words."""
        found: list[str] = []

        def place(indices: Any) -> None:
            for index in indices:
                for inner in loads_of(index):
                    if inner.source not in self.wide:
                        place(inner.indices)
                if self._data(index) and self._datum(index) is None:
                    found.append(f"'{index}' may be an element for data of more than 32 bits")

        def load(node: TensorLoad, _visitor: Any) -> None:
            if node.source in self.wide:
                found.append(f"'{node.source.name}' holds {node.source.dtype}")
            place(node.indices)

        def store(node: tirx.BufferStore, _visitor: Any) -> None:
            place(node.indices)
            if node.buffer not in self.wide or node.buffer in self.params:
                structural_visit(node.value, [(TensorLoad, load)])
            elif self._data(node.value) and self._datum(node.value) is None:
                found.append(f"'{node.value}' may be an element for data of more than 32 bits")

        structural_visit(body, [(TensorLoad, load), (tirx.BufferStore, store)])
        return found[0] if found else None

    def _data(self, expr: Any) -> list[TensorLoad]:
        return [load for load in loads_of(expr) if load.source in self.wide]

    def _datum(self, expr: Any) -> TensorLoad | None:
        """The datum that makes it larger than any index where itself needs more than 32 bits."""
        if isinstance(expr, TensorLoad):
            return expr if expr.source in self.wide and len(self._data(expr)) == 1 else None
        if isinstance(expr, (tirx.Add, tirx.Sub)):
            sides = [side for side in (expr.a, expr.b) if self._data(side)]
            return self._datum(sides[0]) if len(sides) == 1 else None
        if isinstance(expr, tirx.Select):
            datum = self._datum(expr.true_value)
            others = [self._datum(expr.false_value), *self._data(expr.condition)]
            return datum if all(structural_equal(datum, other) for other in others) else None
        return None
