"""Evaluating index expressions and proving that two are the same."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx
from tvm.ir import Range

from smartmem_tvm.analysis.index_maps import evaluate, prove_same
from smartmem_tvm.errors import SmartMemError


def make_domain(**extents):
    zero = tirx.const(0, "int64")
    return {
        tirx.Var(name, "int64"): Range.from_min_extent(
            zero, tirx.const(extent, "int64") if isinstance(extent, int) else extent
        )
        for name, extent in extents.items()
    }


# ---- evaluation -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda i: i // 3, lambda i: i // 3),
        (lambda i: i % 3, lambda i: i % 3),
        (lambda i: tirx.truncdiv(i, 3), lambda i: int(i / 3)),
        (lambda i: tirx.truncmod(i, 3), lambda i: i - int(i / 3) * 3),
        (lambda i: tirx.max(i, 2) - tirx.min(i * 2, 4), lambda i: max(i, 2) - min(i * 2, 4)),
        (lambda i: tirx.Select(i < 0, -i, i), abs),
        (lambda i: tirx.if_then_else(tirx.all(i >= 0, i != 2), i, 9),
         lambda i: i if i >= 0 and i != 2 else 9),
        (lambda i: tirx.Cast("int32", tirx.any(i < -2, i > 2)), lambda i: int(abs(i) > 2)),
        (lambda i: tirx.Cast("int32", tirx.Not(i == 1)), lambda i: int(i != 1)),
        (lambda i: (i << 2) + (i >> 1) + (i & 3), lambda i: (i << 2) + (i >> 1) + (i & 3)),
    ],
)  # fmt: skip
def test_evaluate(make, expected):
    i = tirx.Var("i", "int64")
    points = np.arange(-7, 8)
    found = evaluate(make(i), {i: points})
    assert found.tolist() == [expected(int(point)) for point in points]


def test_evaluate_guards_its_branches():
    i = tirx.Var("i", "int64")
    table = tirx.decl_buffer((4,), "int64", "table")
    content = np.array([5, 6, 7, 8])
    value = tirx.if_then_else(i < 4, table[i], tirx.const(0, "int64"))
    read = evaluate(value, {i: np.arange(6)}, lambda _, indices: content[indices[0]])
    assert read.tolist() == [5, 6, 7, 8, 0, 0]


def test_evaluate_refuses_what_it_cannot():
    i = tirx.Var("i", "int64")
    with pytest.raises(SmartMemError, match="no value for variable 'i'"):
        evaluate(i + 1, {})
    with pytest.raises(SmartMemError, match="cannot evaluate"):
        evaluate(tirx.exp(tirx.Cast("float32", i)), {i: np.arange(3)})


# ---- proofs ---------------------------------------------------------------------------------


def test_small_domain_is_enumerated():
    domain = make_domain(i=64, j=7)
    i, j = domain
    proof = prove_same((i * 7 + j) // 7, i, domain)
    assert (proof.holds, proof.method, proof.points) == (True, "exhaustive", 448)
    wrong = prove_same([(i * 7 + j) // 8], [i], domain)
    assert not wrong.holds
    point = wrong.counterexample
    assert (point["i"] * 7 + point["j"]) // 8 != point["i"]


def test_same_expression_needs_no_points():
    domain = make_domain(i=64)
    (i,) = domain
    assert prove_same(i // 3, i // 3, domain).method == "identical"
    assert not prove_same([i], [i, i], domain).holds


def test_large_domain_is_proved_and_sampled():
    domain = make_domain(i=4096, j=7)
    large = make_domain(i=4096, j=256)
    i, j = domain
    assert prove_same((i * 7 + j) % 7, j, domain).method == "exhaustive"
    i, j = large
    proof = prove_same((i * 256 + j) // 256, i, large)
    assert proof.method == "prover and samples"
    assert proof.proved
    assert proof.points >= 4096
    # Differs in one corner of a million points.
    wrong = prove_same(i + (i * 256 + j) // (4096 * 256 - 1), i, large)
    assert wrong.counterexample == {"i": 4095, "j": 255}


def test_symbols_take_several_values():
    n = tirx.Var("n", "int64")
    domain = make_domain(i=n, j=4)
    i, j = domain
    proof = prove_same((i * 4 + j) // 4 % n, i, domain)
    assert proof.proved
    assert "samples" in proof.method
    # Right for one value of n only.
    assert not prove_same(i % 2, i, domain).holds


def test_declared_bounds_are_kept():
    n = tirx.Var("n", "int64")
    domain = {
        n: Range.from_min_extent(tirx.const(2, "int64"), tirx.const(3, "int64")),
        **make_domain(i=n),
    }
    i = list(domain)[1]
    assert prove_same(i % 4, i, domain).holds
    assert prove_same(i % 3, i, domain).counterexample == {"n": 4, "i": 3}


def test_predicate_leaves_points_out():
    domain = make_domain(i=8)
    (i,) = domain
    assert prove_same(i % 4, i, domain, i < 4).holds
    assert not prove_same(i % 4, i, domain, i < 5).holds


def test_loads_are_compared_by_element():
    domain = make_domain(i=8, j=3)
    i, j = domain
    x, y = (tirx.decl_buffer((8, 3), "float32", name) for name in "xy")
    assert prove_same(x[i % 8, j], x[i, j % 3], domain).holds
    assert not prove_same(x[i, j], y[i, j], domain).holds
    assert not prove_same(x[i, j], x[i, 2 - j], domain).holds
    assert not prove_same(
        x[i, j], tirx.Cast("float32", tirx.Cast("float16", y[i, j])), domain
    ).holds
    # An element outside of the tensor is equal to nothing.
    assert not prove_same(x[i + 1 - 1, j], x[i + 1, j], domain).holds
    assert prove_same(tirx.exp(x[i % 8, j]), tirx.exp(x[i, j]), domain).holds
    assert not prove_same(tirx.exp(x[i, j]), tirx.log(x[i, j]), domain).holds


def test_elements_have_no_bits():
    """Bitwise operators on elements are some function of them."""
    domain = make_domain(i=8)
    (i,) = domain
    x = tirx.decl_buffer((8,), "uint8", "x")
    shifted = tirx.LShift(x[i % 8], x[i])
    assert prove_same(shifted, tirx.LShift(x[i], x[i]), domain).holds
    assert not prove_same(shifted, tirx.RShift(x[i], x[i]), domain).holds
    assert not prove_same(shifted, tirx.LShift(x[i], x[7 - i]), domain).holds


def test_branch_that_no_point_takes():
    domain = make_domain(i=8)
    (i,) = domain
    x = tirx.decl_buffer((8,), "float32", "x")
    never = tirx.Select(i < 0, x[i + 9], x[i % 8])
    assert prove_same(never, x[i], domain).holds
