"""Which split of a loop leaves no division inside."""

from __future__ import annotations

import pytest
from tvm import tirx
from tvm.ir import Range

from smartmem_tvm.analysis.expressions import substitute
from smartmem_tvm.analysis.index_maps import affine_after_split, prove_same
from smartmem_tvm.analysis.index_split import divides


def make_loops(**extents):
    zero = tirx.const(0, "int64")
    return {
        tirx.Var(name, "int64"): Range.from_min_extent(zero, tirx.const(extent, "int64"))
        for name, extent in extents.items()
    }


@pytest.mark.parametrize(
    "make, factors",
    [
        (lambda i, j: [i * 9 + j], {}),
        (lambda i, j: [i // 8, i % 8], {"i": 8}),
        (lambda i, j: [i // 8 % 2, i % 4], {"i": 4}),
        (lambda i, j: [i * 9 // 18, j % 3], {"i": 2, "j": 3}),
        (lambda i, j: [(i * 9 + j) // 3], {"j": 3}),
        (lambda i, j: [i // 8 + j // 3], {"i": 8, "j": 3}),
        (lambda i, j: [(i + 3) % 64], None),  # a rotation
        (lambda i, j: [(i + j) // 4], None),
        (lambda i, j: [i // 7], None),  # 7 does not divide 64
    ],
)
def test_split(make, factors):
    loops = make_loops(i=64, j=9)
    indices = make(*loops)
    found = affine_after_split(indices, loops)
    if factors is None:
        assert found is None
        return
    assert {var.name: factor for var, factor in found.factors.items()} == factors
    points, domain = {}, {var: rng for var, rng in loops.items() if var not in found.factors}
    zero = tirx.const(0, "int64")
    for var, factor in found.factors.items():
        points[var] = found.outer[var] * factor + found.inner[var]
        count = loops[var].extent.value // factor
        domain[found.outer[var]] = Range.from_min_extent(zero, tirx.const(count, "int64"))
        domain[found.inner[var]] = Range.from_min_extent(zero, tirx.const(factor, "int64"))
        assert not divides(found.indices, found.inner[var])
    split = [substitute(index, points) for index in indices]
    assert prove_same(split, list(found.indices), domain).method in ("exhaustive", "identical")


def test_symbolic_loop_is_not_split():
    n = tirx.Var("n", "int64")
    i = tirx.Var("i", "int64")
    loops = {i: Range.from_min_extent(tirx.const(0, "int64"), n)}
    assert affine_after_split(i // 8, loops) is None
    assert affine_after_split(i * 8, loops).factors == {}
