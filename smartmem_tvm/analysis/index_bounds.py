"""Bounds of products, quotients, remainders, minima and maxima."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from .index_terms import Polynomial, atom_term, divide_terms, integer

if TYPE_CHECKING:
    from .index_space import IndexSpace

Bounds = tuple[float, float]


def interval_product(a: float, b: float, low: float, high: float) -> Bounds:
    """Bounds of a product of two intervals."""
    products = [0 if 0 in (x, y) else x * y for x in (a, b) for y in (low, high)]
    return min(products), max(products)


def compound_bounds(
    space: IndexSpace, kind: str, number: Polynomial, divisor: Polynomial
) -> tuple[float, float, Polynomial | None]:
    """Bounds of a quotient, a remainder, a minimum or a maximum."""
    low, high = space.bounds(number)
    other_low, other_high = space.bounds(divisor)
    if kind == "min":
        return min(low, other_low), min(high, other_high), None
    if kind == "max":
        return max(low, other_low), max(high, other_high), None
    if kind == "floormod":
        last = divisor.plus(-1)
        symbolic = None if last.value is not None else last
        return 0, min(other_high - 1, high if low >= 0 else inf), symbolic
    quotients = [
        value if abs(value) == inf else value // size
        for value in (low, high)
        for size in (other_low, other_high)
        if size != inf
    ]
    if other_high == inf:
        quotients.append(0 if low >= 0 else -1)
    return min(quotients), max(quotients), _last_quotient(space, number, divisor)


def _last_quotient(space: IndexSpace, number: Polynomial, divisor: Polynomial) -> Polynomial | None:
    """Symbolic bound of a quotient, where the number's is a multiple of the divisor less one."""
    last = number
    for atom, value in number.linear():
        if value > 0:
            bound = space.atoms[atom].last
            if bound is None:
                if space.atoms[atom].high == inf:
                    return None
                bound = integer(int(space.atoms[atom].high))
            last = last - atom_term(atom, value) + bound.times(value)
    quotient, rest = divide_terms(last.plus(1), divisor)
    return None if rest.terms or last.value is not None else quotient.plus(-1)
