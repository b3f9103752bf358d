"""Solving the equations of an index map for its axes.

An equation is an expression of the axes (over :attr:`Equations.source`) and its value, an
expression of the element's indices (over :attr:`Equations.target`). What is solved for are atoms of
the source: axes, quotients and remainders.
"""

from __future__ import annotations

from math import inf, isqrt

from .index_space import Atom, IndexSpace
from .index_terms import ONE, ZERO, Polynomial, atom_term, divide_terms, integer


class Equations:
    """A system of equations and the atoms that are known so far.

    Parameters
    ----------
    source
        Space of the axes.
    target
        Space of the element's indices.
    """

    def __init__(self, source: IndexSpace, target: IndexSpace) -> None:
        self.source = source
        self.target = target
        self.known: dict[int, Polynomial] = {}

    def solve(self, equations: list[tuple[Polynomial, Polynomial]]) -> None:
        """Find the values of atoms until nothing new follows.

        An equation is an expression of the axes and its value, an expression of the element's
        indices.
        """
        used: set[int] = set()
        while equations:
            rest = [pair for pair in equations if not self._solve_equation(*pair)]
            derived = []
            for atom in list(self.known):
                if atom not in used:
                    equation = self._derive(atom)
                    if equation is not None:
                        used.add(atom)
                        derived.append(equation)
            if len(rest) == len(equations) and not derived:
                return
            equations = rest + derived

    def _solve_equation(self, number: Polynomial, value: Polynomial) -> bool:
        """Whether the equation's terms are all known, if need be by solving it."""
        strides: dict[int, Polynomial] = {}
        for monomial, coefficient in number.terms.items():
            term = Polynomial({monomial: coefficient})
            known = self.value(term)
            if known is not None:
                value = value - known
                continue
            moving = [atom for atom in monomial if not self._is_symbol(self.source.atoms[atom])]
            if len(moving) != 1:
                return False
            symbols = tuple(atom for atom in monomial if atom != moving[0])
            factor = self.value(Polynomial({symbols: coefficient}))
            if factor is None:
                return False
            strides[moving[0]] = strides.get(moving[0], ZERO) + factor
        return self._solve_digits(strides, self.target.normalised(value))

    def _solve_digits(self, strides: dict[int, Polynomial], value: Polynomial) -> bool:
        """Terms of ``value == Σ stride * atom`` where they nest like the digits of a number."""
        digits: list[tuple[Polynomial, int, Polynomial, bool, Polynomial]] = []
        for atom, stride in strides.items():
            bounds = self._atom_bounds(self.source.atoms[atom])
            if bounds is None:
                return False
            first, last = bounds
            low, high = self.target.bounds(stride)
            backwards = high < 0
            if not backwards and low <= 0:
                return False
            stride = stride.times(-1) if backwards else stride
            start = last.times(-1) if backwards else first
            value = value - stride * start
            digits.append((stride, atom, last - first, backwards, start))
        digits.sort(key=lambda digit: self._size(digit[0]))
        below = ZERO
        for stride, _, span, _, _ in digits:
            if not self.target.is_nonnegative((stride - below).plus(-1)):
                return False
            below = below + stride * span
        for stride, atom, _, backwards, start in reversed(digits):
            digit = self.target.floordiv(value, stride)
            value = self.target.floormod(value, stride)
            digit = digit + start
            self.known[atom] = self.target.normalised(digit.times(-1) if backwards else digit)
        return True

    def _size(self, stride: Polynomial) -> tuple[int, int]:
        """Order of strides and divisors: symbols count for more than constants."""
        degree = max(map(len, stride.terms))
        return degree, max(stride.terms.values())

    def _derive(self, atom: int) -> tuple[Polynomial, Polynomial] | None:
        """Equation for the number that a known quotient or remainder is of."""
        inner, value = self.source.atoms[atom], self.known[atom]
        divisor = self.value(inner.divisor)
        if divisor is None or inner.kind not in ("floordiv", "floormod"):
            return None
        if inner.kind == "floordiv":
            rest = self._remainder_value(inner.number, inner.divisor)
            return None if rest is None else (inner.number, value * divisor + rest)
        quotient = self.value(self.source.floordiv(inner.number, inner.divisor))
        if quotient is not None:
            return inner.number, quotient * divisor + value
        return self._unwrap(inner.number, divisor, value) or self._join_digits(inner, value)

    def _join_digits(self, upper: Atom, value: Polynomial) -> tuple[Polynomial, Polynomial] | None:
        """Equation ``x % (a*b) = (x // a % b)*a + x % a`` where both digits are known.

        The upper one may have more in it: ``(x // a + y) % b`` is a digit of ``x + y*a``.
        """
        for atom, coefficient in upper.number.linear():
            quotient = self.source.atoms[atom]
            if quotient.kind != "floordiv" or coefficient != 1:
                continue
            low = self._remainder_value(quotient.number, quotient.divisor)
            scale = self.value(quotient.divisor)
            if low is None or scale is None:
                continue
            whole = quotient.number + upper.number.without((atom,)) * quotient.divisor
            joined = self.source.floormod(whole, quotient.divisor * upper.divisor)
            return joined, value * scale + low
        return None

    def _remainder_value(self, number: Polynomial, divisor: Polynomial) -> Polynomial | None:
        """Value of a remainder, if need be by its digits ``x % (a*b) = x // a % b * a + x % a``."""
        rest = self.value(self.source.floormod(number, divisor))
        if rest is not None:
            return rest
        for factor in self._factors(divisor):
            low = self.value(self.source.floormod(number, factor))
            if low is None:
                continue
            upper, _ = divide_terms(divisor, factor)
            high = self._remainder_value(self.source.floordiv(number, factor), upper)
            if high is not None:
                scale = self.value(factor)
                return None if scale is None else high * scale + low
        return None

    def _factors(self, divisor: Polynomial) -> list[Polynomial]:
        """What divides the divisor: all of a constant's factors, else those in use, least first."""
        size = divisor.value
        if size is not None:
            small = [factor for factor in range(2, isqrt(size) + 1) if size % factor == 0]
            return [integer(f) for f in sorted({*small, *(size // factor for factor in small)})]
        used = {self.source.atoms[atom].divisor for atom in self.known}
        return [
            f for f in used if f != divisor and f.terms and not divide_terms(divisor, f)[1].terms
        ]

    def _unwrap(
        self, number: Polynomial, divisor: Polynomial, value: Polynomial
    ) -> tuple[Polynomial, Polynomial] | None:
        """Equation for the unknown part of a number whose remainder is the value.

        The part must have no more values than the divisor: it is a rotation then.
        """
        unknown = ZERO
        for monomial, coefficient in self._split_by_quotients(number).terms.items():
            term = Polynomial({monomial: coefficient})
            known = self.value(term)
            if known is None:
                unknown = unknown + term
            else:
                value = value - known
        low, high = self.source.bounds(unknown)
        if not unknown.terms or low == -inf or high == inf:
            return None
        if not self.target.is_nonnegative(divisor - integer(int(high - low) + 1)):
            return None
        start = integer(int(low))
        return unknown, start + self.target.floormod(value - start, divisor)

    def _split_by_quotients(self, number: Polynomial) -> Polynomial:
        """Number with ``x // b → (x // (b*c))*c + x // b % c`` where the quotient is known.

        ``b`` may be 1: then the term is x itself.
        """
        quotients = [known for known in self.known if self.source.atoms[known].kind == "floordiv"]
        # The finest quotient first: it leaves the fewest values unknown.
        for known in sorted(quotients, key=lambda k: self._size(self.source.atoms[k].divisor)):
            quotient = self.source.atoms[known]
            for atom, coefficient in list(number.linear()):
                term = atom_term(atom)
                if self.value(term) is not None:
                    continue
                other = self.source.atoms[atom]
                base, divisor = term, ONE
                if other.kind == "floordiv":
                    base, divisor = other.number, other.divisor
                parts, rest = divide_terms(quotient.divisor, divisor)
                if quotient.number != base or rest.terms:
                    continue
                split = atom_term(known) * parts + self.source.floormod(term, parts)
                number = number.without((atom,)) + split.times(coefficient)
        return number

    def value(self, number: Polynomial) -> Polynomial | None:
        """Value of an expression of known atoms."""
        result = ZERO
        for monomial, coefficient in number.terms.items():
            product = integer(coefficient)
            for atom in monomial:
                factor = self._atom_value(atom)
                if factor is None:
                    return None
                product = product * factor
            result = result + product
        return result

    def _atom_value(self, number: int) -> Polynomial | None:
        if number in self.known:
            return self.known[number]
        atom = self.source.atoms[number]
        if self._is_symbol(atom):
            return self.target.read(atom.expr)
        if atom.kind == "floormod":
            rotated = self._rotated_value(atom)
            if rotated is not None:
                return rotated
        if atom.kind in ("var", "opaque"):
            return None
        value, divisor = self.value(atom.number), self.value(atom.divisor)
        if value is None or divisor is None:
            return None
        operation = {
            "floordiv": self.target.floordiv, "floormod": self.target.floormod,
            "min": self.target.minimum, "max": self.target.maximum,
        }[atom.kind]  # fmt: skip
        return operation(value, divisor)

    def _rotated_value(self, remainder: Atom) -> Polynomial | None:
        """Value of ``x % c`` where ``(x + k) % c`` is known."""
        for number, value in self.known.items():
            other = self.source.atoms[number]
            if other.kind != "floormod" or other.divisor != remainder.divisor:
                continue
            shift = (other.number - remainder.number).value
            divisor = self.value(remainder.divisor)
            if shift is not None and divisor is not None:
                return self.target.floormod(value.plus(-shift), divisor)
        return None

    def _is_symbol(self, atom: Atom) -> bool:
        return atom.kind == "var" and atom.expr not in self.source.domain

    def _atom_bounds(self, atom: Atom) -> tuple[Polynomial, Polynomial] | None:
        if atom.low == -inf:
            return None
        first = integer(int(atom.low))
        if atom.high < inf:
            return first, integer(int(atom.high))
        last = None if atom.last is None else self.value(atom.last)
        return None if last is None else (first, last)
