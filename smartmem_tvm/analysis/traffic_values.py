"""Values of index expressions on whole grids of iterations, with NumPy.

A grid is open: every variable is an array along an axis of its own, so that a part of an expression
is computed once per value of the variables it uses, not once per iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm_ffi import structural_walk

from .traffic_accesses import Domain


class Unknown(Exception):
    """An expression whose value is not an integer function of the iteration."""


def _truncated_quotient(a: Any, b: Any) -> Any:
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


def _truncated_remainder(a: Any, b: Any) -> Any:
    return a - _truncated_quotient(a, b) * b


_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    tirx.Add: lambda a, b: a + b,
    tirx.Sub: lambda a, b: a - b,
    tirx.Mul: lambda a, b: a * b,
    tirx.FloorDiv: lambda a, b: a // b,
    tirx.FloorMod: lambda a, b: a % b,
    tirx.Div: _truncated_quotient,
    tirx.Mod: _truncated_remainder,
    tirx.Min: np.minimum,
    tirx.Max: np.maximum,
    tirx.EQ: lambda a, b: a == b,
    tirx.NE: lambda a, b: a != b,
    tirx.LT: lambda a, b: a < b,
    tirx.LE: lambda a, b: a <= b,
    tirx.GT: lambda a, b: a > b,
    tirx.GE: lambda a, b: a >= b,
    tirx.And: np.logical_and,
    tirx.Or: np.logical_or,
    tirx.BitwiseAnd: lambda a, b: a & b,
    tirx.BitwiseOr: lambda a, b: a | b,
    tirx.BitwiseXor: lambda a, b: a ^ b,
    tirx.LShift: lambda a, b: a << b,
    tirx.RShift: lambda a, b: a >> b,
}


def evaluate(expr: Any, env: dict[Any, Any]) -> Any:
    """Value of an integer or boolean expression; raises :class:`Unknown` where there is none."""
    if isinstance(expr, (int, bool)):
        return expr
    if isinstance(expr, tirx.IntImm):
        return int(expr)
    if isinstance(expr, tvm.ir.Var):
        if expr not in env:
            raise Unknown(str(expr))
        return env[expr]
    if isinstance(expr, tirx.Cast):
        return evaluate(expr.value, env)
    if isinstance(expr, tirx.Not):
        return np.logical_not(evaluate(expr.a, env))
    if isinstance(expr, tirx.Select):
        parts = (expr.condition, expr.true_value, expr.false_value)
        return np.where(*(evaluate(part, env) for part in parts))
    if isinstance(expr, tvm.ir.Call) and isinstance(expr.op, tvm.ir.Op):
        values = [evaluate(argument, env) for argument in expr.args]
        if expr.op.name == "prim.if_then_else":
            return np.where(*values)
        if expr.op.name == "prim.likely":
            return values[0]
    operator = _BINARY.get(type(expr))
    if operator is None:
        raise Unknown(str(expr))
    return operator(evaluate(expr.a, env), evaluate(expr.b, env))


def variables(expr: Any, domain: Domain) -> list[Any]:
    """Variables of the expression that the domain bounds, each once."""
    found: dict[Any, None] = {}
    structural_walk(
        expr, (tvm.ir.Var, lambda var: found.update({var: None}) if var in domain else None)
    )
    return list(found)


def grid(names: list[Any], domain: Domain) -> dict[Any, np.ndarray]:
    """Open grid: the values of each variable along its own axis."""
    env = {}
    for axis, var in enumerate(names):
        low, extent = domain[var]
        shape = [1] * len(names)
        shape[axis] = extent
        env[var] = np.arange(low, low + extent, dtype=np.int64).reshape(shape)
    return env
