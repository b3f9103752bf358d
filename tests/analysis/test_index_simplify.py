"""Simplified indices, conditions and values, as they should read."""

from __future__ import annotations

import time

import pytest
import tvm
from tvm import tirx
from tvm.ir import Range
from tvm_ffi import structural_equal

from smartmem_tvm.analysis.expressions import substitute
from smartmem_tvm.analysis.index_maps import (
    compose,
    count_divisions,
    prove_same,
    simplify_divisions,
    simplify_indices,
    simplify_value,
)


def make_domain(dtype="int64", **extents):
    zero = tirx.const(0, dtype)
    return {
        tirx.Var(name, dtype): Range.from_min_extent(
            zero, tirx.const(extent, dtype) if isinstance(extent, int) else extent
        )
        for name, extent in extents.items()
    }


def assert_simplified(index, domain, expected, predicate=None):
    (found,) = simplify_indices([index], domain, predicate)
    expected = tirx.const(expected, "int64") if isinstance(expected, int) else expected
    assert structural_equal(found, expected), f"{found}, not {expected}"
    assert prove_same(index, found, domain, predicate).holds


def test_figure_3_of_the_paper():
    """[2, 256, 4] → reshape [16, 8, 4, 4] → transpose [16, 4, 8, 4]."""
    domain = make_domain(i=16, j=4, k=8, l=4)
    i, j, k, l = domain  # noqa: E741
    a, b, c, d = (tirx.Var(name, "int64") for name in "abcd")
    flat = ((a * 8 + b) * 4 + c) * 4 + d
    reshape = [flat // 1024, flat // 4 % 256, flat % 4]
    found = compose(reshape, [a, b, c, d], [i, k, j, l], domain)
    assert list(map(str, found)) == [
        "i // T.int64(8)",
        "i % T.int64(8) * T.int64(32) + k * T.int64(4) + j",
        "l",
    ]
    counted = count_divisions(*found)
    assert (counted.divisions, counted.modulos) == (1, 1)
    assert (counted.shifts, counted.masks) == (1, 1)
    raw = ((i * 8 + k) * 4 + j) * 4 + l
    before = [raw // 1024, raw // 4 % 256, raw % 4]
    assert count_divisions(*before).total == 4
    assert prove_same(before, found, domain).method == "exhaustive"


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda i, j: i, lambda i, j: i),
        (lambda i, j: i // 24, lambda i, j: 0),
        (lambda i, j: i % 24, lambda i, j: i),
        (lambda i, j: i % 12 % 4, lambda i, j: i % 4),
        (lambda i, j: i % 4 % 12, lambda i, j: i % 4),
        (lambda i, j: i // 2 // 3, lambda i, j: i // 6),
        (lambda i, j: i // 8 * 8 + i % 8, lambda i, j: i),
        (lambda i, j: i // 12 * 12 + i // 4 % 3 * 4 + i % 4, lambda i, j: i),
        (lambda i, j: i // 3 % 4 * 3 + i % 3, lambda i, j: i % 12),
        (lambda i, j: i - i // 4 * 4, lambda i, j: i % 4),
        (lambda i, j: (i * 7 + j) // 7, lambda i, j: i),
        (lambda i, j: (i * 7 + j) % 7, lambda i, j: j),
        (lambda i, j: (j * 24 + i) // 12, lambda i, j: j * 2 + i // 12),
        (lambda i, j: (j * 24 + i + 48) % 24, lambda i, j: i),
        (lambda i, j: (i * 8 + j) // 64, lambda i, j: i // 8),
        (lambda i, j: (i * 8 + j) // 4 % 4, lambda i, j: i % 2 * 2 + j // 4),
        (lambda i, j: (i % 12) // 4, lambda i, j: i // 4 % 3),
        (lambda i, j: (i - 24) // 24, lambda i, j: -1),
        (lambda i, j: (i - 3) % 24, lambda i, j: (i + 21) % 24),
        (lambda i, j: tirx.max(i, 0), lambda i, j: i),
        (lambda i, j: tirx.min(i, 23) + tirx.max(j - 7, 0), lambda i, j: i),
        (lambda i, j: tirx.min(i * 6, j * 3 + 9) // 3, lambda i, j: tirx.min(i * 2, j + 3)),
        (lambda i, j: tirx.max(i * 4, 20 - j * 8) % 4, lambda i, j: 0),
        (lambda i, j: tirx.truncdiv(i, 24) + tirx.truncmod(j, 7), lambda i, j: j),
        (lambda i, j: tirx.Select(i < 24, j, i), lambda i, j: j),
        (lambda i, j: tirx.if_then_else(i >= 24, j, i), lambda i, j: i),
    ],
)
def test_index(make, expected):
    domain = make_domain(i=24, j=7)
    assert_simplified(make(*domain), domain, expected(*domain))


def test_power_of_two_divisions_are_counted_apart():
    (i,) = make_domain(i=24)
    counted = count_divisions(i // 4, i // 3, i % 8, i % 5 % 3)
    assert (counted.divisions, counted.modulos, counted.total) == (2, 3, 5)
    assert (counted.shifts, counted.masks) == (1, 1)
    assert count_divisions(tirx.Var("x", "float32") / 2).total == 0


def test_predicate_narrows_the_bounds():
    domain = make_domain(i=24, j=7)
    i, j = domain
    assert_simplified(i // 8, domain, 1, tirx.all(i >= 8, i < 16))
    assert_simplified((i + j) // 12, domain, 0, i + j < 12)
    assert not structural_equal(simplify_indices([i // 8], domain)[0], tirx.const(1, "int64"))


def test_symbolic_extents():
    n, s = tirx.Var("n", "int64"), tirx.Var("s", "int64")
    domain = make_domain(b=n, t=s, h=12, c=64)
    b, t, h, c = domain
    flat = ((b * s + t) * 12 + h) * 64 + c
    indices = [flat // (s * 768) % n, flat // 768 % s, flat % 768 // 64, flat % 64]
    found = simplify_indices(indices, domain)
    assert list(map(str, found)) == ["b", "t", "h", "c"]
    transposed = [((h * s + t) * 64 + c) // 64 % s, ((h * s + t) * 64 + c) // (64 * s)]
    assert list(map(str, simplify_indices(transposed, domain))) == ["t", "h"]


def test_symbol_with_declared_bounds():
    n = tirx.Var("n", "int64")
    domain = {
        n: Range.from_min_extent(tirx.const(1, "int64"), tirx.const(8, "int64")),
        **make_domain(b=n, c=4),
    }
    _, b, c = domain
    assert_simplified((b * 4 + c) // 32, domain, 0)
    assert_simplified((b * 4 + c) // 4 % n, domain, b)


def test_32_bit_indices_stay_so():
    domain = make_domain("int32", i=24)
    (i,) = domain
    (found,) = simplify_indices([tirx.Cast("int64", i) // 24 + tirx.Cast("int64", i) % 24], domain)
    assert str(found.ty.dtype) == "int64"
    assert str(simplify_indices([i // 8 * 8 + i % 8], domain)[0].ty.dtype) == "int32"


def test_runtime_index_is_opaque():
    domain = make_domain(i=24, j=7)
    i, j = domain
    table = tirx.decl_buffer((24,), "int64", "table")
    (found,) = simplify_indices([(table[i % 24] * 7 + j) // 7], domain)
    assert structural_equal(found, table[i])


# ---- conditions and values ------------------------------------------------------------------


@pytest.fixture
def tensors():
    return (
        tirx.decl_buffer((8, 24), "float32", "X"),
        tirx.decl_buffer((8, 24), "float32", "Y"),
    )


ZERO = tirx.const(0.0, "float32")


def assert_value(value, domain, expected):
    found = simplify_value(value, domain)
    assert structural_equal(found, expected), f"{found}, not {expected}"
    assert prove_same(value, found, domain).holds


def test_indices_under_their_branch(tensors):
    x, y = tensors
    domain = make_domain(i=16, j=24)
    i, j = domain
    value = tirx.if_then_else(i < 8, x[i % 8, j], y[i % 8, j % 24])
    assert_value(value, domain, tirx.if_then_else(i < 8, x[i, j], y[i - 8, j]))


def test_dead_branches_are_dropped(tensors):
    x, y = tensors
    domain = make_domain(i=8, j=24)
    i, j = domain
    assert_value(tirx.if_then_else(tirx.all(i >= 0, j // 8 < 3), x[i, j], ZERO), domain, x[i, j])
    assert_value(tirx.Select(i * 24 + j >= 192, x[i, j], y[i, j]), domain, y[i, j])
    nested = tirx.if_then_else(i < 4, tirx.if_then_else(i < 6, x[i, j], ZERO), y[i, j])
    assert_value(nested, domain, tirx.if_then_else(i < 4, x[i, j], y[i, j]))


def test_conditions_lose_divisions(tensors):
    x, _ = tensors
    domain = make_domain(i=8, j=24)
    i, j = domain
    for condition, expected in [
        (i * 24 + j < 96, i < 4),
        (tirx.all(1 <= (i * 2 + 3) // 2, (i * 2 + 3) // 2 < 5), i < 4),
        (tirx.all(i >= 2, i >= 5), 5 <= i),
        (j // 3 >= 2, 6 <= j),
        (j // 3 * 3 == j, j % 3 == tirx.const(0, "int64")),
        (tirx.Not(i < 4), 4 <= i),
    ]:
        if isinstance(expected, tirx.GE):  # how Python turns `6 <= j` round
            expected = tirx.LE(expected.b, expected.a)
        assert_value(
            tirx.if_then_else(condition, x[i, j], ZERO),
            domain,
            tirx.if_then_else(expected, x[i, j], ZERO),
        )


def test_iter_maps_of_tvm_lose_rotations():
    """Why they are not used: fails once upstream is mended."""
    domain = make_domain(i=6)
    (i,) = domain
    (theirs,) = tvm.sym.iter_map_simplify([(i + 3) % 6], domain, True, "bijective")
    assert not prove_same((i + 3) % 6, theirs, domain).holds
    (ours,) = simplify_indices([(i + 3) % 6], domain)
    assert prove_same((i + 3) % 6, ours, domain).holds


def test_rotation_becomes_one_load(tensors):
    x, y = tensors
    domain = make_domain(i=8, j=24)
    i, j = domain
    roll = tirx.if_then_else(i < 5, x[i + 3, j], x[i - 5, j])
    assert_value(roll, domain, x[(i + 3) % 8, j])
    both = tirx.if_then_else(
        i < 5,
        tirx.if_then_else(j < 20, x[i + 3, j + 4], x[i + 3, j - 20]),
        tirx.if_then_else(j < 20, x[i - 5, j + 4], x[i - 5, j - 20]),
    )
    assert_value(both, domain, x[(i + 3) % 8, (j + 4) % 24])
    # Not rotations: another tensor, and a shift that is not by the extent.
    for value in (
        tirx.if_then_else(i < 5, x[i + 3, j], y[i - 5, j]),
        tirx.if_then_else(i < 5, x[i + 3, j], x[i - 4, j]),
        tirx.if_then_else(i < 5, x[i + 3, j], x[i - 5, 23 - j]),
    ):
        assert isinstance(simplify_value(value, domain), tvm.ir.Call)


def test_rotation_behind_another_map(tensors):
    """A window reverse, then a roll of rows and columns by slices and concat."""
    windows = tirx.decl_buffer((4, 4, 4), "float32", "windows")
    domain = make_domain(i=8, j=8)
    i, j = domain

    def reversed_windows(row, column):
        return windows[row // 4 * 2 + column // 4, row % 4, column % 4]

    def roll_columns(row):
        return tirx.if_then_else(j >= 2, reversed_windows(row, j - 2), reversed_windows(row, j + 6))

    value = tirx.if_then_else(i < 2, roll_columns(i + 6), roll_columns(i - 2))
    expected = windows[(i + 6) // 4 % 2 * 2 + (j + 6) // 4 % 2, (i + 2) % 4, (j + 2) % 4]
    assert_value(value, domain, expected)
    # The same where rows and columns are one axis.
    flat = make_domain(k=64)
    (k,) = flat
    found = simplify_value(substitute(value, {i: k // 8, j: k % 8}), flat)
    assert count_divisions(found).total <= 8
    assert not isinstance(found, tvm.ir.Call), found


def test_threshold_beside_the_rotation(tensors):
    """Off by one at the edge: the halves do not fit together."""
    x, _ = tensors
    domain = make_domain(i=8, j=24)
    i, j = domain
    for condition, shift in ((i < 4, 3), (i <= 5, 3), (i >= 6, 3)):
        value = tirx.if_then_else(condition, x[i + shift - 3, j], x[i // 2, j])
        found = simplify_value(value, domain)
        assert isinstance(found, tvm.ir.Call)


def test_long_concatenation_takes_linear_time(tensors):
    """Eighteen pieces of one tensor, in reverse: no two are halves of a rotation."""
    x, _ = tensors
    domain = make_domain(i=18, j=24)
    i, j = domain
    value = x[7, j]
    for piece in range(17):
        value = tirx.if_then_else(i >= piece + 1, value, x[(piece * 5) % 7, (j + piece) % 24])
    start = time.perf_counter()
    simplify_value(value, domain)
    assert time.perf_counter() - start < 20


def test_data_arithmetic_stays(tensors):
    x, _ = tensors
    domain = make_domain(i=8, j=24)
    i, j = domain
    value = (x[i // 1, j] + ZERO) * tirx.exp(x[i, j % 24])
    assert_value(value, domain, (x[i, j] + ZERO) * tirx.exp(x[i, j]))


def test_comparison_of_data_stays():
    domain = make_domain(i=8)
    (i,) = domain
    table = tirx.decl_buffer((8,), "int64", "table")
    value = tirx.if_then_else(table[i % 8] < 0, table[i] + 24, table[i])
    assert_value(value, domain, tirx.if_then_else(table[i] < 0, table[i] + 24, table[i]))


def test_defect_of_the_simplifier_is_found(monkeypatch):
    from smartmem_tvm.analysis import index_simplify

    domain = make_domain(i=24)
    (i,) = domain
    monkeypatch.setattr(index_simplify, "_simplify", lambda space, index: index + 1)
    with pytest.raises(RuntimeError, match="changed it at"):
        simplify_indices([i], domain)


def test_conditions_compared_as_numbers():
    """Choices under such conditions, one inside of the other, as importers write them."""
    i = tirx.Var("i", "int64")
    x = tirx.decl_buffer((8,), "int32", "x")
    within = tirx.And(x[i] < tirx.const(32, "int32"), x[i] >= tirx.const(0, "int32"))
    condition = tirx.Cast("int8", within) != tirx.const(0, "int8")
    inner = tirx.Select(condition, x[i], tirx.const(0, "int32"))
    choice = tirx.Select(condition, tirx.LShift(x[i], inner), tirx.const(0, "int32"))
    made = simplify_value(choice, {i: Range(0, 8)})
    assert prove_same(made, choice, {i: Range(0, 8)}).holds


def test_divisions_within_the_bounds_that_an_analyser_knows():
    """What all four channels of a texel read: TVM's analyser leaves the division as it is."""
    group, item, lane = (tirx.Var(name, "int64") for name in ("group", "item", "lane"))
    analyzer = tvm.sym.Analyzer()
    for var, extent in ((group, 18), (item, 8), (lane, 4)):
        zero, last = (tirx.IntImm("int64", n) for n in (0, extent))
        analyzer.bind(var, Range(zero, last))
    index = (group * 32 + item * 4 + lane) // 24
    assert structural_equal(analyzer.simplify(index), index)
    assert structural_equal(simplify_divisions(index, analyzer), (group * 8 + item) // 6)
    plain = group + item
    assert simplify_divisions(plain, analyzer).same_as(plain)
