"""Images hold tensors whenever they can, in the order of the buffer."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmem_tvm.analysis.image_shapes import LEAST_COLUMNS, image_groups, image_map, image_shape
from smartmem_tvm.devices.schema import TextureLimits

# Extents of a tensor whose innermost one is a multiple of four, and limits on both sides of it.
SHAPES = st.builds(
    lambda outer, lanes, ones: [*outer, 4 * lanes, *[1] * ones],
    st.lists(st.integers(1, 9), max_size=6),
    st.integers(1, 9),
    st.integers(0, 2),
)
LIMITS = st.builds(
    lambda most: TextureLimits(*most, texel_bits=(128,), preferred=True),
    st.tuples(*(st.integers(1, 200) for _ in range(3))),
)


def texels_of(shape):
    """Extents up to the innermost one of several elements, that one in texels."""
    inner = max((d for d, extent in enumerate(shape) if extent > 1), default=0)
    return [*shape[:inner], shape[inner] // 4]


@given(shape=SHAPES, limits=LIMITS)
@settings(max_examples=200, deadline=None)
def test_an_image_is_found_whenever_neighbouring_dimensions_fit(shape, limits):
    texels = texels_of(shape)
    cuts = [(i, j) for j in range(len(texels)) for i in range(j + 1)]
    fits = [
        (texels[:i], texels[i:j], texels[j:])
        for i, j in cuts
        if prod(texels[:i]) <= limits.max_layers
        and prod(texels[i:j]) <= limits.max_height
        and prod(texels[j:]) <= limits.max_width
    ]
    found = image_groups(shape, limits)
    assert (found is None) == (not fits)
    if found is not None:
        assert found in fits
        assert len(found[0]) == min(len(layers) for layers, _, _ in fits)


@given(rows=st.integers(1, 300), lanes=st.integers(1, 300), most=st.integers(1, 300))
def test_rows_and_columns_up_to_the_limit(rows, lanes, most):
    found = image_groups([rows, 4 * lanes], TextureLimits(most, most, 1, (128,), True))
    narrow = lanes < LEAST_COLUMNS <= rows * lanes <= most
    if rows <= most and lanes <= most and not narrow:
        assert image_shape(found) == [1, rows, lanes, 4]
    elif rows * lanes <= most:
        assert image_shape(found) == [1, 1, rows * lanes, 4]
    else:
        assert found is None


@given(shape=SHAPES)
@settings(max_examples=25, deadline=None)
def test_elements_keep_their_order(shape):
    groups = image_groups(shape, TextureLimits(1 << 20, 1 << 20, 1 << 20, (128,), True))
    final = image_map(shape, groups)
    places = image_shape(groups)
    assert prod(places) == prod(shape)
    for number in {0, prod(shape) - 1, prod(shape) // 2, prod(shape) // 3}:
        point = [int(i) for i in np.unravel_index(number, shape)]
        place = [int(i) for i in final.map_indices(point)]
        assert int(np.ravel_multi_index(place, places)) == number
