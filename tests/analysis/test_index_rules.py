"""Every rule alone, at every point of many small domains."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from tvm import tirx
from tvm.ir import Range

from smartmem_tvm.analysis.index_evaluate import evaluate
from smartmem_tvm.analysis.index_proof import sample_points, symbol_values
from smartmem_tvm.analysis.index_rules import DIVISION_RULES, REMAINDER_RULES, SUM_RULES
from smartmem_tvm.analysis.index_space import IndexSpace
from smartmem_tvm.analysis.index_terms import Polynomial, atom_term, integer

# First value and extent of one iterator, extent of the other.
DOMAINS = ((0, 4, 3), (0, 8, 3), (-2, 6, 4))
MORE_DOMAINS = tuple(product((0, -2), (2, 3, 4, 6, 8), (1, 3, 4)))
SIZES = (1, 2, 3, 4, 12)


def make_space(*ranges) -> IndexSpace:
    domain = {}
    for number, (first, extent) in enumerate(ranges):
        domain[tirx.Var(f"i{number}", "int64")] = Range.from_min_extent(
            tirx.const(first, "int64"), tirx.const(extent, "int64")
        )
    return IndexSpace(domain)


def values(space: IndexSpace, number: Polynomial, columns) -> np.ndarray:
    return evaluate(space.write(number, "int64"), columns)


def terms(space: IndexSpace) -> list[Polynomial]:
    return [space.read(var) for var in space.domain]


def numbers(space: IndexSpace) -> Iterator[Polynomial]:
    """Sums with quotients and remainders, as they are before any rule."""
    i, j = terms(space)
    for one, two, constant in product((1, 2, 3, 4, -1, 8), (0, 1, -2, 6), (0, 1, -3, 7)):
        yield i.times(one) + j.times(two).plus(constant)
    for size in (2, 3, 4, 12):
        remainder = space.compound("floormod", i + j.times(2), integer(size))
        quotient = space.compound("floordiv", i + j.times(2), integer(size))
        wide = space.compound("floormod", i.times(5), integer(12))
        for scale, constant in product((1, 2, 3, -1), (0, 1, 4)):
            yield remainder.times(scale).plus(constant)
            yield quotient.times(scale).plus(constant)
            yield remainder.times(scale) + j.times(4).plus(constant)
            yield quotient.times(scale) + j
            yield wide.times(scale) + remainder
            inner = wide.times(scale).plus(constant)
            yield space.compound("floordiv", inner, integer(size))
            yield space.compound("floordiv", inner, integer(size)).times(2).plus(constant)


@pytest.mark.parametrize("rule", DIVISION_RULES + REMAINDER_RULES, ids=lambda rule: rule.__name__)
def test_division_rule(rule):
    check_division_rule(rule, DOMAINS)


@pytest.mark.slow
@pytest.mark.parametrize("rule", DIVISION_RULES + REMAINDER_RULES, ids=lambda rule: rule.__name__)
def test_division_rule_on_more_domains(rule):
    check_division_rule(rule, MORE_DOMAINS)


def check_division_rule(rule, domains):
    divide = np.floor_divide if rule in DIVISION_RULES else np.mod
    applied = 0
    for first, extent, other in domains:
        space = make_space((first, extent), (0, other))
        columns, _ = sample_points(space.domain, {})
        for number in numbers(space):
            for size in SIZES:
                result = rule(space, number, integer(size))
                if result is None:
                    continue
                applied += 1
                expected = divide(values(space, number, columns), size)
                found = values(space, result, columns)
                assert (found == expected).all(), (rule.__name__, number, size, first, extent)
    assert applied >= 20


def sums(space: IndexSpace) -> Iterator[Polynomial]:
    i, j = terms(space)
    for number, size, other in product((i, i + j.times(5), i.times(3).plus(2)), (2, 3, 4), (2, 3)):
        divisor = integer(size)
        quotient, remainder = space.floordiv(number, divisor), space.floormod(number, divisor)
        digit = space.floormod(quotient, integer(other))
        for scale in (1, 3, -2):
            yield (quotient.times(size) + remainder).times(scale) + j
            yield (digit.times(size) + remainder).times(scale).plus(3)
            yield (number - quotient.times(size)).times(scale) + i
            yield (quotient + remainder).times(scale)  # near miss
            yield (digit.times(size + 1) + remainder).times(scale)  # near miss


@pytest.mark.parametrize("rule", SUM_RULES, ids=lambda rule: rule.__name__)
def test_sum_rule(rule):
    applied = 0
    for first, extent, other in product((0, -2, 1), (5, 7, 12), (1, 3)):
        space = make_space((first, extent), (0, other))
        columns, _ = sample_points(space.domain, {})
        for number in sums(space):
            result = rule(space, number)
            if result is None:
                continue
            applied += 1
            assert (values(space, result, columns) == values(space, number, columns)).all()
            assert space.cost(result) < space.cost(number)
    assert applied >= 20


@pytest.mark.parametrize("rule", DIVISION_RULES + REMAINDER_RULES, ids=lambda rule: rule.__name__)
def test_division_rule_with_symbols(rule):
    """Divisors and extents that are symbols; each symbol takes several values."""
    divide = np.floor_divide if rule in DIVISION_RULES else np.mod
    n, i, j = (tirx.Var(name, "int64") for name in "nij")
    zero = tirx.const(0, "int64")
    domain = {i: Range.from_min_extent(zero, n), j: Range.from_min_extent(zero, n * 4)}
    space = IndexSpace(domain)
    size, one, two = (space.read(var) for var in (n, i, j))
    remainder = space.compound("floormod", one + two, size.times(2))
    quotient = space.compound("floordiv", two, size)
    for number, divisor in product(
        (one, two, one * size + two, two.times(3) + one, remainder, remainder.times(2) + one,
         quotient, quotient + one, one.plus(2), size * two.times(2) + one.plus(1),
         space.compound("floordiv", remainder + one, size)),
        (integer(1), integer(2), size, size.times(2), size.times(4), size.plus(1), size * size),
    ):  # fmt: skip
        result = rule(space, number, divisor)
        if result is None:
            continue
        for symbols in symbol_values(domain):
            columns, complete = sample_points(domain, symbols)
            assert complete
            expected = divide(values(space, number, columns), values(space, divisor, columns))
            assert (values(space, result, columns) == expected).all(), (number, divisor, symbols)


def test_polynomial_arithmetic():
    i, j = atom_term(0), atom_term(1)
    assert (i + j) * (i - j) == i * i - j * j
    assert (i - i).value == 0
    assert integer(0) == Polynomial({})
    assert i.times(2).plus(3).value is None
    assert hash(i + j) == hash(j + i)
