"""Which elements of a tensor an access touches: exact sets, from index maps and conditions.

The variables that occur together, in an index or in a condition, make a component. Components do
not constrain each other, so the set is the product of one set per component, each over the
dimensions that its variables index::

    X[n, c, h * 2 + kh, w * 2 + kw]   under 1 <= h * 2 + kh     {n} × {c} × {h, kh} × {w, kw}

A component is enumerated. Where that is large, variables that occur only through ``v // a`` and
``v % b`` are first replaced by their digits (``v = hi * 9 + lo``), which takes the indices of an
implicit matrix product apart again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import sym, tirx

from .expressions import substitute
from .traffic_accesses import Access, Domain, conjuncts, contains_load, static_extents
from .traffic_digits import find_cuts
from .traffic_values import Unknown, evaluate, grid, variables

_SMALL = 1 << 14  # points of a grid that are not worth taking apart
_CHUNK = 1 << 22  # points that are evaluated at once
_MOST = 1 << 31  # points of a component beyond which its box is counted


@dataclass
class Demanded:
    """Condition that an element is in a set: ``mask`` at ``indices``."""

    mask: np.ndarray
    indices: tuple[Any, ...]


@dataclass
class ElementSet:
    """Elements of a tensor.

    Attributes
    ----------
    shape
        Extents of the tensor.
    parts
        Dimensions and the set over them, which together are the product; None means all.
    bound
        Upper bound of the number of elements where that is all that is known, else None.
    """

    shape: tuple[int, ...]
    parts: list[tuple[tuple[int, ...], np.ndarray | None]]
    bound: int | None = None

    @classmethod
    def whole(cls, shape: tuple[int, ...], bound: int | None = None) -> ElementSet:
        """Every element, or an unknown set of at most `bound`."""
        return cls(shape, [(tuple(range(len(shape))), None)], bound)

    @property
    def size(self) -> int:
        """Number of elements, or its upper bound."""
        if self.bound is not None:
            return min(self.bound, math.prod(self.shape))
        return math.prod(
            math.prod(self.shape[d] for d in dims) if mask is None else int(mask.sum())
            for dims, mask in self.parts
        )

    @property
    def is_whole(self) -> bool:
        """Whether it certainly is every element."""
        return self.bound is None and self.size == math.prod(self.shape)

    def mask(self) -> np.ndarray:
        """The set as an array of truth values; every element where only a bound is known."""
        if self.bound is not None:
            return np.ones(self.shape, bool)
        result = np.ones((1,) * len(self.shape), bool)
        for dims, part in self.parts:
            if part is not None:
                extents = [e if d in dims else 1 for d, e in enumerate(self.shape)]
                result = result & part.reshape(extents)
        return np.broadcast_to(result, self.shape)

    def equals(self, other: ElementSet) -> bool:
        """Whether both are known to be the same set."""
        return (
            self.bound is None
            and other.bound is None
            and len(self.parts) == len(other.parts)
            and all(
                mine[0] == theirs[0]
                and (
                    mine[1] is theirs[1]
                    or (
                        mine[1] is not None
                        and theirs[1] is not None
                        and np.array_equal(mine[1], theirs[1])
                    )
                )
                for mine, theirs in zip(self.parts, other.parts, strict=True)
            )
        )


def unite(sets: list[ElementSet]) -> ElementSet:
    """Union; where one of them is only bounded, the result is bounded by the sum."""
    distinct: list[ElementSet] = []
    for item in sets:
        if item.is_whole:
            return item
        if item.size and not any(item.equals(known) for known in distinct):
            distinct.append(item)
    if not distinct:
        return ElementSet.whole(sets[0].shape, bound=0)
    if len(distinct) == 1:
        return distinct[0]
    shape = distinct[0].shape
    if any(item.bound is not None for item in distinct):
        return ElementSet.whole(shape, sum(item.size for item in distinct))
    mask = np.zeros(shape, bool)
    for item in distinct:
        mask |= item.mask()
    return ElementSet(shape, [(tuple(range(len(shape))), mask)])


def without(elements: ElementSet, removed: ElementSet) -> ElementSet:
    """Elements of the first set that are certainly not in the second."""
    if removed.is_whole or elements.equals(removed):
        return ElementSet.whole(elements.shape, bound=0)
    if removed.bound is not None or elements.bound is not None:
        return elements
    mask = elements.mask() & ~removed.mask()
    return ElementSet(elements.shape, [(tuple(range(len(elements.shape))), mask)])


def elements_of(access: Access, domain: Domain, demand: Demanded | None) -> ElementSet:
    """Elements that an access touches when it runs over its domain.

    Parameters
    ----------
    access
        The read or write.
    domain
        First value and number of values of every variable.
    demand
        A further condition on the iterations: the element that they produce is wanted.
    """
    shape = static_extents(access.buffer.ty.shape)
    if shape is None:
        raise ValueError(f"buffer '{access.buffer.name}' has a symbolic shape")
    guards = [part for guard in access.guards for part in conjuncts(guard)]
    known = [guard for guard in guards if not contains_load(guard)]
    if access.whole or len(access.indices) != len(shape):
        return ElementSet.whole(shape, math.prod(shape))
    problem = _Problem(shape, list(access.indices), known, domain, demand)
    problem.simplify()
    return problem.solve()


@dataclass
class _Problem:
    """Indices under conditions over a domain."""

    shape: tuple[int, ...]
    indices: list[Any]
    guards: list[Any]
    domain: Domain
    demand: Demanded | None

    def simplify(self) -> None:
        """Drop conditions that always hold; take variables apart where that pays."""
        analyzer = bounded(self.domain)
        self.guards = [
            guard
            for guard in map(analyzer.simplify, self.guards)
            if not (isinstance(guard, tirx.IntImm) and int(guard))
        ]
        if self._points() > _SMALL:
            self._split_digits()

    def solve(self) -> ElementSet:
        """Enumerate component by component."""
        parts: list[tuple[tuple[int, ...], np.ndarray | None]] = []
        unknown = 1
        bounded = False
        for names, dims, guards, demand in self._components():
            if any(contains_load(self.indices[d]) for d in dims):
                bounded = True
                box = math.prod(self.shape[d] for d in dims)
                unknown *= min(box, math.prod(self.domain[var][1] for var in names))
                continue
            try:
                mask = self._enumerate(names, dims, guards, demand)
            except Unknown:
                bounded = True
                unknown *= math.prod(self.shape[d] for d in dims)
                continue
            if not mask.any():
                return ElementSet.whole(self.shape, bound=0)
            if dims:
                parts.append((dims, None if mask.all() else mask))
        if bounded:
            known = ElementSet(self.shape, parts).size
            return ElementSet.whole(self.shape, unknown * known)
        return ElementSet(self.shape, parts)

    def _points(self) -> int:
        sizes = [math.prod(self.domain[v][1] for v in c[0]) for c in self._components()]
        return max(sizes, default=1)

    def _components(
        self,
    ) -> list[tuple[list[Any], tuple[int, ...], list[Any], Demanded | None]]:
        """Variables, dimensions and conditions that belong together."""
        uses = [variables(index, self.domain) for index in self.indices]
        under = [variables(guard, self.domain) for guard in self.guards]
        wanted = variables(list(self.demand.indices), self.domain) if self.demand else []
        groups: list[set[Any]] = []
        for used in [*uses, *under, wanted]:
            joined = set(used)
            apart = []
            for group in groups:
                if group & joined:
                    joined |= group
                else:
                    apart.append(group)
            groups = [*apart, joined] if joined else apart
        result = []
        for group in groups:
            dims = tuple(d for d, used in enumerate(uses) if set(used) & group)
            guards = [g for g, used in zip(self.guards, under, strict=True) if set(used) & group]
            demand = self.demand if set(wanted) & group else None
            order = [var for var in self.domain if var in group]
            result.append((order, dims, guards, demand))
        result += [([], (d,), [], None) for d, used in enumerate(uses) if not used]
        result += [
            ([], (), [g], None) for g, used in zip(self.guards, under, strict=True) if not used
        ]
        if self.demand and not wanted:
            result.append(([], (), [], self.demand))
        return result

    def _enumerate(
        self, names: list[Any], dims: tuple[int, ...], guards: list[Any], demand: Demanded | None
    ) -> np.ndarray:
        extents = tuple(self.shape[d] for d in dims)
        indexed = {v for d in dims for v in variables(self.indices[d], self.domain)}
        conditions = [(variables(g, self.domain), g) for g in guards]
        if demand is not None:
            conditions.append((variables(list(demand.indices), self.domain), demand))
        tables, names = self._project(names, indexed, conditions)
        points = math.prod(self.domain[var][1] for var in names)
        if points > _MOST:
            raise Unknown("too many iterations")
        mask = np.zeros(math.prod(extents), bool)
        for domain in _chunks(names, self.domain, points):
            env = grid(names, domain)
            held: Any = True
            for used, table in tables:
                held = held & _looked_up(table, used, env, self.domain)
            position: Any = 0
            for d, extent in zip(dims, extents, strict=True):
                index = evaluate(self.indices[d], env)
                low, high = np.min(index), np.max(index)
                if low < 0 or high >= extent:
                    held = held & (index >= 0) & (index < extent)
                    index = np.clip(index, 0, extent - 1)
                position = position * extent + index
            if held is True:
                mask[np.ravel(position)] = True
            else:
                held, position = np.broadcast_arrays(held, position)
                mask[position[held]] = True
        return mask.reshape(extents)

    def _project(
        self, names: list[Any], indexed: set[Any], conditions: list[tuple[list[Any], Any]]
    ) -> tuple[list[tuple[list[Any], np.ndarray]], list[Any]]:
        """Evaluate conditions and do away with variables that occur in one condition alone."""
        tables = []
        kept = set(indexed)
        for number, (used, condition) in enumerate(conditions):
            others = {v for n, (vs, _) in enumerate(conditions) if n != number for v in vs}
            points = math.prod(self.domain[var][1] for var in used)
            if points > _MOST >> 4:
                raise Unknown("too many iterations")
            env = grid(used, self.domain)
            extents = tuple(self.domain[var][1] for var in used)
            table = np.broadcast_to(_holds(condition, env), extents)
            alone = [n for n, var in enumerate(used) if var not in indexed and var not in others]
            table = np.asarray(table.any(axis=tuple(alone)))
            remaining = [var for n, var in enumerate(used) if n not in alone]
            kept.update(remaining)
            tables.append((remaining, table))
        return tables, [var for var in names if var in kept]

    def _split_digits(self) -> None:
        """Replace variables by their digits in the divisions that they occur in."""
        roots = [*self.indices, *self.guards, *(self.demand.indices if self.demand else ())]
        digits: dict[Any, Any] = {}
        domain = dict(self.domain)
        for var in variables(roots, self.domain):
            low, extent = self.domain[var]
            cuts = find_cuts(roots, var, extent)
            if low or not cuts:
                continue
            value: Any = tirx.IntImm(var.ty.dtype, 0)
            for here, following in zip([1, *cuts], [*cuts, extent], strict=True):
                digit = tirx.Var(f"{var.name}_{here}", var.ty.dtype)
                domain[digit] = (0, following // here)
                value = value + digit * tirx.IntImm(var.ty.dtype, here)
            digits[var] = value
        if not digits:
            return
        analyzer = bounded(domain)

        def rewritten(expr: Any) -> Any:
            return analyzer.simplify(substitute(expr, digits))

        self.domain = domain
        self.indices = [rewritten(index) for index in self.indices]
        self.guards = [part for g in self.guards for part in conjuncts(rewritten(g))]
        if self.demand is not None:
            taken = tuple(rewritten(index) for index in self.demand.indices)
            self.demand = Demanded(self.demand.mask, taken)


def bounded(domain: Domain) -> sym.Analyzer:
    """Analyzer that knows the range of every variable."""
    analyzer = sym.Analyzer()
    for var, (low, extent) in domain.items():
        dtype = var.ty.dtype
        analyzer.bind(
            var,
            tvm.ir.Range.from_min_extent(tirx.IntImm(dtype, low), tirx.IntImm(dtype, extent)),
        )
    return analyzer


def _holds(condition: Any, env: dict[Any, Any]) -> Any:
    if isinstance(condition, Demanded):
        at = np.broadcast_arrays(*(evaluate(index, env) for index in condition.indices))
        # Points that another condition leaves out may lie outside: a tile past the last element.
        inside = np.True_
        for index, extent in zip(at, condition.mask.shape, strict=True):
            inside = inside & (index >= 0) & (index < extent)
        clipped = (np.clip(i, 0, n - 1) for i, n in zip(at, condition.mask.shape, strict=True))
        return condition.mask[tuple(clipped)] & inside
    return evaluate(condition, env)


def _looked_up(
    table: np.ndarray, used: list[Any], env: dict[Any, Any], domain: Domain
) -> np.ndarray:
    """Values of a table over some variables, on the grid."""
    if not used:
        return table
    return table[tuple(env[var] - domain[var][0] for var in used)]


def _chunks(names: list[Any], domain: Domain, points: int) -> list[Domain]:
    """Split the domain along its longest variable until a part is small enough."""
    if points <= _CHUNK or not names:
        return [domain]
    longest = max(names, key=lambda var: domain[var][1])
    low, extent = domain[longest]
    step = max(1, extent * _CHUNK // points)
    parts = []
    for start in range(low, low + extent, step):
        size = min(step, low + extent - start)
        part = {**domain, longest: (start, size)}
        parts += _chunks(names, part, points // extent * size) if size == 1 else [part]
    return parts
