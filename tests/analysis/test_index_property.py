"""Random chains of relayouts and selections: simplified and inverted maps, point by point."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.ir import Range
from tvm.ir.expr import TensorLoad

from smartmem_tvm.analysis.expressions import substitute
from smartmem_tvm.analysis.index_maps import (
    Inverse,
    affine_after_split,
    count_divisions,
    evaluate,
    invert,
    prove_same,
    simplify_indices,
    simplify_value,
)
from smartmem_tvm.analysis.index_proof import sample_points

# Every operator is (shape of its result, map from the result's indices to the operand's).


def flatten(indices, shape):
    flat = tirx.const(0, "int64")
    for index, extent in zip(indices, shape, strict=True):
        flat = flat * extent + index
    return flat


def unflatten(flat, shape):
    indices = []
    for extent in reversed(shape):
        indices.insert(0, flat % extent)
        flat = flat // extent
    return indices


@st.composite
def factored(draw, size):
    """A shape of so many elements."""
    shape = []
    while len(shape) < 3 and size > 1:
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        shape.append(draw(st.sampled_from(divisors)))
        size //= shape[-1]
    shape.append(size)
    return draw(st.permutations(shape))


@st.composite
def reshape(draw, shape):
    new = draw(factored(prod(shape)))
    return new, lambda at: unflatten(flatten(at, new), shape)


@st.composite
def transpose(draw, shape):
    order = draw(st.permutations(range(len(shape))))
    return [shape[axis] for axis in order], lambda at: [
        at[order.index(axis)] for axis in range(len(shape))
    ]


@st.composite
def roll(draw, shape):
    axis = draw(st.integers(0, len(shape) - 1))
    shift = draw(st.integers(0, shape[axis] - 1))
    return shape, lambda at: [
        (index + shift) % shape[axis] if number == axis else index
        for number, index in enumerate(at)
    ]


@st.composite
def window(draw, shape):
    """Tile one axis: [.., n*w, ..] → [n, .., w, ..]."""
    axis = draw(st.integers(0, len(shape) - 1))
    size = draw(st.sampled_from([d for d in range(1, shape[axis] + 1) if shape[axis] % d == 0]))
    new = [shape[axis] // size, *shape]
    new[axis + 1] = size
    return new, lambda at: [
        at[0] * size + index if number == axis else index for number, index in enumerate(at[1:])
    ]


@st.composite
def flip(draw, shape):
    axis = draw(st.integers(0, len(shape) - 1))
    return shape, lambda at: [
        shape[axis] - 1 - index if number == axis else index for number, index in enumerate(at)
    ]


@st.composite
def crop(draw, shape):
    axis = draw(st.integers(0, len(shape) - 1))
    step = draw(st.integers(1, 2))
    first = draw(st.integers(0, shape[axis] - 1))
    count = draw(st.integers(1, (shape[axis] - 1 - first) // step + 1))
    new = list(shape)
    new[axis] = count
    return new, lambda at: [
        index * step + first if number == axis else index for number, index in enumerate(at)
    ]


@st.composite
def broadcast(draw, shape):
    axis = draw(st.integers(0, len(shape)))
    count = draw(st.integers(2, 3))
    new = [*shape[:axis], count, *shape[axis:]]
    return new, lambda at: [*at[:axis], *at[axis + 1 :]]


BIJECTIVE = (reshape, transpose, roll, window, flip)
INJECTIVE = (*BIJECTIVE, crop)


@st.composite
def chains(draw, operators, longest=5):
    """(shape of the source, axes, extents, source's indices as expressions of the axes)."""
    source = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4).filter(lambda s: prod(s) > 1))
    shape, maps = source, []
    for _ in range(draw(st.integers(1, longest))):
        make = draw(st.sampled_from(operators))
        new, index_map = draw(make(shape))
        if prod(new) > 2000 or len(new) > 6:
            continue
        shape = list(new)
        maps.append(index_map)
    axes = [tirx.Var(f"i{number}", "int64") for number in range(len(shape))]
    indices = list(axes)
    for index_map in reversed(maps):
        indices = index_map(indices)
    return source, axes, shape, indices


def domain_of(axes, extents):
    zero = tirx.const(0, "int64")
    return {
        axis: Range.from_min_extent(zero, tirx.const(extent, "int64"))
        for axis, extent in zip(axes, extents, strict=True)
    }


def check_simplified(chain):
    _, axes, extents, indices = chain
    domain = domain_of(axes, extents)
    found = simplify_indices(indices, domain, check=False)
    points, complete = sample_points(domain, {})
    assert complete
    for before, after in zip(indices, found, strict=True):
        assert (evaluate(before, points) == evaluate(after, points)).all(), (before, after)
    assert count_divisions(found).total <= count_divisions(indices).total
    again = simplify_indices(found, domain, check=False)
    assert count_divisions(again).total <= count_divisions(found).total
    split = affine_after_split(indices, domain)
    if split is not None:
        check_split(indices, split, domain)


def check_split(indices, split, domain):
    points = {var: rng for var, rng in domain.items() if var not in split.factors}
    parts = {}
    for var, factor in split.factors.items():
        parts[var] = split.outer[var] * factor + split.inner[var]
        count = domain[var].extent.value // factor
        points |= domain_of([split.outer[var], split.inner[var]], [count, factor])
    before = [substitute(index, parts) for index in indices]
    assert prove_same(before, list(split.indices), points).holds


def check_inverse(chain, *, bijective):
    source, axes, extents, indices = chain
    found = invert(indices, axes, extents, source, partial=True)
    if not isinstance(found, Inverse):
        return found
    points, _ = sample_points(domain_of(axes, extents), {})
    named = [evaluate(index, points) for index in indices]
    elements = dict(zip(found.variables, named, strict=True))
    for axis, value in zip(axes, found.axes, strict=True):
        assert (evaluate(value, elements) == points[axis]).all(), (axis, value)
    assert found.is_bijective or not bijective
    if not found.is_bijective:
        reached = np.zeros(source, dtype=bool)
        reached[tuple(named)] = True
        every = dict(
            zip(found.variables, [place.ravel() for place in np.indices(source)], strict=True)
        )
        assert (evaluate(found.predicate, every) == reached.ravel()).all(), found
    return found


QUICK = settings(
    max_examples=100, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
LONG = settings(QUICK, max_examples=3000)


@QUICK
@given(chains((*INJECTIVE, broadcast)))
def test_simplified_map_is_the_same(chain):
    check_simplified(chain)


@QUICK
@given(chains((reshape, transpose, window)))
def test_relayout_has_an_inverse(chain):
    assert isinstance(check_inverse(chain, bijective=True), Inverse)


@QUICK
@given(chains(INJECTIVE, longest=4))
def test_inverse_of_a_selection_names_what_is_reached(chain):
    check_inverse(chain, bijective=False)


@QUICK
@given(chains((*INJECTIVE, broadcast), longest=3), st.integers(0, 30))
def test_guarded_load_is_the_same(chain, limit):
    source, axes, extents, indices = chain
    domain = domain_of(axes, extents)
    x = tirx.decl_buffer(source, "float32", "x")
    y = tirx.decl_buffer(source, "float32", "y")
    condition = tirx.all(flatten(axes, extents) >= limit, indices[0] * 3 < limit + 20)
    value = tirx.if_then_else(condition, x[tuple(indices)], y[tuple(indices)])
    found = simplify_value(value, domain, check=False)
    proof = prove_same(value, found, domain)
    assert proof.holds, (value, found, proof)
    assert count_divisions(found).total <= count_divisions(value).total


@QUICK
@given(chains((reshape, transpose, window), longest=4), st.integers(1, 30))
def test_roll_of_halves_becomes_one_load(chain, shift):
    """What slices and a concat do to the first axis, in front of any relayout."""
    source, axes, extents, indices = chain
    size = extents[0]
    shift %= size
    domain = domain_of(axes, extents)
    x = tirx.decl_buffer(source, "float32", "x")

    def load(first):
        return x[tuple(substitute(index, {axes[0]: first}) for index in indices)]

    value = tirx.if_then_else(
        axes[0] < size - shift, load(axes[0] + shift), load(axes[0] + shift - size)
    )
    found = simplify_value(value, domain, check=False)
    assert isinstance(found, TensorLoad), (value, found)
    proof = prove_same(value, found, domain)
    assert proof.holds, (value, found, proof)


@pytest.mark.slow
@LONG
@given(chains((*INJECTIVE, broadcast), longest=7))
def test_simplified_map_is_the_same_long(chain):
    check_simplified(chain)


@pytest.mark.slow
@LONG
@given(chains(INJECTIVE, longest=6))
def test_inverse_long(chain):
    check_inverse(chain, bijective=False)
