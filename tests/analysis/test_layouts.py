"""Physical layouts: places, packing, and index maps in both directions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import tirx

from smartmem_tvm.analysis.layouts import (
    Layout,
    innermost,
    layout_of,
    map_indices,
    pack,
    row_major,
)
from smartmem_tvm.errors import SmartMemError


@st.composite
def layouts(draw):
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    order = tuple(draw(st.permutations(range(len(shape)))))
    block = draw(
        st.none() | st.tuples(st.integers(0, len(shape) - 1), st.sampled_from([2, 3, 4, 16]))
    )
    return shape, Layout(order, block)


@given(layouts())
def test_packing_puts_every_element_where_the_indices_say(case):
    shape, layout = case
    array = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    packed = layout.pack(array)
    assert list(packed.shape) == layout.shape(shape)
    for index in np.ndindex(*shape):
        assert packed[tuple(layout.indices(index))] == array[index]
    assert np.count_nonzero(packed) == array.size  # the rest is padding


@given(layouts())
def test_a_layout_is_an_index_map_and_back(case):
    shape, layout = case
    index_map = layout.index_map()
    assert layout_of(index_map) == layout
    assert [int(n) for n in index_map.map_shape(shape)] == layout.shape(shape)


@given(layouts())
def test_strides_are_those_of_the_buffer(case):
    shape, layout = case
    array = np.zeros(layout.shape(shape), np.int8)
    expected = [
        step if extent > 1 else None
        for step, extent in zip(array.strides, array.shape, strict=True)
    ]
    for found, wanted in zip(layout.strides(shape), expected, strict=True):
        assert wanted is None or found == wanted


def test_names_of_layouts():
    assert str(Layout((0, 2, 3, 1))) == "[0, 2, 3, 1]"
    assert str(Layout((0, 1, 2, 3), (1, 4))) == "[0, 1/4, 2, 3, 1%4]"
    assert row_major(3).is_row_major
    assert not innermost(3, 0).is_row_major
    assert innermost(3, 2).is_row_major


def test_indices_of_32_bits_stay_so():
    i, j = tirx.Var("i", "int32"), tirx.Var("j", "int32")
    mapped = map_indices(Layout((1, 0), (0, 4)).index_map(), [i, j])
    assert {str(index.ty.dtype) for index in mapped} == {"int32"}


def test_an_index_map_of_another_form_is_packed_point_by_point():
    index_map = tirx.IndexMap.from_func(lambda i, j: [(i * 6 + j) // 4, (i * 6 + j) % 4])
    assert layout_of(index_map) is None
    array = np.arange(30.0).reshape(5, 6)
    packed = pack(index_map, array)
    assert packed.shape == (8, 4)
    assert (packed.reshape(-1)[:30] == array.reshape(-1)).all()


def test_a_map_that_puts_two_elements_into_one_place_is_refused():
    index_map = tirx.IndexMap.from_func(lambda i, j: [i + j])
    with pytest.raises(SmartMemError, match="two elements"):
        pack(index_map, np.zeros((3, 4)))


def test_a_tensor_without_dimensions():
    scalar = Layout(())
    assert layout_of(scalar.index_map()) == scalar
    assert scalar.pack(np.array(3.0)) == 3.0
