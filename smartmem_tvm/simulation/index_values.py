"""Values of indices and conditions inside a work-item, in terms of its number and its loops.

::

    first[0] = block * 64 + thread             an integer kept in private memory
    x = A[first[0] * 16 + r]              →    A[(block * 64 + thread) * 16 + r]
    y = A[rows[i] * 16]                   →    A[0 * 16]    unless the elements of `rows` are given
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map, structural_walk

from ..analysis.expressions import dtype_of, static, substitute, uses
from ..analysis.traffic_accesses import is_device_memory
from ..errors import SmartMemError

ReadElement = Callable[[TensorLoad], Any]


class Values:
    """What variables and private integers stand for at a point of the program.

    Parameters
    ----------
    body
        The kernel.
    read_element
        Element of device memory as an expression, None where it is not given.

    Attributes
    ----------
    unknown : list of str
        Memory whose elements would have been needed.
    """

    def __init__(self, body: Any, read_element: ReadElement) -> None:
        self.unknown: list[str] = []
        self._read_element = read_element
        self._variables: dict[Any, Any] = {}
        self._stores: dict[Any, list[tirx.BufferStore]] = {}
        self._private: dict[Any, tuple[Any, Any]] = {}
        structural_walk(
            body, (tirx.BufferStore, lambda s: self._stores.setdefault(s.buffer, []).append(s))
        )

    def bind(self, var: Any, value: Any) -> None:
        """Let a variable stand for a value from here on."""
        self._variables[var] = value

    def store(self, store: tirx.BufferStore) -> None:
        """Remember an integer that is put into private memory, where it is put there once."""
        if len(self._stores[store.buffer]) == 1 and len(store.indices) == 1:
            index = store.indices[0]
            plain = isinstance(index, tvm.ir.Var | tirx.IntImm)
            if plain and "int" in dtype_of(store.buffer) and lanes_of(store.value) == 1:
                # Of which element stays open: others will be asked for.
                others = {v: x for v, x in self._variables.items() if not v.same_as(index)}
                self._private[store.buffer] = (index, self.substituted(store.value, others))

    def substituted(self, expr: Any, variables: dict[Any, Any] | None = None) -> Any:
        """Expression whose variables and private integers are replaced."""
        expr = substitute(expr, self._variables if variables is None else variables)
        return structural_map(expr, (TensorLoad, self._private_value))

    def of(self, expr: Any) -> Any:
        """Expression that can be computed; elements that are not given become 0."""
        return structural_map(self.substituted(expr), (TensorLoad, self._element))

    def depends_on_data(self, expr: Any) -> str | None:
        """Memory that an expression depends on and whose elements are not known."""
        before = len(self.unknown)
        self.of(expr)
        found = self.unknown[before:]
        del self.unknown[before:]
        return found[0] if found else None

    def _private_value(self, load: TensorLoad) -> Any:
        index, value = self._private.get(load.source, (None, None))
        if index is None or len(load.indices) != 1:
            return load
        (wanted,) = load.indices
        if isinstance(index, tirx.IntImm):
            return value if static(wanted) == int(index) else load
        if lanes_of(wanted) != 1:
            return load
        return substitute(value, {index: wanted}) if uses(value, index) else value

    def _element(self, load: TensorLoad) -> Any:
        value = self._read_element(load) if is_device_memory(load.source) else None
        if value is None:
            self.unknown.append(load.source.name)
            return tirx.const(0, load.ty.dtype)
        return value


def lane(expr: Any, number: Any) -> Any:
    """One lane of a vector expression; what is no vector stays as it is."""
    if lanes_of(expr) == 1:
        return expr
    if isinstance(expr, tirx.Broadcast):
        return expr.value
    if isinstance(expr, tirx.Ramp):
        return expr.base + expr.stride * number.astype(expr.base.ty.dtype)
    if isinstance(expr, TensorLoad):
        return tirx.BufferLoad(expr.source, [lane(index, number) for index in expr.indices])
    if isinstance(expr, tirx.Cast):
        inner = lane(expr.value, number)
        return tirx.Cast(str(expr.ty.dtype).partition("x")[0], inner)
    if isinstance(expr, tirx.Not):
        return tirx.Not(lane(expr.a, number))
    if isinstance(expr, tirx.Select):
        parts = (expr.condition, expr.true_value, expr.false_value)
        return tirx.Select(*(lane(part, number) for part in parts))
    if hasattr(expr, "a") and hasattr(expr, "b"):
        return type(expr)(lane(expr.a, number), lane(expr.b, number))
    raise SmartMemError(
        f"the vector index {expr} has a part of kind {type(expr).__name__}, which is not taken "
        "apart into lanes"
    )


def lanes_of(expr: Any) -> int:
    """Lanes of a vector expression; 1 for a scalar."""
    return int(expr.ty.dtype.lanes)
