"""The rules by which quotients, remainders and sums of indices become simpler.

Each rule is a function of a space (which knows the bounds of every atom) and of polynomials, and
gives the simpler form or None. ``//`` and ``%`` are floor division and its remainder; divisors are
positive. The tables at the end are in the order in which rules are tried; each is checked on its
own, exhaustively, by ``tests/analysis/test_index_rules.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .index_terms import (
    ONE,
    ZERO,
    Polynomial,
    common_factor,
    divide_terms,
    integer,
)

if TYPE_CHECKING:
    from .index_space import IndexSpace

DivisionRule = Callable[["IndexSpace", Polynomial, Polynomial], Polynomial | None]
SumRule = Callable[["IndexSpace", Polynomial], Polynomial | None]


def constant_quotient(space: IndexSpace, number: Polynomial, divisor: Polynomial) -> int | None:
    """The quotient, if the bounds leave only one value for it."""
    size = divisor.value
    if size is not None:
        low, high = space.bounds(number)
        if low == high or (low > -space.unbounded and high < space.unbounded):
            first, last = int(low) // size, int(high) // size
            if first == last:
                return first
    if size is None or space.is_symbolic(number):
        for quotient in (0, -1):
            shifted = number - divisor.times(quotient)
            if space.is_nonnegative(shifted) and space.is_nonnegative((divisor - shifted).plus(-1)):
                return quotient
    return None


def split_common_factor(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Iterator[tuple[Polynomial, Polynomial, Polynomial, Polynomial]]:
    """Ways to write a number as ``factor * high + low`` with low in ``[0, factor)``.

    The factor divides the divisor. Yields (factor, high, low, divisor // factor), largest factor
    first.
    """
    term = divisor.single
    if term is None:
        return
    factors = {common_factor(other, term) for other in number.terms.items() if other[0]}
    for monomial, value in sorted(factors, key=lambda f: (len(f[0]), f[1]), reverse=True):
        factor = Polynomial({monomial: value})
        if factor == ONE or factor == divisor:
            continue
        high, low = divide_terms(number, factor)
        if not high.terms:
            continue
        shift = constant_quotient(space, low, factor)
        if shift is None:
            continue
        rest, _ = divide_terms(divisor, factor)
        yield factor, high.plus(shift), low - factor.times(shift), rest


# ---- quotients: number // divisor ---------------------------------------------------------------


def divide_by_one(space: IndexSpace, number: Polynomial, divisor: Polynomial) -> Polynomial | None:
    """``x // 1 → x``."""
    return number if divisor == ONE else None


def divide_within_bounds(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``x // c → q`` where the bounds of x leave one quotient."""
    quotient = constant_quotient(space, number, divisor)
    return None if quotient is None else integer(quotient)


def divide_out_multiples(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``(x*c + y) // c → x + y // c``."""
    quotient, rest = divide_terms(number, divisor)
    if not quotient.terms:
        return None
    return quotient + space.floordiv(rest, divisor)


def divide_common_factor(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``(x*g + y) // (g*c) → x // c`` where y is in ``[0, g)``."""
    for _, high, _, rest in split_common_factor(space, number, divisor):
        return space.floordiv(high, rest)
    return None


def divide_quotient(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``(x // a + y) // c → (x + y*a) // (a*c)``."""
    found = [
        atom
        for atom, value in number.linear()
        if value == 1 and space.atoms[atom].kind == "floordiv"
    ]
    if len(found) != 1:
        return None
    inner = space.atoms[found[0]]
    others = number.without((found[0],))
    if space.keep_digits and others.value is None:
        return None
    return space.floordiv(inner.number + others * inner.divisor, inner.divisor * divisor)


def divide_remainder(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``(x % (a*c)) // c → (x // c) % a``."""
    term = number.single
    if term is None or len(term[0]) != 1 or term[1] != 1:
        return None
    inner = space.atoms[term[0][0]]
    if inner.kind != "floormod":
        return None
    parts, rest = divide_terms(inner.divisor, divisor)
    if rest.terms or not parts.terms:
        return None
    return space.floormod(space.floordiv(inner.number, divisor), parts)


def _is_negative(number: Polynomial) -> bool:
    """Whether every term but the constant is subtracted."""
    return number.value is None and all(v < 0 for m, v in number.terms.items() if m)


def divide_negative(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``(c - 1 - x) // c → -(x // c)``: what runs backwards is divided as it runs forwards.

    Dividing a number that may be negative costs a comparison more, and TVM's flattening of buffers
    takes ``(c - 1 - x) % c`` for ``-(x % c)``.
    """
    if not _is_negative(number):
        return None
    return space.floordiv((divisor - number).plus(-1), divisor).times(-1)


# ---- remainders: number % divisor ---------------------------------------------------------------


def remainder_of_one(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``x % 1 → 0``."""
    return ZERO if divisor == ONE else None


def remainder_within_bounds(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``x % c → x - q*c`` where the bounds of x leave one quotient q."""
    quotient = constant_quotient(space, number, divisor)
    return None if quotient is None else number - divisor.times(quotient)


def remainder_drop_multiples(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``(x*c + y) % c → y % c``, and coefficients past c are reduced."""
    _, rest = divide_terms(number, divisor)
    size = divisor.value
    if size is not None:
        rest = Polynomial({m: _reduced(value, size) for m, value in rest.terms.items()})
    if rest == number:
        return None
    return space.floormod(rest, divisor)


def _reduced(coefficient: int, size: int) -> int:
    if -size < coefficient < size:
        return coefficient
    return coefficient % size


def remainder_common_factor(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``(x*g + y) % (g*c) → (x % c)*g + y`` where y is in ``[0, g)``."""
    for factor, high, low, rest in split_common_factor(space, number, divisor):
        return space.floormod(high, rest) * factor + low
    return None


def remainder_of_remainder(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``((x % (a*c))*k + y) % c → (x*k + y) % c``, for any k with ``a*c*k`` a multiple of c."""
    for atom, value in number.linear():
        inner = space.atoms[atom]
        if inner.kind != "floormod":
            continue
        _, rest = divide_terms(inner.divisor.times(value), divisor)
        if not rest.terms:
            return space.floormod(number.without((atom,)) + inner.number.times(value), divisor)
    return None


def remainder_of_quotient(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``((x % (a*b*c) + y) // a) % b → ((x + y) // a) % b``: the quotient wraps with x."""
    for outer, scale in number.linear():
        quotient = space.atoms[outer]
        if quotient.kind != "floordiv":
            continue
        for atom, value in quotient.number.linear():
            inner = space.atoms[atom]
            if inner.kind != "floormod":
                continue
            # One wrap of x changes the quotient by so many, which must be a multiple of b.
            wrap, rest = divide_terms(inner.divisor.times(value), quotient.divisor)
            _, left = divide_terms(wrap.times(scale), divisor)
            if rest.terms or left.terms:
                continue
            opened = quotient.number.without((atom,)) + inner.number.times(value)
            changed = space.floordiv(opened, quotient.divisor).times(scale)
            return space.floormod(number.without((outer,)) + changed, divisor)
    return None


def remainder_negative(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
    """``(c - 1 - x) % c → c - 1 - x % c``."""
    if not _is_negative(number):
        return None
    last = divisor.plus(-1)
    return last - space.floormod(last - number, divisor)


# ---- sums ---------------------------------------------------------------------------------------


def merge_quotient(space: IndexSpace, number: Polynomial) -> Polynomial | None:
    """``(x // c)*c*k + (x % c)*k → x*k``."""
    for atom, value in number.linear():
        inner = space.atoms[atom]
        if inner.kind != "floormod":
            continue
        quotient = space.floordiv(inner.number, inner.divisor) * inner.divisor.times(value)
        found = [m for m in quotient.terms if number.terms.get(m) == quotient.terms[m]]
        if any(space.divisions_in(m) for m in found):
            merged = number.without((atom,)) - quotient + inner.number.times(value)
            if space.cost(merged) < space.cost(number):
                return merged
    return None


def merge_remainders(space: IndexSpace, number: Polynomial) -> Polynomial | None:
    """``((x // a) % b)*a*k + (x % a)*k → (x % (a*b))*k``."""
    remainders = [
        (atom, value) for atom, value in number.linear() if space.atoms[atom].kind == "floormod"
    ]
    for low_atom, low_value in remainders:
        low = space.atoms[low_atom]
        upper: Polynomial | None = None
        for high_atom, high_value in remainders:
            high = space.atoms[high_atom]
            if low.divisor.times(low_value) != integer(high_value):
                continue
            upper = space.floordiv(low.number, low.divisor) if upper is None else upper
            if upper == high.number:
                merged = space.floormod(low.number, low.divisor * high.divisor).times(low_value)
                return number.without((low_atom,)).without((high_atom,)) + merged
    return None


def quotient_to_remainder(space: IndexSpace, number: Polynomial) -> Polynomial | None:
    """``x*k - (x // c)*c*k → (x % c)*k``."""
    if space.keep_digits:
        return None
    for atom, value in number.linear():
        inner = space.atoms[atom]
        size = inner.divisor.value if inner.kind == "floordiv" else None
        if size is None or value % size:
            continue
        factor = -(value // size)
        rest = number.without((atom,)) - inner.number.times(factor)
        reduced = rest + space.floormod(inner.number, inner.divisor).times(factor)
        if space.cost(reduced) < space.cost(number):
            return reduced
    return None


DIVISION_RULES: tuple[DivisionRule, ...] = (
    divide_by_one,
    divide_within_bounds,
    divide_out_multiples,
    divide_common_factor,
    divide_quotient,
    divide_remainder,
    divide_negative,
)
REMAINDER_RULES: tuple[DivisionRule, ...] = (
    remainder_of_one,
    remainder_within_bounds,
    remainder_drop_multiples,
    remainder_of_remainder,
    remainder_of_quotient,
    remainder_common_factor,
    remainder_negative,
)
SUM_RULES: tuple[SumRule, ...] = (merge_quotient, merge_remainders, quotient_to_remainder)
