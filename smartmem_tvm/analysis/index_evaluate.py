"""Evaluating index expressions at many points at once, with NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import tirx
from tvm.ir.expr import TensorLoad

from smartmem_tvm.errors import SmartMemError

from .index_reading import IF_THEN_ELSE, INTEGER_LIMITS, dtype_of

Points = Mapping[Any, NDArray[Any]]
ReadElement = Callable[[Any, list[NDArray[Any]]], NDArray[Any]]
LIKELY = tvm.ir.Op.get("prim.likely")


def _truncated_quotient(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(np.result_type(a, b), np.integer):
        return np.asarray(a / b)
    return np.asarray(np.sign(a) * np.sign(b) * (abs(a) // abs(b)))


_BINARY: dict[type, Callable[[NDArray[Any], NDArray[Any]], Any]] = {
    tirx.Add: np.add,
    tirx.Sub: np.subtract,
    tirx.Mul: np.multiply,
    tirx.FloorDiv: np.floor_divide,
    tirx.FloorMod: np.mod,
    tirx.Div: _truncated_quotient,
    tirx.Mod: np.fmod,
    tirx.Min: np.minimum,
    tirx.Max: np.maximum,
    tirx.LT: np.less,
    tirx.LE: np.less_equal,
    tirx.GT: np.greater,
    tirx.GE: np.greater_equal,
    tirx.EQ: np.equal,
    tirx.NE: np.not_equal,
    tirx.LShift: np.left_shift,
    tirx.RShift: np.right_shift,
    tirx.BitwiseAnd: np.bitwise_and,
    tirx.BitwiseOr: np.bitwise_or,
    tirx.BitwiseXor: np.bitwise_xor,
}


_BITWISE = {
    kind: number
    for number, kind in enumerate(
        (tirx.LShift, tirx.RShift, tirx.BitwiseAnd, tirx.BitwiseOr, tirx.BitwiseXor)
    )
}


class Evaluator:
    """Values of expressions at the same points.

    A branch is evaluated only at the points that take it, so that its loads stay inside.

    Parameters
    ----------
    points
        Value of each variable at each point: one-dimensional arrays of one length.
    read
        Value of an element: called with the tensor and one array for each index.
    """

    def __init__(self, points: Points, read: ReadElement | None = None) -> None:
        self.points = points
        self.read = read
        self._found: dict[Any, NDArray[Any]] = {}
        self._free: dict[Any, NDArray[Any]] = {}
        self.length = max((len(column) for column in points.values()), default=1)

    def of(self, expr: Any) -> NDArray[Any]:
        """Values of the expression, one for each point."""
        return np.broadcast_to(self._of(expr), (self.length,))

    def _of(self, expr: Any) -> NDArray[Any]:
        operation = _BINARY.get(type(expr))
        if operation is not None:
            found = self._found.get(expr)
            if found is None:
                found = self._found[expr] = self._binary(expr, operation)
            return found
        if isinstance(expr, tirx.IntImm | tirx.FloatImm):
            return np.asarray(expr.value, dtype=dtype_of(expr))
        if isinstance(expr, tvm.ir.Var):
            return self._variable(expr)
        if isinstance(expr, tirx.Cast):
            return self._cast(self._of(expr.value), dtype_of(expr))
        if isinstance(expr, tirx.Not):
            return np.logical_not(self._of(expr.a))
        if isinstance(expr, tirx.And | tirx.Or):
            return self._junction(expr)
        if isinstance(expr, tirx.Select):
            return self._conditional(expr.condition, expr.true_value, expr.false_value)
        if isinstance(expr, tirx.Let):
            inner = Evaluator({**self.points, expr.var: self.of(expr.value)}, self.read)
            inner._free = self._free
            return inner.of(expr.body)
        if isinstance(expr, TensorLoad) and self.read is not None:
            return self.read(expr.source, [self.of(index) for index in expr.indices])
        if isinstance(expr, tvm.ir.Call):
            if expr.op.same_as(IF_THEN_ELSE):
                return self._conditional(*expr.args)
            if expr.op.same_as(LIKELY):
                return self._of(expr.args[0])
            if self.read is not None:
                return self._uninterpreted(expr)
        raise SmartMemError(
            f"cannot evaluate {expr} of kind {type(expr).__name__}: it is not an index "
            "expression; give a function that reads elements, or take it out first"
        )

    def _binary(self, expr: Any, operation: Callable[..., Any]) -> NDArray[Any]:
        left, right = self._of(expr.a), self._of(expr.b)
        if type(expr) in _BITWISE and "f" in (left.dtype.kind, right.dtype.kind):
            # What stands for elements has no bits: some function of both.
            return np.asarray(np.sqrt(2) * left + np.sqrt(3) * right + _BITWISE[type(expr)])
        return np.asarray(operation(left, right))

    def _variable(self, var: Any) -> NDArray[Any]:
        column = self.points.get(var)
        if column is None and self.read is not None and dtype_of(var) not in INTEGER_LIMITS:
            return self._free.setdefault(var, np.asarray(0.5 + len(self._free)))  # a scalar input
        if column is None:
            raise SmartMemError(
                f"no value for variable '{var.name}': add it to the domain or to the values"
            )
        return column

    def _where(self, mask: NDArray[Any]) -> Evaluator:
        chosen = {
            var: np.broadcast_to(column, (self.length,))[mask]
            for var, column in self.points.items()
        }
        other = Evaluator(chosen, self.read)
        other._free = self._free
        other.length = int(np.count_nonzero(mask))
        return other

    def _junction(self, expr: Any) -> NDArray[Any]:
        conjunction = isinstance(expr, tirx.And)
        result = np.array(self.of(expr.a), dtype=bool)
        open_points = result if conjunction else ~result
        result[open_points] = self._where(open_points).of(expr.b)
        return result

    def _conditional(self, condition: Any, true: Any, false: Any) -> NDArray[Any]:
        mask = self.of(condition).astype(bool)
        chosen, other = self._where(mask).of(true), self._where(~mask).of(false)
        result = np.empty(self.length, dtype=np.result_type(chosen, other))
        result[mask], result[~mask] = chosen, other
        return result

    def _cast(self, value: NDArray[Any], dtype: str) -> NDArray[Any]:
        # What stands for an element must stay distinct from the others: it is not rounded.
        if self.read is not None and np.issubdtype(value.dtype, np.floating):
            return value
        return value.astype(dtype)

    def _uninterpreted(self, call: Any) -> NDArray[Any]:
        """Some function of the arguments, another one for each operator."""
        result = np.asarray(float(tvm_ffi.structural_hash(call.op) % 9973))
        scalars = [arg for arg in call.args if isinstance(arg.ty, tvm.ir.PrimType)]
        for number, arg in enumerate(scalars, start=2):
            result = result + np.sqrt(number) * self._of(arg)
        return result


def evaluate(expr: Any, values: Points, read: ReadElement | None = None) -> NDArray[Any]:
    """Values of an expression at points.

    Parameters
    ----------
    expr
        Integer or boolean expression; with `read`, also of elements.
    values
        Value of each variable at each point: arrays of one length.
    read
        Value of an element, called with the tensor and an array for each index.
    """
    return Evaluator(values, read).of(expr)


def evaluate_all(exprs: Sequence[Any], values: Points) -> list[NDArray[Any]]:
    """Values of several expressions at the same points."""
    evaluator = Evaluator(values)
    return [evaluator.of(expr) for expr in exprs]
