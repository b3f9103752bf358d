"""Index expressions over a domain: their atoms, bounds and normal form.

An :class:`IndexSpace` reads TVM expressions into polynomials over *atoms* and writes them back. An
atom is a variable, a quotient ``x // c``, a remainder ``x % c``, a minimum or a maximum, or an
expression that arithmetic cannot look into (a load, a call). Quotients and remainders are made by
:meth:`IndexSpace.floordiv` and :meth:`~IndexSpace.floormod` only, which try the rules of
:mod:`.index_rules` first, so that equal parts of two expressions become the same atom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, inf
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from .index_bounds import Bounds, compound_bounds, interval_product
from .index_reading import INTEGER_LIMITS, READERS, dtype_of, read_opaque
from .index_rules import DIVISION_RULES, REMAINDER_RULES, SUM_RULES
from .index_terms import ZERO, Polynomial, atom_term, integer, remove_factor


@dataclass(slots=True)
class Atom:
    """One indivisible part of index expressions.

    Attributes
    ----------
    kind
        ``var``, ``opaque``, ``floordiv``, ``floormod``, ``min`` or ``max``.
    expr
        TVM expression of a variable or an opaque part.
    number, divisor
        Operands of the other kinds.
    low, high
        Numeric bounds, both included; infinite where unknown.
    last
        Upper bound as an expression of other atoms, where the numeric one is infinite.
    """

    kind: str
    expr: Any = None
    number: Polynomial = ZERO
    divisor: Polynomial = ZERO
    low: float = -inf
    high: float = inf
    last: Polynomial | None = None


class IndexSpace:
    """Arithmetic of index expressions under the bounds of a domain.

    Variables outside of the domain are taken for symbolic extents where an extent uses them: at
    least 1. What other variables hold is not known.

    Parameters
    ----------
    domain
        Range of each iterator. A symbol with declared bounds is in it too.
    conditions
        Boolean expressions that hold at every point under consideration.
    keep_digits
        Whether rules that mix the digits of several numbers are left out: they save a division, but
        hide what an equation can be solved for.
    """

    unbounded = inf

    def __init__(
        self,
        domain: Mapping[Any, tvm.ir.Range],
        conditions: Sequence[Any] = (),
        *,
        keep_digits: bool = False,
    ) -> None:
        self.domain = domain
        self.conditions = tuple(conditions)
        self.keep_digits = keep_digits
        self.atoms: list[Atom] = []
        self.known: list[Polynomial] = []
        self._numbers: dict[Any, int] = {}
        self._opaque: dict[int, list[int]] = {}
        self._results: dict[Any, Polynomial] = {}
        self._read: dict[Any, Polynomial] = {}
        self._reading_extent = False
        for var in domain:
            self._variable(var)
        for condition in self.conditions:
            self._assume(condition)

    def assuming(self, *conditions: Any) -> IndexSpace:
        """The same domain where these conditions hold as well."""
        together = (*self.conditions, *conditions)
        return IndexSpace(self.domain, together, keep_digits=self.keep_digits)

    # ---- atoms ---------------------------------------------------------------------------------

    def _variable(self, var: Any) -> int:
        number = self._numbers.get(var)
        if number is not None:
            if self._reading_extent and self.atoms[number].low == -inf:
                self.atoms[number].low = 1
            return number
        atom = Atom("var", var)
        rng = self.domain.get(var)
        if rng is not None:
            reading, self._reading_extent = self._reading_extent, True
            first, extent = self.read(rng.min), self.read(rng.extent)
            self._reading_extent = reading
            atom.low = self.bounds(first)[0]
            last = (first + extent).plus(-1)
            atom.high = self.bounds(last)[1]
            if last.value is None:
                atom.last = last
        elif self._reading_extent:
            atom.low = 1
        return self._add(var, atom)

    def _add(self, key: Any, atom: Atom) -> int:
        number = len(self.atoms)
        self.atoms.append(atom)
        self._numbers[key] = number
        return number

    def compound(self, kind: str, number: Polynomial, divisor: Polynomial) -> Polynomial:
        """The atom of an operation on two numbers, as it is: no rule is tried."""
        key = (kind, number.key, divisor.key)
        found = self._numbers.get(key)
        if found is None:
            low, high, last = compound_bounds(self, kind, number, divisor)
            atom = Atom(kind, None, number, divisor, low, high, last)
            found = self._add(key, atom)
        return atom_term(found)

    def opaque_term(self, expr: Any, low: float = -inf, high: float = inf) -> Polynomial:
        """The atom of an expression that is not looked into, with its bounds."""
        bucket = self._opaque.setdefault(tvm_ffi.structural_hash(expr), [])
        for number in bucket:
            if tvm_ffi.structural_equal(self.atoms[number].expr, expr):
                return atom_term(number)
        number = len(self.atoms)
        self.atoms.append(Atom("opaque", expr, low=low, high=high))
        bucket.append(number)
        return atom_term(number)

    def divisions_in(self, monomial: tuple[int, ...]) -> bool:
        """Whether the monomial has a quotient or a remainder among its factors."""
        return any(self.atoms[atom].kind in ("floordiv", "floormod") for atom in monomial)

    def cost(self, number: Polynomial) -> tuple[int, int]:
        """Divisions and remainders in it, then its terms."""
        divisions = terms = 0
        for monomial in number.terms:
            terms += 1
            for atom in monomial:
                inner = self.atoms[atom]
                if inner.kind in ("floordiv", "floormod"):
                    below = self.cost(inner.number)
                    divisions, terms = divisions + 1 + below[0], terms + below[1]
        return divisions, terms

    # ---- bounds --------------------------------------------------------------------------------

    def is_symbolic(self, number: Polynomial) -> bool:
        """Whether an atom in it has no numeric upper bound, or one in terms of other atoms too."""
        atoms = (self.atoms[atom] for atom in number.atoms())
        return any(atom.high == inf or atom.last is not None for atom in atoms)

    def bounds(self, number: Polynomial) -> Bounds:
        """Numeric bounds, both included; infinite where unknown."""
        low: float = 0
        high: float = 0
        for monomial, value in number.terms.items():
            first: float = value
            last: float = value
            for atom in monomial:
                first, last = interval_product(
                    first, last, self.atoms[atom].low, self.atoms[atom].high
                )
            low, high = low + first, high + last
        return low, high

    def is_nonnegative(self, number: Polynomial) -> bool:
        """Whether the bounds and conditions prove that it is never below 0."""
        return self._nonnegative(number) or any(
            self._nonnegative(number - fact) for fact in self.known
        )

    def _nonnegative(self, number: Polynomial) -> bool:
        if self.bounds(number)[0] >= 0:
            return True
        if all(len(m) <= 1 for m in number.terms) and not self.is_symbolic(number):
            return False  # the numeric bounds of a plain sum are as good as they get
        # Replace one atom by the bound that makes the number smallest, the latest atom first: what
        # bounds an atom was there before it.
        for atom in sorted(number.atoms(), reverse=True):
            factor = Polynomial(
                {
                    remove_factor(m, (atom,)) or (): value
                    for m, value in number.terms.items()
                    if atom in m
                }
            )
            if atom in factor.atoms():
                continue
            rest = Polynomial({m: value for m, value in number.terms.items() if atom not in m})
            low, high = self.bounds(factor)
            bounds = self._last(atom) if high <= 0 else self._first(atom) if low >= 0 else []
            if bounds:
                return any(self._nonnegative(rest + factor * bound) for bound in bounds)
        return False

    def _first(self, atom: int) -> list[Polynomial]:
        low = self.atoms[atom].low
        return [] if low == -inf else [integer(int(low))]

    def _last(self, atom: int) -> list[Polynomial]:
        """Upper bounds of an atom, the one that other atoms give first: it is the closer one."""
        bound = self.atoms[atom]
        found = [] if bound.last is None else [bound.last]
        return found if bound.high == inf else [*found, integer(int(bound.high))]

    # ---- arithmetic ----------------------------------------------------------------------------

    def floordiv(self, number: Polynomial, divisor: Polynomial) -> Polynomial:
        """Quotient in normal form; the divisor is positive."""
        return self._divide("floordiv", DIVISION_RULES, number, divisor)

    def floormod(self, number: Polynomial, divisor: Polynomial) -> Polynomial:
        """Remainder in normal form; the divisor is positive."""
        return self._divide("floormod", REMAINDER_RULES, number, divisor)

    def _divide(
        self, kind: str, rules: tuple[Any, ...], number: Polynomial, divisor: Polynomial
    ) -> Polynomial:
        key = (kind, number.key, divisor.key)
        result = self._results.get(key)
        if result is None:
            for rule in rules:
                result = rule(self, number, divisor)
                if result is not None:
                    break
            else:
                result = self.compound(kind, number, divisor)
            self._results[key] = result
        return result

    def normalised(self, number: Polynomial) -> Polynomial:
        """The sum with quotients and remainders merged as far as the rules go."""
        if sum(map(self.divisions_in, number.terms)) == 0:
            return number
        for rule in SUM_RULES:
            merged = rule(self, number)
            if merged is not None:
                return self.normalised(merged)
        return number

    def minimum(self, one: Polynomial, other: Polynomial) -> Polynomial:
        """Smaller of the two."""
        if self.is_nonnegative(other - one):
            return one
        if self.is_nonnegative(one - other):
            return other
        return self._of_parts("min", one, other)

    def maximum(self, one: Polynomial, other: Polynomial) -> Polynomial:
        """Larger of the two."""
        if self.is_nonnegative(other - one):
            return other
        if self.is_nonnegative(one - other):
            return one
        return self._of_parts("max", one, other)

    def _of_parts(self, kind: str, one: Polynomial, other: Polynomial) -> Polynomial:
        """``min(x*c, y*c) → min(x, y)*c``, so that a division by c is seen to be exact."""
        factor = gcd(*one.terms.values(), *other.terms.values())
        if factor < 2:
            return self.compound(kind, one, other)
        parts = [
            Polynomial({monomial: value // factor for monomial, value in number.terms.items()})
            for number in (one, other)
        ]
        return self.compound(kind, *parts).times(factor)

    # ---- reading -------------------------------------------------------------------------------

    def read(self, expr: Any) -> Polynomial:
        """Polynomial of a TVM expression of integers, in normal form."""
        found = self._read.get(expr)
        if found is None:
            found = self._read[expr] = self._read_new(expr)
        return found

    def _read_new(self, expr: Any) -> Polynomial:
        reader = READERS.get(type(expr))
        if reader is not None:
            return reader(self, expr)
        if isinstance(expr, tvm.ir.Var):
            number = self._variable(expr)
            atom = self.atoms[number]
            return integer(int(atom.low)) if atom.low == atom.high else atom_term(number)
        return read_opaque(self, expr)

    def fits(self, number: Polynomial, dtype: str) -> bool:
        """Whether every value of it is one of the type."""
        limit = INTEGER_LIMITS.get(dtype, 0)
        low, high = self.bounds(number)
        return -limit <= low and high < limit

    def _assume(self, condition: Any) -> None:
        from .index_conditions import facts

        for fact in facts(self, condition):
            if fact.value is not None:
                continue
            self.known.append(fact)
            rest = fact.without(())
            term = rest.single
            if term is None or len(term[0]) != 1:
                continue
            atom, value = self.atoms[term[0][0]], term[1]
            if value > 0:  # value * atom + constant >= 0
                atom.low = max(atom.low, -(fact.constant // value))
            else:
                atom.high = min(atom.high, fact.constant // -value)

    # ---- writing -------------------------------------------------------------------------------

    def write(self, number: Polynomial, dtype: str) -> Any:
        """TVM expression of a polynomial, in a fixed order of terms."""
        number = self._fold_constant(number)
        terms = sorted(
            ((m, v) for m, v in number.terms.items() if m),
            key=lambda term: (term[1] < 0, -len(term[0]), -abs(term[1]), term[0]),
        )
        result = None
        for monomial, value in terms:
            product = self._write_product(monomial, dtype)
            if abs(value) != 1:
                product = tirx.Mul(product, tirx.IntImm(dtype, abs(value)))
            if result is None:
                result = product
                if value < 0:
                    start = tirx.IntImm(dtype, number.constant)
                    result = tirx.Sub(start, product)
            else:
                result = (tirx.Sub if value < 0 else tirx.Add)(result, product)
        if result is None:
            return tirx.IntImm(dtype, number.constant)
        if terms[0][1] < 0 or not number.constant:
            return result
        offset = tirx.IntImm(dtype, abs(number.constant))
        return (tirx.Sub if number.constant < 0 else tirx.Add)(result, offset)

    def _fold_constant(self, number: Polynomial) -> Polynomial:
        """``(x + 2) // 4 + 1 → (x + 6) // 4``: one addition less; the number stays positive."""
        if number.constant <= 0:
            return number
        for atom, value in number.linear():
            quotient = self.atoms[atom]
            if quotient.kind == "floordiv" and value == 1 and quotient.number.constant > 0:
                whole = quotient.number + quotient.divisor.times(number.constant)
                folded = self.compound("floordiv", whole, quotient.divisor)
                return number.without((atom,)).without(()) + folded
        return number

    def _write_product(self, monomial: tuple[int, ...], dtype: str) -> Any:
        result = None
        for atom in monomial:
            factor = self._write_atom(self.atoms[atom], dtype)
            result = factor if result is None else tirx.Mul(result, factor)
        return result

    def _write_atom(self, atom: Atom, dtype: str) -> Any:
        if atom.kind in _WRITERS:
            return _WRITERS[atom.kind](
                self.write(atom.number, dtype), self.write(atom.divisor, dtype)
            )
        same = dtype_of(atom.expr) == dtype
        return atom.expr if same else tirx.Cast(dtype, atom.expr)


_WRITERS: dict[str, Callable[[Any, Any], Any]] = {
    "floordiv": tirx.FloorDiv,
    "floormod": tirx.FloorMod,
    "min": tirx.Min,
    "max": tirx.Max,
}
