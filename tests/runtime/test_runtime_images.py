"""Handwritten kernels read and write image2d_t and image2d_array_t of every format."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from runtime_helpers import AXES, image_or_skip, on_device, random_array

from smartmem_tvm import DeviceError, runtime

pytestmark = pytest.mark.device

# The function that reads and writes a channel type, and the type of a texel in the kernel.
ACCESS = {"f": ("f", "float4"), "i": ("i", "int4"), "u": ("ui", "uint4")}

KERNEL = """
__constant sampler_t plain =
    CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_CLAMP_TO_EDGE | CLK_FILTER_NEAREST;
__kernel void flip(__read_only {image} a, __write_only {image} b, int width, int height) {{
  int x = get_global_id(0) % width, y = get_global_id(0) / width % height;
  int z = get_global_id(0) / (width * height);
  {texel} value = read_image{access}(a, plain, {coordinates});
  write_image{access}(b, {coordinates}, value.wzyx);
}}
"""


def flip_kernel(dtype, layered):
    access, texel = ACCESS[np.dtype(dtype).kind]
    source = KERNEL.format(
        image="image2d_array_t" if layered else "image2d_t",
        access=access,
        texel=texel,
        coordinates="(int4)(x, y, z, 0)" if layered else "(int2)(x, y)",
    )
    return runtime.source_module(source, {"flip": (("handle", "handle", "int32", "int32"), AXES)})[
        "flip"
    ]


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "int8", "int16", "int32", "uint8", "uint16", "uint32"]
)
@pytest.mark.parametrize(
    ("scope", "shape"), [("global.texture", (3, 5, 7, 4)), ("global.image2d", (5, 7, 4))], ids=str
)
def test_kernels_read_and_write_texels(opencl_device, scope, shape, dtype):
    array = random_array(shape, dtype)
    source = image_or_skip(array, opencl_device, scope)
    target = tvm.runtime.empty(shape, dtype, opencl_device, scope)
    texels = int(np.prod(shape[:-1]))
    flip_kernel(dtype, len(shape) == 4)(source, target, shape[-2], shape[-3], texels, 1)
    np.testing.assert_array_equal(target.numpy(), array[..., ::-1])


def test_half_buffers_without_the_half_extension(opencl_device):
    """vload_half and vstore_half are core: storage in float16 needs no cl_khr_fp16."""
    code = (
        "__kernel void twice(__global const half* a, __global half* b) {"
        " int i = get_global_id(0); vstore_half(2.0f * vload_half(i, a), i, b); }"
    )
    twice = runtime.source_module(code, {"twice": (("handle", "handle"), AXES)})["twice"]
    array = random_array((64,), "float16")
    result = tvm.runtime.empty((64,), "float16", opencl_device)
    twice(on_device(array, opencl_device), result, 2, 32)
    np.testing.assert_array_equal(result.numpy(), array * 2)


def test_half_arithmetic(opencl_device, opencl_info):
    if not opencl_info.fp16:
        pytest.skip(f"{opencl_info.name} has no cl_khr_fp16")
    code = (
        "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n"
        "__kernel void twice(__global const half* a, __global half* b) {"
        " int i = get_global_id(0); b[i] = a[i] * (half)2; }"
    )
    twice = runtime.source_module(code, {"twice": (("handle", "handle"), AXES)})["twice"]
    array = random_array((64,), "float16")
    result = tvm.runtime.empty((64,), "float16", opencl_device)
    twice(on_device(array, opencl_device), result, 2, 32)
    np.testing.assert_array_equal(result.numpy(), array * 2)


@pytest.mark.parametrize(
    ("declared", "scope", "message"),
    [
        (
            "__global float*",
            "global.texture",
            "is a buffer, but the tensor is in an image2d_array_t",
        ),
        (
            "__read_only image2d_array_t",
            None,
            "is an image2d_array_t, but the tensor is in a buffer",
        ),
        (
            "__read_only image2d_array_t",
            "global.image2d",
            "but the tensor is in an image2d_t of 4x4",
        ),
        (
            "__read_only image2d_t",
            "global.texture",
            "is an image2d_t, but the tensor is in an image2d",
        ),
    ],
)
def test_arguments_of_another_kind_are_refused(opencl_device, declared, scope, message):
    """Most drivers crash on these."""
    kernel = runtime.source_module(
        f"__kernel void nothing({declared} a) {{}}", {"nothing": (("handle",), AXES)}
    )["nothing"]
    tensor = image_or_skip(random_array((4, 4, 4), "float32"), opencl_device, scope)
    with pytest.raises(DeviceError, match=f"argument 0 of kernel 'nothing'.*{message}"):
        kernel(tensor, 1, 1)
