"""Kernels that write images give the right numbers on a device."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from texture_kernels import add_one, conv_relu_conv
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from smartmem_tvm.pipeline import register

pytestmark = pytest.mark.device
TARGET = tvm.target.Target("opencl", host="llvm")


@pytest.fixture(autouse=True)
def _registered():
    register()


def _has_half(device) -> bool:
    from smartmem_tvm import runtime

    return runtime.list_devices()[device.index].fp16


def _texture(array, device, scope):
    return tvm.runtime.empty(array.shape, str(array.dtype), device, scope).copyfrom(array)


@pytest.mark.parametrize(
    "scope", ["global.texture", "global.texture-nhwc", "global.texture-weight"]
)
@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (1, 7, 13, 4), (3, 5, 9, 4), (2, 1, 31, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_add_one(opencl_device, shape, scope, dtype):
    if dtype == "float16" and not _has_half(opencl_device):
        pytest.skip("the device has no fp16")
    kind = "serial" if shape[0] == 3 else "vectorized"
    built = tvm.tirx.build(add_one(shape, dtype, scope, kind), target=TARGET, pipeline="smartmem")
    a = np.random.default_rng(0).random(shape).astype(dtype)
    source = _texture(a, opencl_device, scope)
    result = _texture(np.full(shape, -7, dtype), opencl_device, scope)
    built["main"](source, result)
    np.testing.assert_array_equal(result.numpy(), a + np.asarray(1, dtype))


def _conv(x, k):
    """x [c/4, h, w, 4], k [in, 9, out/4, 4] as in the kernel, in float64."""
    c4, h, w, _ = x.shape
    plain = np.pad(x.transpose(0, 3, 1, 2).reshape(c4 * 4, h, w), ((0, 0), (1, 1), (1, 1)))
    taps = np.stack([plain[:, t // 3 : t // 3 + h, t % 3 : t % 3 + w] for t in range(9)], 1)
    out = np.einsum("ithw,ito->ohw", taps, k.reshape(c4 * 4, 9, c4 * 4))
    return out.reshape(c4, 4, h, w).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-5), ("float16", 3e-3)])
@pytest.mark.parametrize("channels,h,w", [(4, 1, 1), (8, 5, 7)])
def test_conv_relu_conv_through_an_inner_texture(opencl_device, channels, h, w, dtype, tolerance):
    if dtype == "float16" and not _has_half(opencl_device):
        pytest.skip("the device has no fp16")
    built = tvm.tirx.build(
        conv_relu_conv(channels, h, w, dtype), target=TARGET, pipeline="smartmem"
    )
    rng = np.random.default_rng(1)
    x = rng.standard_normal((channels // 4, h, w, 4)).astype(dtype)
    k1, k2 = (
        rng.standard_normal((channels, 9, channels // 4, 4)).astype(dtype) * 0.2 for _ in range(2)
    )
    result = _texture(np.zeros_like(x), opencl_device, "global.texture")
    weights = [_texture(k.astype(dtype), opencl_device, "global.texture-weight") for k in (k1, k2)]
    built["main"](_texture(x, opencl_device, "global.texture"), *weights, result)
    want = _conv(
        np.maximum(_conv(x.astype("float64"), k1.astype("float64")), 0), k2.astype("float64")
    )
    error = np.abs(result.numpy() - want) / (np.abs(want) + np.sqrt(np.mean(want**2)))
    assert error.max() < tolerance


def test_models_of_the_adreno_pipeline_run_right(opencl_device):
    """TVM's Adreno pipeline places the textures, our TIR pipeline lowers them."""

    @I.ir_module
    class Model:
        @R.function
        def main(
            x: R.Tensor((1, 8, 9, 7), "float32"),
            w1: R.Tensor((8, 8, 3, 3), "float32"),
            w2: R.Tensor((8, 8, 3, 3), "float32"),
        ):
            with R.dataflow():
                a = R.nn.relu(R.nn.conv2d(x, w1, padding=[1, 1]))
                b = R.nn.conv2d(a, w2, padding=[1, 1])
                R.output(b)
            return b

    target = tvm.target.Target("qcom/adreno-opencl-texture", host="llvm")
    lowered = relax.get_default_pipeline(target)(Model)
    built = tvm.compile(
        lowered, target, relax_pipeline=tvm.transform.Sequential([]), tir_pipeline="smartmem"
    )
    source = built.mod.imports[0].imports[0].inspect_source()
    assert "write_imagef" in source
    spaces = len(lowered.global_infos["vdevice"])
    vm = relax.VirtualMachine(built, [opencl_device] * spaces)
    rng = np.random.default_rng(0)
    x, w1, w2 = (
        rng.standard_normal(s).astype("float32") for s in ((1, 8, 9, 7), (8, 8, 3, 3), (8, 8, 3, 3))
    )
    got = vm["main"](*(tvm.runtime.tensor(v, opencl_device) for v in (x, w1, w2))).numpy()

    def packed(v):
        return v.reshape(2, 4, 9, 7).transpose(0, 2, 3, 1).astype("float64")

    def taps(w):
        return w.transpose(1, 2, 3, 0).reshape(8, 9, 2, 4).astype("float64")

    want = _conv(np.maximum(_conv(packed(x), taps(w1)), 0), taps(w2))
    error = np.abs(packed(got) - want) / (np.abs(want) + np.sqrt(np.mean(want**2)))
    assert error.max() < 1e-5
