"""Conditions on indices, and what of an expression they leave alive.

::

    if i < 16 then A[i // 16, i] else 0.0      →  A[0, i]                 for i in [0, 16)
    if i < 8 then A[i // 8] else B[i // 8]     →  if i < 8 then A[0] else B[1]
    if i < 5 then A[i + 3] else A[i - 5]       →  A[(i + 3) % 8]          a rotation of A[0:8]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_equal, structural_walk

from .expressions import loads_of
from .index_reading import IF_THEN_ELSE, INTEGER_LIMITS, dtype_of
from .index_rotation import merge_halves
from .index_rules import constant_quotient
from .index_space import IndexSpace
from .index_terms import Polynomial, divide_terms, integer

LIKELY = tvm.ir.Op.get("prim.likely")
COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)
# Each comparison of a and b as what must not be negative.
_DISTANCE: dict[type, Callable[[Polynomial, Polynomial], Polynomial]] = {
    tirx.LT: lambda a, b: (b - a).plus(-1),
    tirx.LE: lambda a, b: b - a,
    tirx.GT: lambda a, b: (a - b).plus(-1),
    tirx.GE: lambda a, b: a - b,
}
_OPPOSITE = {
    tirx.LT: tirx.GE, tirx.GE: tirx.LT, tirx.GT: tirx.LE, tirx.LE: tirx.GT,
    tirx.EQ: tirx.NE, tirx.NE: tirx.EQ,
}  # fmt: skip
_BINARY = (
    tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod,
    tirx.Min, tirx.Max, *COMPARISONS, tirx.And, tirx.Or,
    tirx.LShift, tirx.RShift, tirx.BitwiseAnd, tirx.BitwiseOr, tirx.BitwiseXor,
)  # fmt: skip


def truth(value: bool) -> Any:
    """Boolean constant."""
    return tirx.IntImm("bool", int(value))


def decided(condition: Any) -> bool | None:
    """Value of a condition that is a constant."""
    return bool(condition.value) if isinstance(condition, tirx.IntImm) else None


def is_index_type(expr: Any) -> bool:
    """Whether the expression is a signed integer scalar."""
    return isinstance(expr.ty, tvm.ir.PrimType) and dtype_of(expr) in INTEGER_LIMITS


def has_load(expr: Any) -> bool:
    """Whether the expression reads memory."""
    return bool(loads_of(expr))


def _has_conditional(expr: Any) -> bool:
    found: list[Any] = []

    def visit(part: Any) -> None:
        if not isinstance(part, tvm.ir.Call) or part.op.same_as(IF_THEN_ELSE):
            found.append(part)

    structural_walk(expr, ((tirx.Select, tirx.And, tirx.Or, tvm.ir.Call), visit))
    return bool(found)


def negated(condition: Any) -> Any:
    """Opposite condition, comparisons turned round and and/or exchanged."""
    opposite = _OPPOSITE.get(type(condition))
    if opposite is not None:
        return opposite(condition.a, condition.b)
    if isinstance(condition, tirx.And):
        return tirx.Or(negated(condition.a), negated(condition.b))
    if isinstance(condition, tirx.Or):
        return tirx.And(negated(condition.a), negated(condition.b))
    if isinstance(condition, tirx.Not):
        return condition.a
    value = decided(condition)
    return tirx.Not(condition) if value is None else truth(not value)


def facts(space: IndexSpace, condition: Any) -> list[Polynomial]:
    """What is never negative where the condition holds."""
    if isinstance(condition, tirx.And):
        return facts(space, condition.a) + facts(space, condition.b)
    if isinstance(condition, tirx.Not):
        inner = negated(condition.a)
        return [] if isinstance(inner, tirx.Not) else facts(space, inner)
    if isinstance(condition, tvm.ir.Call) and condition.op.same_as(LIKELY):
        return facts(space, condition.args[0])
    if not isinstance(condition, COMPARISONS) or not is_index_type(condition.a):
        return []
    if _has_conditional(condition):
        # It says little of any one iterator, and to read it is to simplify both of its branches,
        # under conditions like itself: exponential in the depth of a padded concatenation, and
        # without an end where a condition is compared as a number.
        return []
    left, right = _operands(space, condition)
    if isinstance(condition, tirx.EQ):
        return [left - right, right - left]
    distance = _DISTANCE.get(type(condition))
    return [] if distance is None else [distance(left, right)]


def _operands(space: IndexSpace, comparison: Any) -> tuple[Polynomial, Polynomial]:
    return (
        space.normalised(space.read(comparison.a)),
        space.normalised(space.read(comparison.b)),
    )


# ---- conditions ---------------------------------------------------------------------------------


def simplify_condition(space: IndexSpace, condition: Any) -> Any:
    """Condition with as little arithmetic as the bounds allow; a constant if they decide it."""
    if isinstance(condition, tirx.And | tirx.Or):
        return _simplify_junction(space, condition)
    if isinstance(condition, tirx.Not):
        opposite = negated(condition.a)
        if isinstance(opposite, tirx.Not):
            return negated(simplify_condition(space, condition.a))
        return simplify_condition(space, opposite)
    if isinstance(condition, tvm.ir.Call) and condition.op.same_as(LIKELY):
        return simplify_condition(space, condition.args[0])
    if isinstance(condition, COMPARISONS) and is_index_type(condition.a):
        return _simplify_comparison(space, condition)
    return simplify_parts(space, condition)


def _simplify_junction(space: IndexSpace, condition: Any) -> Any:
    conjunction = isinstance(condition, tirx.And)
    left = simplify_condition(space, condition.a)
    value = decided(left)
    if value is not None:
        # true and x, false or x: x; false and x, true or x: the constant.
        return simplify_condition(space, condition.b) if value == conjunction else left
    right_space = space.assuming(left if conjunction else negated(left))
    right = simplify_condition(right_space, condition.b)
    value = decided(right)
    if value is not None:
        return left if value == conjunction else right
    # The right side may make the left one superfluous: i >= 2 and i >= 5.
    left = simplify_condition(space.assuming(right if conjunction else negated(right)), left)
    value = decided(left)
    if value is not None:
        return right if value == conjunction else left
    return type(condition)(left, right)


def _simplify_comparison(space: IndexSpace, condition: Any) -> Any:
    left, right = _operands(space, condition)
    dtype = dtype_of(condition.a)
    if isinstance(condition, tirx.EQ | tirx.NE):
        equal = isinstance(condition, tirx.EQ)
        difference = space.normalised(left - right)
        if not difference.terms:
            return truth(equal)
        if space.is_nonnegative(difference.plus(-1)) or space.is_nonnegative(
            difference.times(-1).plus(-1)
        ):
            return truth(not equal)
        if has_load(condition):
            return simplify_parts(space, condition)
        positive, negative, constant = _sides(difference)
        left, right = (positive, negative) if positive.terms else (negative, positive)
        right = right.plus(-constant if positive.terms else constant)
        return type(condition)(space.write(left, dtype), space.write(right, dtype))
    distance = _DISTANCE[type(condition)](left, right)
    if space.is_nonnegative(distance):
        return truth(True)
    if space.is_nonnegative(distance.times(-1).plus(-1)):
        return truth(False)
    if has_load(condition):  # data may overflow when its terms are moved
        return simplify_parts(space, condition)
    return _write_comparison(space, divide_distance(space, distance), dtype)


def divide_distance(space: IndexSpace, distance: Polynomial) -> Polynomial:
    """Shorter expression that is not negative exactly where the given one is not.

    ``x*g + y >= 0`` is ``x >= 0`` where y is in ``[0, g)``: it is ``(x*g + y) // g >= 0``.
    """
    factors = {abs(value) for monomial, value in distance.terms.items() if monomial} - {1}
    for factor in sorted(factors, reverse=True):
        high, low = divide_terms(distance, integer(factor))
        shift = constant_quotient(space, low, integer(factor))
        if shift is not None and high.terms:
            return divide_distance(space, high.plus(shift))
    return multiply_distance(space, distance)


def multiply_distance(space: IndexSpace, distance: Polynomial) -> Polynomial:
    """The same without a quotient.

    ``x // c + y >= 0`` is ``x + y*c >= 0``; ``y - x // c >= 0`` is ``y*c + c - 1 - x >= 0``.
    """
    for atom, value in distance.linear():
        inner = space.atoms[atom]
        if inner.kind != "floordiv" or abs(value) != 1:
            continue
        scaled = distance.without((atom,)) * inner.divisor
        if value > 0:
            return divide_distance(space, space.normalised(scaled + inner.number))
        slack = inner.divisor.plus(-1)
        return divide_distance(space, space.normalised(scaled + slack - inner.number))
    return distance


def _write_comparison(space: IndexSpace, distance: Polynomial, dtype: str) -> Any:
    """``distance >= 0`` with each term on the side on which it is positive."""
    positive, negative, constant = _sides(distance)
    if not negative.terms:
        return tirx.LE(tirx.IntImm(dtype, -constant), space.write(positive, dtype))
    limit = constant + 1  # negative <= positive + constant
    if positive.terms and limit < 0:
        negative, limit = negative.plus(-limit), 0
    return tirx.LT(space.write(negative, dtype), space.write(positive.plus(limit), dtype))


def _sides(number: Polynomial) -> tuple[Polynomial, Polynomial, int]:
    """Positive terms, negative terms turned round, and the constant."""
    positive = Polynomial({m: v for m, v in number.terms.items() if m and v > 0})
    negative = Polynomial({m: -v for m, v in number.terms.items() if m and v < 0})
    return positive, negative, number.constant


# ---- values -------------------------------------------------------------------------------------


def simplify_expression(space: IndexSpace, expr: Any) -> Any:
    """Value with its indices and conditions simplified; data arithmetic stays as it is."""
    if not isinstance(expr.ty, tvm.ir.PrimType) or isinstance(expr, tvm.ir.Var):
        return expr
    dtype = dtype_of(expr)
    if dtype == "bool":
        return simplify_condition(space, expr)
    if dtype in INTEGER_LIMITS and not has_load(expr):
        return simplify_index(space, expr)
    return simplify_parts(space, expr)


def simplify_index(space: IndexSpace, expr: Any) -> Any:
    """Index in normal form."""
    return space.write(space.normalised(space.read(expr)), dtype_of(expr))


def simplify_parts(space: IndexSpace, expr: Any) -> Any:
    """Expression whose operands are simplified; the operation itself stays, or a branch of it."""
    if isinstance(expr, TensorLoad):
        indices = [simplify_index(space, index) for index in expr.indices]
        return tirx.BufferLoad(expr.source, indices)
    if isinstance(expr, tirx.Select):
        return _simplify_conditional(
            space, expr.condition, expr.true_value, expr.false_value, tirx.Select
        )
    if isinstance(expr, tvm.ir.Call):
        if expr.op.same_as(IF_THEN_ELSE):
            condition, true, false = expr.args
            return _simplify_conditional(space, condition, true, false, tirx.if_then_else)
        args = [simplify_expression(space, arg) for arg in expr.args]
        if all(new.same_as(old) for new, old in zip(args, expr.args, strict=True)):
            return expr
        return tvm.ir.Call(expr.op, args, expr.attrs, expr.ty_args, ret_ty=expr.ty)
    if isinstance(expr, _BINARY):
        left, right = simplify_expression(space, expr.a), simplify_expression(space, expr.b)
        same = left.same_as(expr.a) and right.same_as(expr.b)
        return expr if same else type(expr)(left, right)
    if isinstance(expr, tirx.Not):
        return tirx.Not(simplify_expression(space, expr.a))
    if isinstance(expr, tirx.Cast):
        return tirx.Cast(expr.ty, simplify_expression(space, expr.value))
    return expr


def _simplify_conditional(
    space: IndexSpace, condition: Any, true: Any, false: Any, make: Callable[..., Any]
) -> Any:
    written, condition = condition, simplify_condition(space, condition)
    value = decided(condition)
    if value is not None:
        return simplify_expression(space, true if value else false)
    whole = merge_halves(space, written, true, false)
    if whole is not None:
        return simplify_expression(space, whole)
    holds, fails = space.assuming(condition), space.assuming(negated(condition))
    true, false = simplify_expression(holds, true), simplify_expression(fails, false)
    if structural_equal(true, false):
        return true
    rotation = merge_rotation(space, holds, fails, true, false)
    return make(condition, true, false) if rotation is None else rotation


def merge_rotation(
    space: IndexSpace, holds: IndexSpace, fails: IndexSpace, true: Any, false: Any
) -> Any | None:
    """``if c then A[x] else A[y] → A[x % n]`` where x and y differ by a multiple of n.

    Both must be inside of ``A``, of n elements, on their branch: then each is the remainder there.
    """
    if not isinstance(true, TensorLoad) or not isinstance(false, TensorLoad):
        return None
    if not true.source.same_as(false.source) or has_load(list(true.indices)):
        return None
    indices = list(true.indices)
    for number, (one, other) in enumerate(zip(true.indices, false.indices, strict=True)):
        if structural_equal(one, other):
            continue
        first, second = space.read(one), space.read(other)
        if first == second:
            continue
        size = space.read(true.source.shape[number])
        _, rest = divide_terms(first - second, size)
        if rest.terms or space.bounds(size)[0] < 1:
            return None
        if not _inside(holds, one, true.source.shape[number]):
            return None
        if not _inside(fails, other, true.source.shape[number]):
            return None
        indices[number] = space.write(space.normalised(space.floormod(first, size)), dtype_of(one))
    return tirx.BufferLoad(true.source, indices)


def _inside(space: IndexSpace, index: Any, extent: Any) -> bool:
    number = space.read(index)
    return space.is_nonnegative(number) and space.is_nonnegative(
        (space.read(extent) - number).plus(-1)
    )
