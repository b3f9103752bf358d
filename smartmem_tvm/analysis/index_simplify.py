"""Simplifying index maps: the fewest divisions and remainders that the iterators' bounds allow.

::

    [(i*128 + k*16 + j*4 + l) // 1024, (i*128 + k*16 + j*4 + l) // 4 % 256, … % 4]
      →  [i // 8, i % 8 * 32 + k*4 + j, l]          i < 16, j < 4, k < 8, l < 4

Every expression is brought to one normal form by the rules of :mod:`.index_rules`, so that equal
maps become equal expressions. TVM's analyser alone leaves divisions of sums whose terms share a
factor with the divisor, and most divisions by symbols; where the normal form still divides, the
analyser tries it as well, and the form with fewer divisions wins.

TVM's ``iter_map_simplify`` is not used: asked for a bijective map, it takes ``(i + 3) % 6`` over
[0, 6) for ``i``, and so does ``detect_iter_map``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import sym, tirx
from tvm_ffi import structural_walk

from .expressions import loads_of, substitute
from .index_conditions import is_index_type, simplify_expression
from .index_proof import prove_same
from .index_reading import dtype_of
from .index_space import IndexSpace

DIVISIONS = (tirx.FloorDiv, tirx.Div)
REMAINDERS = (tirx.FloorMod, tirx.Mod)
# At most so many points of a result are compared with what was given.
CHECKED_POINTS = 2_048
# Bounds beyond are no extents: the analyser knows none.
MOST_EXTENT = 2**31


@dataclass(frozen=True)
class DivisionCount:
    """Divisions and remainders of expressions as they are written.

    Attributes
    ----------
    divisions, modulos
        All of them.
    shifts, masks
        Those of them by a constant power of two, which a compiler makes shifts and masks.
    """

    divisions: int = 0
    modulos: int = 0
    shifts: int = 0
    masks: int = 0

    @property
    def total(self) -> int:
        """Divisions and remainders."""
        return self.divisions + self.modulos

    def __add__(self, other: DivisionCount) -> DivisionCount:
        return DivisionCount(
            self.divisions + other.divisions,
            self.modulos + other.modulos,
            self.shifts + other.shifts,
            self.masks + other.masks,
        )


def count_divisions(*exprs: Any) -> DivisionCount:
    """Divisions and remainders in expressions (or lists of them), those of integers only."""
    divisions: list[Any] = []
    modulos: list[Any] = []

    def note(found: list[Any], expr: Any) -> None:
        if dtype_of(expr).startswith(("int", "uint")):
            found.append(expr)

    structural_walk(
        list(exprs),
        [
            (DIVISIONS, lambda expr: note(divisions, expr)),
            (REMAINDERS, lambda expr: note(modulos, expr)),
        ],
    )
    return DivisionCount(
        len(divisions),
        len(modulos),
        sum(map(_by_power_of_two, divisions)),
        sum(map(_by_power_of_two, modulos)),
    )


def _by_power_of_two(expr: Any) -> bool:
    divisor = expr.b
    return isinstance(divisor, tirx.IntImm) and divisor.value.bit_count() == 1


def simplify_indices(
    indices: Sequence[Any],
    domain: Mapping[Any, tvm.ir.Range],
    predicate: Any = None,
    *,
    check: bool = True,
) -> list[Any]:
    """Indices with the fewest divisions and remainders over the domain.

    Parameters
    ----------
    indices
        Expressions of the domain's variables; symbolic extents may occur.
    domain
        Range of each variable. A symbol with declared bounds may be in it as well.
    predicate
        What holds at every point that matters.
    check
        Whether the result is compared with what was given, at up to a few thousand points.
    """
    conditions = () if predicate is None else (predicate,)
    space = IndexSpace(domain, conditions)
    results = [_simplify(space, index) for index in indices]
    if check:
        _check_same(list(indices), results, domain, predicate)
    return results


def _check_same(
    before: list[Any], after: list[Any], domain: Mapping[Any, tvm.ir.Range], predicate: Any
) -> None:
    """Raise if the two differ at one of a few points: the rules have a defect then."""
    proof = prove_same(
        before,
        after,
        domain,
        predicate,
        exhaustive=CHECKED_POINTS,
        samples=CHECKED_POINTS // 2,
        use_prover=False,
    )
    if not proof.holds:
        raise RuntimeError(
            f"simplifying {before} to {after} changed it at {proof.counterexample}: a defect of "
            "the simplifier, or an element outside of its tensor is read"
        )


def _simplify(space: IndexSpace, index: Any) -> Any:
    if isinstance(index, tirx.IntImm):
        return index
    number = space.normalised(space.read(index))
    result = space.write(number, dtype_of(index))
    left = count_divisions(result).total
    if not left:
        return result
    other = _analyse(space, result)
    return other if count_divisions(other).total < left else result


def _analyse(space: IndexSpace, index: Any) -> Any:
    """The index as TVM's analyser simplifies it."""
    analyzer = tvm.sym.Analyzer()
    for var, rng in space.domain.items():
        analyzer.bind(var, rng)
    with ExitStack() as stack:
        for condition in space.conditions:
            stack.enter_context(analyzer.constraint_scope(condition))
        return analyzer.simplify(index)


def simplify_value(
    expr: Any,
    domain: Mapping[Any, tvm.ir.Range],
    predicate: Any = None,
    *,
    check: bool = True,
) -> Any:
    """Value with every load's indices and every condition simplified.

    A branch is simplified under the conditions that lead to it and dropped where they cannot hold;
    two branches that are the halves of a rotation become one load.
    """
    conditions = () if predicate is None else (predicate,)
    result = simplify_expression(IndexSpace(domain, conditions), expr)
    if check:
        _check_same([expr], [result], domain, predicate)
    return result


def simplify_divisions(expr: Any, analyzer: sym.Analyzer) -> Any:
    """Value that divides anywhere, simplified within the bounds that an analyzer knows."""
    if not count_divisions(expr).total:
        return expr
    found: list[Any] = []
    structural_walk(expr, (tvm.ir.Var, found.append))
    domain = {}
    for var in (v for v in found if isinstance(v.ty, tvm.ir.PrimType) and is_index_type(v)):
        bound = analyzer.const_int_bound(var)
        if bound.min_value == 0 and bound.max_value < MOST_EXTENT:
            extent = tirx.IntImm(dtype_of(var), bound.max_value + 1)
            domain[var] = tvm.ir.Range(tirx.IntImm(dtype_of(var), 0), extent)
    return simplify_value(expr, domain)


def compose(
    outer: Sequence[Any],
    variables: Sequence[Any],
    inner: Sequence[Any],
    domain: Mapping[Any, tvm.ir.Range],
) -> list[Any]:
    """Map ``outer(inner(…))``: the outer one's variables become the inner one's results.

    Parameters
    ----------
    outer
        Indices as expressions of `variables`.
    variables
        One for each expression of `inner`.
    inner
        Indices as expressions of the domain's variables.
    domain
        Range of each of the inner map's variables.
    """
    points = dict(zip(variables, inner, strict=True))
    return simplify_indices([substitute(index, points) for index in outer], domain)


def has_loads(exprs: Sequence[Any]) -> bool:
    """Whether an index reads memory: where it points is known at run time only."""
    return bool(loads_of(list(exprs)))
