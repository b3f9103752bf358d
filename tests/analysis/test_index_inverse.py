"""Inverses of index maps, and why others have none."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.ir import Range

from smartmem_tvm.analysis.index_maps import (
    Inverse,
    Refusal,
    count_divisions,
    evaluate,
    invert,
    prove_same,
    simplify_indices,
)
from smartmem_tvm.analysis.index_proof import sample_points


def make_axes(**extents):
    return [tirx.Var(name, "int64") for name in extents], list(extents.values())


def invert_map(make, shape, *, partial=False, **extents):
    axes, sizes = make_axes(**extents)
    indices = [tirx.const(i, "int64") if isinstance(i, int) else i for i in make(*axes)]
    found = invert(indices, axes, sizes, shape, partial=partial)
    if isinstance(found, Inverse):
        check_inverse(found, indices, axes, sizes, shape)
    return found


def check_inverse(inverse, indices, axes, extents, shape):
    """Put the map into its inverse at every point, and try the predicate at every element."""
    zero = tirx.const(0, "int64")
    sizes = [tirx.const(extent, "int64") for extent in extents]
    domain = dict(zip(axes, map(Range.from_min_extent, [zero] * len(axes), sizes), strict=True))
    points, complete = sample_points(domain, {})
    assert complete
    elements = [evaluate(index, points) for index in indices]
    named = dict(zip(inverse.variables, elements, strict=True))
    for axis, value in zip(axes, inverse.axes, strict=True):
        assert (evaluate(value, named) == points[axis]).all(), (axis, value)
    reached = np.zeros(shape, dtype=bool)
    reached[tuple(elements)] = True
    grid = [place.ravel() for place in np.indices(shape)]
    every = dict(zip(inverse.variables, grid, strict=True))
    if inverse.predicate is None:
        assert reached.all()
    else:
        assert (evaluate(inverse.predicate, every) == reached.ravel()).all()


@pytest.mark.parametrize(
    "make, shape, extents",
    [
        (lambda i, j: [i, j], (8, 3), {"i": 8, "j": 3}),
        (lambda i, j: [j, i], (3, 8), {"i": 8, "j": 3}),
        (lambda i: [i // 2, i % 2], (4, 2), {"i": 8}),
        (lambda i: [i % 2, i // 2], (2, 4), {"i": 8}),
        (lambda i: [i // 4 % 2, i % 4, i // 8], (2, 4, 3), {"i": 24}),
        (lambda i, j: [i * 3 + j], (24,), {"i": 8, "j": 3}),
        (lambda i, j: [(i * 3 + j) // 4, (i * 3 + j) % 4], (6, 4), {"i": 8, "j": 3}),
        (lambda i: [(i + 3) % 8], (8,), {"i": 8}),
        (lambda i: [7 - i], (8,), {"i": 8}),
        (lambda i, j: [23 - i * 3 - j], (24,), {"i": 8, "j": 3}),
        (lambda i, j: [j, 0, i], (3, 1, 8), {"i": 8, "j": 3}),
        (lambda i, one, j: [i, j + one], (8, 3), {"i": 8, "one": 1, "j": 3}),
        # A window partition that was rolled, as one map.
        (
            lambda w, i, j: [(w // 2 * 3 + i + 2) % 6, (w % 2 * 3 + j + 2) % 6],
            (6, 6),
            {"w": 4, "i": 3, "j": 3},
        ),
        # A pixel shuffle.
        (
            lambda c, h, w: [c * 4 + h % 2 * 2 + w % 2, h // 2, w // 2],
            (12, 2, 3),
            {"c": 3, "h": 4, "w": 6},
        ),
    ],
)
def test_bijective_map(make, shape, extents):
    found = invert_map(make, shape, **extents)
    assert isinstance(found, Inverse), found
    assert found.is_bijective


def test_inverse_of_figure_3():
    found = invert_map(
        lambda i, j, k, m: [i // 8, i % 8 * 32 + k * 4 + j, m], (2, 256, 4), i=16, j=4, k=8, m=4
    )
    assert list(map(str, found.axes)) == [
        "x0 * T.int64(8) + x1 // T.int64(32)",
        "x1 % T.int64(4)",
        "x1 // T.int64(4) % T.int64(8)",
        "x2",
    ]
    assert count_divisions(*found.axes).total == 4


@pytest.mark.parametrize(
    "make, shape, extents, reason",
    [
        (lambda i, j: [i], (8,), {"i": 8, "j": 3}, "axis j of extent 3 does not appear"),
        (lambda i: [i // 2], (4,), {"i": 8}, "8 points share 4 elements"),
        (lambda i: [i + 3], (24,), {"i": 12}, "covers 12 of 24 elements"),
        (lambda i: [i * 2], (16,), {"i": 8}, "covers 8 of 16 elements"),
        (lambda i, j: [i + j, j], (10, 3), {"i": 8, "j": 3}, "covers 24 of 30 elements"),
        (lambda i: [i + 3], (8,), {"i": 8}, "index 0, .* is not proved to stay inside"),
        (lambda i: [i // 2 * 2], (8,), {"i": 8}, "8 points name 4 elements: .* twice"),
    ],
)
def test_refusal(make, shape, extents, reason):
    import re

    found = invert_map(make, shape, **extents)
    assert isinstance(found, Refusal)
    assert re.search(reason, found.reason.replace("T.int64(3)", "3")), found.reason


def test_runtime_index_is_refused():
    (i,), _ = make_axes(i=8)
    table = tirx.decl_buffer((8,), "int64", "table")
    found = invert([table[i]], [i], [8], [8])
    assert found == Refusal("an index is read from memory")


@pytest.mark.parametrize(
    "make, shape, extents, predicate",
    [
        (lambda i: [i + 3], (24,), {"i": 8}, "T.int64(3) <= x0 and x0 < T.int64(11)"),
        (lambda i: [i], (24,), {"i": 8}, "x0 < T.int64(8)"),
        (
            lambda i: [i * 2],
            (16,),
            {"i": 8},
            "x0 % T.int64(2) == T.int64(0)",
        ),
        (lambda i: [i * 2 + 1], (24,), {"i": 8}, None),
        (lambda i, j: [i, j + 2], (8, 7), {"i": 8, "j": 3}, None),
        (lambda i, j: [i * 5 + j + 2], (50,), {"i": 8, "j": 3}, None),
        (lambda i: [i // 2, i], (4, 8), {"i": 8}, None),
        (lambda i: [11 - i], (24,), {"i": 8}, None),
    ],
)
def test_partial_map(make, shape, extents, predicate):
    found = invert_map(make, shape, partial=True, **extents)
    assert isinstance(found, Inverse), found
    assert not found.is_bijective
    assert predicate is None or str(found.predicate) == predicate


def test_condition_on_the_axes():
    """A part of a concat: rows 4 to 12 of the result are all of a tensor of 8 rows."""
    i, j = (tirx.Var(name, "int64") for name in "ij")
    inside = tirx.all(i >= 4, i < 12)
    whole = invert([i - 4, j], [i, j], [16, 3], [8, 3], predicate=inside)
    assert whole.is_bijective
    assert list(map(str, whole.axes)) == ["x0 + T.int64(4)", "x1"]
    part = invert([i - 4, j], [i, j], [16, 3], [9, 3], predicate=inside)
    assert part == Refusal("reaches only elements for which x0 < T.int64(8)")
    part = invert([i - 4, j], [i, j], [16, 3], [9, 3], predicate=inside, partial=True)
    assert str(part.predicate) == "x0 < T.int64(8)"
    assert "is not proved to stay inside" in invert([i - 4, j], [i, j], [16, 3], [8, 3]).reason


def test_condition_may_make_a_map_one_to_one():
    (i,) = make_axes(i=16)[0]
    assert isinstance(invert([i % 8], [i], [16], [8]), Refusal)
    upper = invert([i % 8], [i], [16], [8], predicate=i >= 8)
    assert str(upper.axes[0]) == "x0 + T.int64(8)"
    assert upper.is_bijective


def test_symbolic_extents():
    n = tirx.Var("n", "int64")
    b, t, h, c = (tirx.Var(name, "int64") for name in "bthc")
    merged = invert([b * 196 + t, h * 64 + c], [b, t, h, c], [n, 196, 12, 64], [n * 196, 768])
    assert list(map(str, merged.axes)) == [
        "x0 // T.int64(196)",
        "x0 % T.int64(196)",
        "x1 // T.int64(64)",
        "x1 % T.int64(64)",
    ]
    heads = invert([h * n + t, c], [h, t, c], [12, n, 64], [n * 12, 64])
    assert list(map(str, heads.axes)) == ["x0 // n", "x0 % n", "x1"]
    short = invert([t, c], [t, c], [n, 64], [n * 2, 64])
    assert isinstance(short, Refusal)
    assert "elements" in short.reason


def test_agrees_with_the_inverse_of_tvm():
    """Where TVM's inverse_affine_iter_map has an answer, ours is the same map."""
    extents = {"i": 4, "j": 6, "k": 2}
    compared = 0
    for order in permutations(range(3)):
        axes, sizes = make_axes(**extents)
        domain = {
            axis: Range.from_min_extent(tirx.const(0, "int64"), tirx.const(size, "int64"))
            for axis, size in zip(axes, sizes, strict=True)
        }
        flat = tirx.const(0, "int64")
        for place in order:
            flat = flat * sizes[place] + axes[place]
        for shape in ((48,), (8, 6), (4, 12), (2, 4, 6)):
            indices, rest = [], flat
            for extent in reversed(shape):
                indices.insert(0, rest % extent)
                rest = rest // extent
            detected = tvm.sym.detect_iter_map(indices, domain, True, "bijective")
            assert len(detected.indices) == len(shape)
            ours = invert(indices, axes, sizes, shape)
            theirs = tvm.sym.inverse_affine_iter_map(detected.indices, list(ours.variables))
            image = {
                var: Range.from_min_extent(tirx.const(0, "int64"), tirx.const(size, "int64"))
                for var, size in zip(ours.variables, shape, strict=True)
            }
            other = [theirs[axis] for axis in axes]
            assert prove_same(list(ours.axes), other, image).method in ("exhaustive", "identical")
            simple = simplify_indices(other, image)
            assert count_divisions(*ours.axes).total <= count_divisions(*simple).total
            compared += 1
    assert compared == 24
