"""Inverting an index map: the axes as expressions of the element that they name.

::

    [i // 8, i % 8 * 32 + k*4 + j, l]  onto [2, 256, 4]
      →  i = x*8 + y // 32, k = y % 32 // 4, j = y % 4, l = z
    [(i + 3) % 8] onto [8]             →  i = (x + 5) % 8
    [i + 3] onto [24], i < 12          →  i = x - 3  where 3 <= x < 15: refused unless parts will do

The map is a system of equations, one for each dimension. An equation whose unknown terms nest, as
the digits of a number do, gives each of them; a remainder whose number has no more values than the
divisor gives the number; quotient and remainder of one number give the number. A map that is solved
is one to one; it is onto if it has as many points as the tensor has elements. The result is proved
by putting the map into it.

TVM's ``inverse_affine_iter_map`` does the same for maps without offsets and rotations; the tests
compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from .expressions import substitute
from .index_conditions import decided, simplify_condition
from .index_evaluate import evaluate_all
from .index_proof import prove_same, sample_points, symbol_values
from .index_reading import dtype_of
from .index_simplify import has_loads, simplify_indices
from .index_space import Atom, IndexSpace
from .index_terms import ONE, ZERO, Polynomial, atom_term, integer


@dataclass(frozen=True)
class Inverse:
    """Axes as expressions of an element's indices.

    Attributes
    ----------
    variables
        One for each dimension of the tensor.
    axes
        Value of each axis, in the order in which they were given.
    predicate
        Which elements the map reaches; None if it reaches all.
    """

    variables: tuple[Any, ...]
    axes: tuple[Any, ...]
    predicate: Any = None

    @property
    def is_bijective(self) -> bool:
        """Whether every element is reached."""
        return self.predicate is None


@dataclass(frozen=True)
class Refusal:
    """Why a map has no inverse, or none that was found."""

    reason: str


def invert(
    indices: Sequence[Any],
    axes: Sequence[Any],
    extents: Sequence[Any],
    shape: Sequence[Any],
    *,
    partial: bool = False,
    variables: Sequence[Any] | None = None,
) -> Inverse | Refusal:
    """Inverse of the map from axes to the indices of a tensor's element.

    Parameters
    ----------
    indices
        One expression of the axes for each dimension.
    axes, extents
        Variables from 0, and their extents.
    shape
        Extents of the tensor.
    partial
        Whether a map that leaves elements out has an inverse, with a predicate.
    variables
        What to call the element's indices; made if not given.
    """
    if has_loads(indices):
        return Refusal("an index is read from memory")
    dtype = dtype_of(axes[0]) if axes else "int64"
    domain = {
        axis: tvm.ir.Range.from_min_extent(tirx.const(0, dtype_of(axis)), extent)
        for axis, extent in zip(axes, extents, strict=True)
    }
    if variables is None:
        variables = [tirx.Var(f"x{number}", dtype) for number in range(len(shape))]
    return _Inversion(list(indices), domain, list(shape), tuple(variables), dtype).run(partial)


class _Inversion:
    """One map with its equations."""

    def __init__(
        self,
        indices: list[Any],
        domain: dict[Any, tvm.ir.Range],
        shape: list[Any],
        variables: tuple[Any, ...],
        dtype: str,
    ) -> None:
        self.indices = indices
        self.domain = domain
        self.shape = shape
        self.variables = variables
        self.dtype = dtype
        self.source = IndexSpace(domain)
        self.image = {
            var: tvm.ir.Range.from_min_extent(tirx.const(0, dtype_of(var)), extent)
            for var, extent in zip(variables, shape, strict=True)
        }
        self.target = IndexSpace(self.image)
        self.known: dict[int, Polynomial] = {}

    # ---- whole map -----------------------------------------------------------------------------

    def run(self, partial: bool) -> Inverse | Refusal:
        numbers = [self.source.normalised(self.source.read(index)) for index in self.indices]
        outside = self._outside(numbers)
        if outside is not None:
            return Refusal(outside)
        points = self._product([rng.extent for rng in self.domain.values()])
        elements = self._product(self.shape)
        missing = self._missing_axis(numbers)
        if missing is not None:
            return Refusal(missing)
        complete = points == elements
        if not complete and not partial:
            return Refusal(self._coverage(points, elements))
        self._solve(
            [
                (number, self.target.read(var))
                for number, var in zip(numbers, self.variables, strict=True)
            ]
        )
        values = [self._value(self.source.read(axis)) for axis in self.domain]
        found = [self.target.normalised(value) for value in values if value is not None]
        if len(found) < len(values):
            return Refusal(self._why_not(values))
        results = tuple(self.target.write(value, self.dtype) for value in found)
        if not self._is_left_inverse(results):
            return Refusal(self._why_not(values))
        if complete:
            return Inverse(self.variables, results)
        return Inverse(self.variables, results, self._predicate(results))

    def _product(self, extents: list[Any]) -> Polynomial:
        return reduce(lambda product, extent: product * self.target.read(extent), extents, ONE)

    def _outside(self, numbers: list[Polynomial]) -> str | None:
        for position, (number, extent) in enumerate(zip(numbers, self.shape, strict=True)):
            distance = (self.source.read(extent) - number).plus(-1)
            if not self.source.is_nonnegative(number) or not self.source.is_nonnegative(distance):
                return (
                    f"index {position}, {self.indices[position]}, is not proved to stay inside of "
                    f"extent {extent}"
                )
        return None

    def _missing_axis(self, numbers: list[Polynomial]) -> str | None:
        used: set[int] = set()
        for number in numbers:
            used |= self._atoms_below(number)
        for axis in self.domain:
            number = self.source.read(axis)
            if number.value is None and not number.atoms() & used:
                return (
                    f"axis {axis.name} of extent {self.domain[axis].extent} does not appear: an "
                    "element is named more than once"
                )
        return None

    def _atoms_below(self, number: Polynomial) -> set[int]:
        found = number.atoms()
        for atom in tuple(found):
            inner = self.source.atoms[atom]
            found |= self._atoms_below(inner.number) | self._atoms_below(inner.divisor)
        return found

    def _coverage(self, points: Polynomial, elements: Polynomial) -> str:
        if points.value is None or elements.value is None:
            return (
                f"reaches {self.target.write(points, self.dtype)} of "
                f"{self.target.write(elements, self.dtype)} elements"
            )
        if points.value > elements.value:
            return f"{points.value} points share {elements.value} elements"
        return f"covers {points.value} of {elements.value} elements"

    def _why_not(self, values: list[Polynomial | None]) -> str:
        for symbols in symbol_values(self.domain, self.indices):
            columns, complete = sample_points(self.domain, symbols)
            if not complete or not self.indices:
                break
            named = np.stack(evaluate_all(self.indices, columns))
            total, distinct = named.shape[1], np.unique(named, axis=1).shape[1]
            if distinct < total:
                return f"{total} points name {distinct} elements: an element is named twice"
        unsolved = [
            axis.name for axis, value in zip(self.domain, values, strict=True) if value is None
        ]
        return f"no closed form was found for axis {', '.join(unsolved) or 'values'}"

    def _is_left_inverse(self, results: tuple[Any, ...]) -> bool:
        """Whether the inverse of the map of the axes is the axes."""
        points = dict(zip(self.variables, self.indices, strict=True))
        composed = [substitute(value, points) for value in results]
        back = simplify_indices(composed, self.domain, check=False)
        # Each step of the solution is a proof; this finds a mistake in one of them.
        return prove_same(back, list(self.domain), self.domain, use_prover=False).holds

    def _predicate(self, results: tuple[Any, ...]) -> Any:
        """Which elements are the map of their inverse."""
        conditions = []
        for value, rng in zip(results, self.domain.values(), strict=True):
            conditions.append(tirx.LE(tirx.IntImm(self.dtype, 0), value))
            conditions.append(tirx.LT(value, rng.extent))
        points = dict(zip(self.domain, results, strict=True))
        for index, var in zip(self.indices, self.variables, strict=True):
            conditions.append(tirx.EQ(substitute(index, points), var))
        kept: Any = None
        for condition in conditions:
            space = self.target if kept is None else self.target.assuming(kept)
            condition = simplify_condition(space, condition)
            if decided(condition) is not True:
                kept = condition if kept is None else tirx.And(kept, condition)
        return tirx.IntImm("bool", 1) if kept is None else kept

    # ---- equations -----------------------------------------------------------------------------

    def _solve(self, equations: list[tuple[Polynomial, Polynomial]]) -> None:
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
            known = self._value(term)
            if known is not None:
                value = value - known
                continue
            moving = [atom for atom in monomial if not self._is_symbol(self.source.atoms[atom])]
            if len(moving) != 1:
                return False
            symbols = tuple(atom for atom in monomial if atom != moving[0])
            factor = self._value(Polynomial({symbols: coefficient}))
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

    def _size(self, stride: Polynomial) -> tuple[int, float, int]:
        degree = max(map(len, stride.terms))
        return degree, self.target.bounds(stride)[0], max(stride.terms.values())

    def _derive(self, atom: int) -> tuple[Polynomial, Polynomial] | None:
        """Equation for the number that a known quotient or remainder is of."""
        inner, value = self.source.atoms[atom], self.known[atom]
        divisor = self._value(inner.divisor)
        if divisor is None or inner.kind not in ("floordiv", "floormod"):
            return None
        if inner.kind == "floordiv":
            rest = self._value(self.source.floormod(inner.number, inner.divisor))
            return None if rest is None else (inner.number, value * divisor + rest)
        quotient = self._value(self.source.floordiv(inner.number, inner.divisor))
        if quotient is not None:
            return inner.number, quotient * divisor + value
        return self._unwrap(inner.number, divisor, value)

    def _unwrap(
        self, number: Polynomial, divisor: Polynomial, value: Polynomial
    ) -> tuple[Polynomial, Polynomial] | None:
        """Equation for the unknown part of a number whose remainder is the value.

        The part must have no more values than the divisor: it is a rotation then.
        """
        unknown = ZERO
        for monomial, coefficient in self._split_by_quotients(number).terms.items():
            term = Polynomial({monomial: coefficient})
            known = self._value(term)
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
        """Number with ``x → (x // c)*c + x % c`` where the quotient of an axis is known."""
        for known in list(self.known):
            quotient = self.source.atoms[known]
            term = quotient.number.single
            if quotient.kind != "floordiv" or term is None or term[1] != 1:
                continue
            monomial = term[0]
            coefficient = number.terms.get(monomial)
            if coefficient is not None and self._value(quotient.number) is None:
                split = atom_term(known) * quotient.divisor + self.source.floormod(
                    quotient.number, quotient.divisor
                )
                number = number.without(monomial) + split.times(coefficient)
        return number

    def _value(self, number: Polynomial) -> Polynomial | None:
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
        if atom.kind in ("var", "opaque"):
            return None
        value, divisor = self._value(atom.number), self._value(atom.divisor)
        if value is None or divisor is None:
            return None
        operation = {
            "floordiv": self.target.floordiv, "floormod": self.target.floormod,
            "min": self.target.minimum, "max": self.target.maximum,
        }[atom.kind]  # fmt: skip
        return operation(value, divisor)

    def _is_symbol(self, atom: Atom) -> bool:
        return atom.kind == "var" and atom.expr not in self.domain

    def _atom_bounds(self, atom: Atom) -> tuple[Polynomial, Polynomial] | None:
        if atom.low == -inf:
            return None
        first = integer(int(atom.low))
        if atom.high < inf:
            return first, integer(int(atom.high))
        last = None if atom.last is None else self._value(atom.last)
        return None if last is None else (first, last)
