"""Sums of products of iterators with integer coefficients: what index expressions are made of.

A :class:`Polynomial` maps monomials to coefficients. A monomial is the sorted tuple of the numbers
of its atoms (:mod:`.index_space`): variables, quotients, remainders. ``i*128 + n*j + 3`` with atoms
``i = 0, n = 1, j = 2`` is ``{(0,): 128, (1, 2): 1, (): 3}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import gcd

Monomial = tuple[int, ...]


class Polynomial:
    """A sum of monomials with integer coefficients; immutable and hashable."""

    __slots__ = ("_key", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms = {monomial: value for monomial, value in terms.items() if value}
        self._key: frozenset[tuple[Monomial, int]] | None = None

    @property
    def key(self) -> frozenset[tuple[Monomial, int]]:
        """What two equal polynomials have in common."""
        if self._key is None:
            self._key = frozenset(self.terms.items())
        return self._key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Polynomial({self.terms})"

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for monomial, value in other.terms.items():
            terms[monomial] = terms.get(monomial, 0) + value
        return Polynomial(terms)

    def __sub__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for monomial, value in other.terms.items():
            terms[monomial] = terms.get(monomial, 0) - value
        return Polynomial(terms)

    def __mul__(self, other: Polynomial) -> Polynomial:
        terms: dict[Monomial, int] = {}
        for left, one in self.terms.items():
            for right, two in other.terms.items():
                product = tuple(sorted(left + right)) if left and right else left or right
                terms[product] = terms.get(product, 0) + one * two
        return Polynomial(terms)

    def times(self, factor: int) -> Polynomial:
        """Product with an integer."""
        return Polynomial({monomial: value * factor for monomial, value in self.terms.items()})

    def plus(self, value: int) -> Polynomial:
        """Sum with an integer."""
        terms = dict(self.terms)
        terms[()] = terms.get((), 0) + value
        return Polynomial(terms)

    @property
    def constant(self) -> int:
        """The term without atoms."""
        return self.terms.get((), 0)

    @property
    def value(self) -> int | None:
        """The integer that it is, or None if it has an atom."""
        if not self.terms:
            return 0
        return self.terms.get(()) if len(self.terms) == 1 else None

    @property
    def single(self) -> tuple[Monomial, int] | None:
        """Its monomial and coefficient, if it has one term."""
        return next(iter(self.terms.items())) if len(self.terms) == 1 else None

    def atoms(self) -> set[int]:
        """Numbers of the atoms in it."""
        return {atom for monomial in self.terms for atom in monomial}

    def linear(self) -> Iterator[tuple[int, int]]:
        """Atom and coefficient of the terms that are one atom each."""
        return ((m[0], value) for m, value in self.terms.items() if len(m) == 1)

    def without(self, monomial: Monomial) -> Polynomial:
        """Everything but one term."""
        return Polynomial({m: value for m, value in self.terms.items() if m != monomial})


ZERO = Polynomial({})
ONE = Polynomial({(): 1})


def integer(value: int) -> Polynomial:
    """Polynomial of a constant."""
    return Polynomial({(): value})


def atom_term(atom: int, coefficient: int = 1) -> Polynomial:
    """Polynomial of one atom."""
    return Polynomial({(atom,): coefficient})


def remove_factor(monomial: Monomial, factor: Monomial) -> Monomial | None:
    """Quotient of two monomials, or None if it is not one."""
    rest = list(monomial)
    for atom in factor:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def common_factor(one: tuple[Monomial, int], other: tuple[Monomial, int]) -> tuple[Monomial, int]:
    """Greatest monomial and coefficient that divide both terms."""
    rest = list(other[0])
    shared = []
    for atom in one[0]:
        if atom in rest:
            rest.remove(atom)
            shared.append(atom)
    return tuple(shared), gcd(one[1], other[1])


def divide_terms(number: Polynomial, divisor: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Quotient and rest such that ``number == quotient * divisor + rest``.

    Every multiple of the divisor goes to the quotient; what is left of the constant is in
    ``[0, divisor)`` if the divisor is a constant.
    """
    term = divisor.single
    if term is None:
        return _divide_by_sum(number, divisor)
    factor, coefficient = term
    quotient: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for monomial, value in number.terms.items():
        other = remove_factor(monomial, factor)
        if other is None or (other and value % coefficient):
            rest[monomial] = value
        elif other:
            quotient[other] = value // coefficient
        else:
            quotient[()], rest[monomial] = divmod(value, coefficient)
    return Polynomial(quotient), Polynomial(rest)


def _divide_by_sum(number: Polynomial, divisor: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Long division by the divisor's longest monomial, as long as terms vanish."""
    leading = max(divisor.terms, key=lambda monomial: (len(monomial), monomial))
    quotient = ZERO
    for monomial, value in list(number.terms.items()):
        other = remove_factor(monomial, leading)
        if other is None or value % divisor.terms[leading]:
            continue
        step = Polynomial({other: value // divisor.terms[leading]})
        reduced = number - step * divisor
        if len(reduced.terms) < len(number.terms):
            quotient, number = quotient + step, reduced
    return quotient, number
