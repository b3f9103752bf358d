"""A register that is written to two texels, changed between the two."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from texture_kernels import two_texels

from smartmem_tvm.passes import BindTexels, LowerVectors
from smartmem_tvm.pipeline import register

TARGET = tvm.target.Target("opencl", host="llvm")


@pytest.mark.device
def test_each_texel_gets_its_own_value(opencl_device):
    register()
    built = tvm.tirx.build(two_texels(), target=TARGET, pipeline="smartmem")
    a = np.random.default_rng(0).random((5, 4)).astype("float32")
    result = tvm.runtime.empty((1, 5, 2, 4), "float32", opencl_device, "global.texture")
    built["main"](tvm.runtime.tensor(a, opencl_device), result)
    np.testing.assert_allclose(result.numpy()[0], np.stack([a + 1, a * 2], 1), rtol=1e-6)


def test_kernels_without_images_stay_as_they_are():
    @tvm.script.tirx.prim_func(s_tir=True)
    def plain(A: tvm.script.tirx.Buffer((4,), "float32")):
        A[0] = A[1] + tvm.script.tirx.float32(1)

    mod = tvm.IRModule({"main": plain})
    assert BindTexels()(mod)["main"].same_as(mod["main"])
    assert LowerVectors()(mod)["main"].same_as(mod["main"])
