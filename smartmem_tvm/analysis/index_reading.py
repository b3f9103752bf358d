"""Reading TVM expressions into polynomials."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

import tvm
from tvm import tirx

from .index_terms import Polynomial, integer

if TYPE_CHECKING:
    from .index_bounds import Bounds
    from .index_space import IndexSpace

IF_THEN_ELSE = tvm.ir.Op.get("prim.if_then_else")
INTEGER_LIMITS = {
    "int8": 2**7, "int16": 2**15, "int32": 2**31, "int64": 2**63,
}  # fmt: skip


def dtype_of(expr: Any) -> str:
    """Name of the type of an expression."""
    return str(expr.ty.dtype)


def read_opaque(space: IndexSpace, expr: Any) -> Polynomial:
    """One atom for what arithmetic cannot look into; its own indices and conditions simplified."""
    from .index_conditions import simplify_parts  # it needs a space in turn

    simplified = simplify_parts(space, expr)
    if type(simplified) is not type(expr):  # one branch of a conditional is left
        return space.read(simplified)
    return space.opaque_term(simplified, *_branch_bounds(space, simplified))


def _branch_bounds(space: IndexSpace, expr: Any) -> Bounds:
    branches: tuple[Any, ...] = ()
    if isinstance(expr, tirx.Select):
        branches = (expr.true_value, expr.false_value)
    elif isinstance(expr, tvm.ir.Call) and expr.op.same_as(IF_THEN_ELSE):
        branches = tuple(expr.args[1:])
    if not branches:
        return -inf, inf
    bounds = [space.bounds(space.read(branch)) for branch in branches]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _read_divided(space: IndexSpace, expr: Any, quotient: bool, floored: bool) -> Polynomial:
    number, divisor = space.normalised(space.read(expr.a)), space.read(expr.b)
    if space.bounds(divisor)[0] < 1 or not (floored or space.is_nonnegative(number)):
        return read_opaque(space, expr)
    return (space.floordiv if quotient else space.floormod)(number, divisor)


def _read_sum(space: IndexSpace, expr: Any) -> Polynomial:
    return space.read(expr.a) + space.read(expr.b)


def _read_difference(space: IndexSpace, expr: Any) -> Polynomial:
    return space.read(expr.a) - space.read(expr.b)


def _read_product(space: IndexSpace, expr: Any) -> Polynomial:
    return space.read(expr.a) * space.read(expr.b)


def _read_cast(space: IndexSpace, expr: Any) -> Polynomial:
    inner, outer = dtype_of(expr.value), dtype_of(expr)
    if inner in INTEGER_LIMITS and outer in INTEGER_LIMITS:
        number = space.read(expr.value)
        if INTEGER_LIMITS[inner] <= INTEGER_LIMITS[outer] or space.fits(number, outer):
            return number
    return read_opaque(space, expr)


READERS: dict[type, Callable[[IndexSpace, Any], Polynomial]] = {
    tirx.IntImm: lambda space, e: integer(e.value),
    tirx.Add: _read_sum,
    tirx.Sub: _read_difference,
    tirx.Mul: _read_product,
    tirx.FloorDiv: lambda space, e: _read_divided(space, e, True, True),
    tirx.FloorMod: lambda space, e: _read_divided(space, e, False, True),
    tirx.Div: lambda space, e: _read_divided(space, e, True, False),
    tirx.Mod: lambda space, e: _read_divided(space, e, False, False),
    tirx.Min: lambda space, e: space.minimum(space.read(e.a), space.read(e.b)),
    tirx.Max: lambda space, e: space.maximum(space.read(e.a), space.read(e.b)),
    tirx.Cast: _read_cast,
}
