"""Buffers and images keep every bit through every kind of copy."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from runtime_helpers import image_or_skip, on_device, random_array

from smartmem_tvm import DeviceError, runtime

pytestmark = pytest.mark.device

BUFFER_DTYPES = ["float16", "float32", "float64", "bool"] + [
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
]
IMAGE_DTYPES = ["float16", "float32", "int8", "int16", "int32", "uint8", "uint16", "uint32"]
SHAPES = [(), (1,), (7,), (3, 5), (1, 1, 1), (2, 3, 1, 4), (33, 17), (100_003,)]
# Columns, rows and layers follow from the scope; odd and unit extents in each place.
IMAGES = [
    ("global.texture", (1, 1, 4)),
    ("global.texture", (5, 7, 4)),
    ("global.texture", (3, 5, 7, 4)),
    ("global.texture", (2, 3, 1, 5, 4)),
    ("global.texture-weight", (5, 3, 1, 3, 4)),
    ("global.texture-weight", (1, 1, 4)),
    ("global.texture-nhwc", (1, 7, 3, 2, 4)),
    ("global.texture-nhwc", (3, 5, 1, 4)),
    ("global.image2d", (1, 1, 4)),
    ("global.image2d", (9, 13, 4)),
]


@pytest.fixture(scope="session")
def second_device(opencl_device):
    if len(runtime.list_devices()) < 2:
        pytest.skip("this machine has one OpenCL device")
    return tvm.runtime.device("opencl", 1 - min(opencl_device.index, 1))


@pytest.mark.parametrize("dtype", BUFFER_DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_buffer_to_device_and_back(opencl_device, shape, dtype):
    array = random_array(shape, dtype)
    tensor = on_device(array, opencl_device)
    other = tvm.runtime.empty(shape, dtype, opencl_device)
    tensor.copyto(other)
    np.testing.assert_array_equal(tensor.numpy(), array)
    np.testing.assert_array_equal(other.numpy(), array)


@pytest.mark.parametrize("shape", [(0,), (3, 0, 4)], ids=str)
def test_zero_size_tensors(opencl_device, shape):
    tensor = on_device(np.zeros(shape, "float32"), opencl_device)
    other = tvm.runtime.empty(shape, "float32", opencl_device)
    tensor.copyto(other)
    assert other.numpy().shape == shape


@pytest.mark.parametrize("dtype", IMAGE_DTYPES)
@pytest.mark.parametrize(("scope", "shape"), IMAGES, ids=str)
def test_image_to_device_and_back(opencl_device, scope, shape, dtype):
    array = random_array(shape, dtype)
    image = image_or_skip(array, opencl_device, scope)
    np.testing.assert_array_equal(image.numpy(), array)
    buffer = tvm.runtime.empty(shape, dtype, opencl_device)
    image.copyto(buffer)
    np.testing.assert_array_equal(buffer.numpy(), array)
    same = tvm.runtime.empty(shape, dtype, opencl_device, scope)
    image.copyto(same)
    np.testing.assert_array_equal(same.numpy(), array)
    changed = random_array(shape, dtype, seed=1)
    on_device(changed, opencl_device).copyto(same)
    np.testing.assert_array_equal(same.numpy(), changed)


def test_images_of_other_extents_hold_the_same_elements(opencl_device):
    array = random_array((2, 3, 4, 5, 4), "float32")
    source = image_or_skip(array, opencl_device, "global.texture")
    for scope in ("global.texture-weight", "global.texture-nhwc"):
        target = tvm.runtime.empty(array.shape, "float32", opencl_device, scope)
        source.copyto(target)
        np.testing.assert_array_equal(target.numpy(), array)
    plane = image_or_skip(array[0, 0], opencl_device, "global.image2d")
    layer = tvm.runtime.empty((4, 5, 4), "float32", opencl_device, "global.texture")
    plane.copyto(layer)  # image2d_t to a one-layer image2d_array_t
    np.testing.assert_array_equal(layer.numpy(), array[0, 0])


def test_copies_between_two_devices(opencl_device, second_device):
    array = random_array((3, 5, 7, 4), "float32")
    scopes = (None, "global.texture")
    for source_scope in scopes:
        source = image_or_skip(array, opencl_device, source_scope)
        for target_scope in scopes:
            image_or_skip(array, second_device, target_scope)
            target = tvm.runtime.empty(array.shape, "float32", second_device, target_scope)
            source.copyto(target)
            np.testing.assert_array_equal(target.numpy(), array)


def test_views_of_a_buffer(opencl_device):
    array = random_array((64,), "float32")
    tensor = on_device(array, opencl_device)
    view = tensor._create_view((16,), "float32", 64)
    np.testing.assert_array_equal(view.numpy(), array[16:32])
    view.copyfrom(np.zeros(16, "float32"))
    expected = array.copy()
    expected[16:32] = 0
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_copy_onto_itself_and_within_one_buffer(opencl_device):
    array = random_array((64,), "int32")
    tensor = on_device(array, opencl_device)
    tensor.copyto(tensor)
    np.testing.assert_array_equal(tensor.numpy(), array)
    for start, target in ((0, 16), (16, 0), (0, 32)):
        before = tensor.numpy()
        source_view = tensor._create_view((32,), "int32", start * 4)
        source_view.copyto(tensor._create_view((32,), "int32", target * 4))
        before[target : target + 32] = before[start : start + 32].copy()
        np.testing.assert_array_equal(tensor.numpy(), before)


def test_images_are_copied_whole(opencl_device):
    image = image_or_skip(random_array((2, 8, 4), "float32"), opencl_device, "global.texture")
    view = image._create_view((8, 4), "float32", 128)
    with pytest.raises(DeviceError, match="an image is copied whole"):
        view.numpy()


def test_sizes_must_match(opencl_device):
    tensor = tvm.runtime.empty((4,), "float32", opencl_device)
    with pytest.raises((ValueError, tvm.error.InternalError), match=r"(size|shape)"):
        tensor.copyto(tvm.runtime.empty((5,), "float32", opencl_device))


def test_strided_host_arrays_arrive_in_order(opencl_device):
    array = random_array((6, 8), "float32")
    tensor = tvm.runtime.empty((8, 6), "float32", opencl_device).copyfrom(array.T)
    np.testing.assert_array_equal(tensor.numpy(), array.T)


@pytest.mark.parametrize("place", ["columns", "rows", "layers"])
def test_extents_up_to_the_limit_and_one_past(opencl_device, opencl_info, place):
    limit = {
        "columns": opencl_info.image2d_max_width,
        "rows": opencl_info.image2d_max_height,
        "layers": opencl_info.image_max_array_size,
    }[place]

    def shape(extent):
        extents = {"layers": 1, "rows": 1, "columns": 1, place: extent}
        return (extents["layers"], extents["rows"], extents["columns"], 4)

    array = random_array(shape(limit), "uint8")
    image = image_or_skip(array, opencl_device, "global.texture")
    np.testing.assert_array_equal(image.numpy(), array)
    with pytest.raises(
        DeviceError,
        match=rf"{limit + 1} {place} are more than the device's {limit}"
        r".*Keep it in a buffer",
    ):
        tvm.runtime.empty(shape(limit + 1), "uint8", opencl_device, "global.texture")


@pytest.mark.parametrize(
    ("scope", "shape", "dtype", "reason"),
    [
        ("global.texture", (4, 4, 4), "float64", "texels hold"),
        ("global.texture", (4, 4, 4), "int64", "texels hold"),
        ("global.texture", (4, 4, 4), "float32x4", "texels hold"),
        ("global.texture", (4, 4, 3), "float32", "must have extent 4"),
        ("global.texture", (4, 4), "float32", "too few axes"),
        ("global.texture", (0, 4, 4), "float32", "at least 1"),
        ("global.texture", (1 << 40, 1 << 40, 1, 4), "float32", "are more than the device's"),
        ("global.image2d", (2, 4, 4, 4), "float32", r"\[row, column, 4\]"),
        ("global.textures", (4, 4, 4), "float32", "scope is unknown"),
        ("local", (4, 4, 4), "float32", "scope is unknown"),
    ],
)
def test_what_cannot_be_an_image_is_refused(opencl_device, scope, shape, dtype, reason):
    with pytest.raises(DeviceError, match=f"{reason}.*Keep it in a buffer"):
        tvm.runtime.empty(shape, dtype, opencl_device, scope)


@pytest.mark.parametrize("shape", [(1 << 62, 4), (1 << 40, 1 << 40), (-1,)], ids=str)
def test_sizes_that_overflow_are_refused(opencl_device, shape):
    with pytest.raises((DeviceError, ValueError), match=r"larger than memory|negative|-1"):
        tvm.runtime.empty(shape, "float32", opencl_device)
