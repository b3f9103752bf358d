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

TVM's ``inverse_affine_iter_map`` does the same for maps without offsets and rotations (a rotation
is silently taken for the identity); the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from .expressions import substitute
from .index_conditions import decided, simplify_condition
from .index_equations import Equations
from .index_evaluate import evaluate_all
from .index_proof import prove_same, sample_points, symbol_values
from .index_reading import dtype_of
from .index_simplify import has_loads, simplify_indices
from .index_space import IndexSpace
from .index_terms import ONE, Polynomial


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
    predicate: Any = None,
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
    predicate
        Condition on the axes: the map has the points only at which it holds.
    variables
        What to call the element's indices; made if not given.
    """
    if has_loads(indices):
        return Refusal("an index is read from memory")
    dtype = dtype_of(axes[0]) if axes else "int64"
    domain = {axis: _range(axis, extent) for axis, extent in zip(axes, extents, strict=True)}
    if variables is None:
        variables = [tirx.Var(f"x{number}", dtype) for number in range(len(shape))]
    image = {var: _range(var, extent) for var, extent in zip(variables, shape, strict=True)}
    return _Inversion(list(indices), domain, image, predicate, dtype).run(partial)


def _range(var: Any, extent: Any) -> tvm.ir.Range:
    dtype = dtype_of(var)
    extent = tirx.const(extent, dtype) if isinstance(extent, int) else extent
    return tvm.ir.Range.from_min_extent(tirx.const(0, dtype), extent)


class _Inversion:
    """One map with its equations."""

    def __init__(
        self,
        indices: list[Any],
        domain: dict[Any, tvm.ir.Range],
        image: dict[Any, tvm.ir.Range],
        condition: Any,
        dtype: str,
    ) -> None:
        self.indices = indices
        self.domain = domain
        self.variables = tuple(image)
        self.shape = [rng.extent for rng in image.values()]
        self.condition = condition
        self.dtype = dtype
        conditions = [] if condition is None else [condition]
        self.source = IndexSpace(domain, conditions, keep_digits=True)
        self.target = IndexSpace(image)

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
        # With a condition, how many points there are shows in the predicate only.
        complete = points == elements and self.condition is None
        if not complete and not partial and self.condition is None:
            return Refusal(self._coverage(points, elements))
        equations = Equations(self.source, self.target)
        equations.solve(
            [
                (number, self.target.read(var))
                for number, var in zip(numbers, self.variables, strict=True)
            ]
        )
        values = [equations.value(self.source.read(axis)) for axis in self.domain]
        found = [self.target.normalised(value) for value in values if value is not None]
        if len(found) < len(values):
            return Refusal(self._why_not(values))
        results = tuple(self.target.write(value, self.dtype) for value in found)
        if not self._is_left_inverse(results):
            return Refusal(self._why_not(values))
        if complete:
            return Inverse(self.variables, results)
        reached = self._predicate(results)
        if decided(reached) is True:
            return Inverse(self.variables, results)
        if not partial:
            return Refusal(f"reaches only elements for which {reached}")
        return Inverse(self.variables, results, reached)

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
        for symbols in symbol_values(self.domain, self.indices) if self.condition is None else ():
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
        back = simplify_indices(composed, self.domain, self.condition, check=False)
        # Each step of the solution is a proof; this finds a mistake in one of them.
        axes = list(self.domain)
        return prove_same(back, axes, self.domain, self.condition, use_prover=False).holds

    def _predicate(self, results: tuple[Any, ...]) -> Any:
        """Which elements are the map of their inverse."""
        conditions = []
        for value, rng in zip(results, self.domain.values(), strict=True):
            conditions.append(tirx.LE(tirx.IntImm(self.dtype, 0), value))
            conditions.append(tirx.LT(value, rng.extent))
        points = dict(zip(self.domain, results, strict=True))
        for index, var in zip(self.indices, self.variables, strict=True):
            conditions.append(tirx.EQ(substitute(index, points), var))
        if self.condition is not None:
            conditions.append(substitute(self.condition, points))
        kept: Any = None
        for condition in conditions:
            space = self.target if kept is None else self.target.assuming(kept)
            condition = simplify_condition(space, condition)
            if decided(condition) is not True:
                kept = condition if kept is None else tirx.And(kept, condition)
        return tirx.IntImm("bool", 1) if kept is None else kept
