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
from math import inf
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from .index_rules import DIVISION_RULES, REMAINDER_RULES, SUM_RULES
from .index_terms import ZERO, Polynomial, atom_term, divide_terms, integer

IF_THEN_ELSE = tvm.ir.Op.get("prim.if_then_else")
INTEGER_LIMITS = {
    "int8": 2**7, "int16": 2**15, "int32": 2**31, "int64": 2**63,
}  # fmt: skip
Bounds = tuple[float, float]


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
    """

    unbounded = inf

    def __init__(
        self, domain: Mapping[Any, tvm.ir.Range], conditions: Sequence[Any] = ()
    ) -> None:
        self.domain = domain
        self.conditions = tuple(conditions)
        self.atoms: list[Atom] = []
        self.known: list[Polynomial] = []
        self._numbers: dict[Any, int] = {}
        self._opaque: dict[int, list[int]] = {}
        self._results: dict[Any, Polynomial] = {}
        self._read: dict[Any, Polynomial] = {}
        self._extent_symbols: set[Any] = set()
        self._reading_extent = False
        for var in domain:
            self._variable(var)
        for condition in self.conditions:
            self._assume(condition)

    def assuming(self, *conditions: Any) -> IndexSpace:
        """The same domain where these conditions hold as well."""
        return IndexSpace(self.domain, (*self.conditions, *conditions))

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

    def _compound(self, kind: str, number: Polynomial, divisor: Polynomial) -> Polynomial:
        key = (kind, number.key, divisor.key)
        found = self._numbers.get(key)
        if found is None:
            low, high, last = _compound_bounds(self, kind, number, divisor)
            atom = Atom(kind, None, number, divisor, low, high, last)
            found = self._add(key, atom)
        return atom_term(found)

    def _opaque_term(self, expr: Any, low: float = -inf, high: float = inf) -> Polynomial:
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
        """Whether an atom in it has no numeric upper bound, but one in terms of other atoms."""
        return any(self.atoms[atom].high == inf for atom in number.atoms())

    def bounds(self, number: Polynomial) -> Bounds:
        """Numeric bounds, both included; infinite where unknown."""
        low: float = 0
        high: float = 0
        for monomial, value in number.terms.items():
            first: float = value
            last: float = value
            for atom in monomial:
                first, last = _interval_product(
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
        # Replace an atom that is bounded by an expression by that bound, the latest atom first:
        # what bounds an atom was there before it.
        for atom in sorted(number.atoms(), reverse=True):
            last = self.atoms[atom].last
            if last is None:
                continue
            factor = Polynomial(
                {
                    tuple(a for a in m if a != atom): value
                    for m, value in number.terms.items()
                    if atom in m
                }
            )
            rest = Polynomial({m: value for m, value in number.terms.items() if atom not in m})
            if any(m.count(atom) > 1 for m in number.terms):
                return False
            low, high = self.bounds(factor)
            if high <= 0:
                return self._nonnegative(rest + factor * last)
            if low >= 0 and self.atoms[atom].low > -inf:
                return self._nonnegative(rest + factor.times(int(self.atoms[atom].low)))
            return False
        return False

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
                result = self._compound(kind, number, divisor)
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
        return self._compound("min", one, other)

    def maximum(self, one: Polynomial, other: Polynomial) -> Polynomial:
        """Larger of the two."""
        if self.is_nonnegative(other - one):
            return other
        if self.is_nonnegative(one - other):
            return one
        return self._compound("max", one, other)

    # ---- reading -------------------------------------------------------------------------------

    def read(self, expr: Any) -> Polynomial:
        """Polynomial of a TVM expression of integers, in normal form."""
        reader = _READERS.get(type(expr))
        if reader is not None:
            return reader(self, expr)
        if isinstance(expr, tvm.ir.Var):
            return atom_term(self._variable(expr))
        return self._read_opaque(expr)

    def _read_opaque(self, expr: Any) -> Polynomial:
        from .index_conditions import simplify_parts  # it needs a space in turn

        simplified = simplify_parts(self, expr)
        if type(simplified) is not type(expr):  # one branch of a conditional is left
            return self.read(simplified)
        return self._opaque_term(simplified, *self._opaque_bounds(simplified))

    def _opaque_bounds(self, expr: Any) -> Bounds:
        branches: tuple[Any, ...] = ()
        if isinstance(expr, tirx.Select):
            branches = (expr.true_value, expr.false_value)
        elif isinstance(expr, tvm.ir.Call) and expr.op.same_as(IF_THEN_ELSE):
            branches = tuple(expr.args[1:])
        if not branches:
            return -inf, inf
        bounds = [self.bounds(self.read(branch)) for branch in branches]
        return min(low for low, _ in bounds), max(high for _, high in bounds)

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


def dtype_of(expr: Any) -> str:
    """Name of the type of an expression."""
    return str(expr.ty.dtype)


def _interval_product(a: float, b: float, low: float, high: float) -> Bounds:
    products = [0 if 0 in (x, y) else x * y for x in (a, b) for y in (low, high)]
    return min(products), max(products)


def _compound_bounds(
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
        return 0, min(other_high - 1, high if low >= 0 else inf), None if last.value else last
    quotients = [
        value if abs(value) == inf else value // size
        for value in (low, high)
        for size in (other_low, other_high)
        if size != inf
    ]
    if other_high == inf:
        quotients.append(0 if low >= 0 else -1)
    return min(quotients), max(quotients), _last_quotient(space, number, divisor)


def _last_quotient(
    space: IndexSpace, number: Polynomial, divisor: Polynomial
) -> Polynomial | None:
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


# ---- readers: TVM expression → polynomial -------------------------------------------------------


def _read_divided(space: IndexSpace, expr: Any, quotient: bool, floored: bool) -> Polynomial:
    number, divisor = space.normalised(space.read(expr.a)), space.read(expr.b)
    if space.bounds(divisor)[0] < 1 or not (floored or space.is_nonnegative(number)):
        return space._read_opaque(expr)
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
    return space._read_opaque(expr)


_READERS: dict[type, Callable[[IndexSpace, Any], Polynomial]] = {
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
