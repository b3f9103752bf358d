"""Which tensors become images, what keeps others in buffers, and that the numbers stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from placed_textures import ADRENO, after, limited, run, scopes
from relax_graphs import calls, const, module
from tvm import relax
from tvm.ir.expr import TensorLoad
from tvm.relax import op
from tvm_ffi import structural_walk

from smartmem_tvm.analysis.tensor_layouts import read_tensor_layouts
from smartmem_tvm.analysis.texels import SCOPE, is_texture
from smartmem_tvm.devices import load_profile
from smartmem_tvm.passes import MapTextures

RNG = np.random.default_rng(0)


def weights(*shape):
    return const(RNG.standard_normal(shape))


def two_products(x, width=16):
    hidden = op.nn.relu(op.matmul(x, weights(int(x.ty.shape[-1]), width)))
    return op.matmul(op.nn.softmax(hidden), weights(width, 8))


def test_what_a_product_reads_along_its_reduction_is_an_image():
    mod = after("layouts", module(two_products, (5, 12)))
    first, second, third = calls(mod)
    for call in (first, second):
        assert [int(n) for n in call.ty.shape.values] == [1, 5, 4, 4]
        assert str(call.ty.vdevice.memory_scope) == SCOPE
        func = mod[call.args[0]]
        assert is_texture(func.params[-1])
    assert is_texture(mod[third.args[0]].params[0])
    assert str(third.ty.vdevice.memory_scope) == "global"
    assert list(scopes(mod).values()).count(SCOPE) == 2
    relax.analysis.well_formed(mod)


@pytest.mark.parametrize("profile", ["cpu", "nvidia-opencl"])
def test_devices_that_do_not_prefer_images_have_none(profile):
    profile = load_profile(profile)
    assert not (profile.texture and profile.texture.preferred)
    mod = after("layouts", module(two_products, (5, 12)), profile)
    assert set(scopes(mod).values()) == {"global"}
    assert not mod.global_infos.get("vdevice")


def test_tensors_that_somebody_has_placed_stay_where_they_are():
    mod = after("eliminate", module(two_products, (5, 12)))
    target = ADRENO.target()
    mod.update_global_info("vdevice", [relax.VDevice(target, 0, "global")])
    with target:
        assert MapTextures()(mod).same_as(mod)


def ragged(x):
    return two_products(x, 6)


@pytest.mark.parametrize(
    ("body", "profile", "why"),
    [
        (
            two_products,
            limited(max_width=3),
            "larger than any image: 2048 layers of 16384 rows and 3",
        ),
        (two_products, limited(max_height=4, max_layers=1, max_width=15), "larger than any image"),
        (two_products, limited(texel_bits=(64,)), "no texels of four float32"),
        (ragged, ADRENO, "its innermost extent is no multiple of 4"),
    ],
)
def test_what_is_no_image_says_why(body, profile, why):
    mod = after("layouts", module(body, (5, 12)), profile)
    assert SCOPE not in scopes(mod).values()
    found = {
        tensor.reason.split("in a buffer: ")[1]
        for tensor in read_tensor_layouts(mod)
        if "in a buffer: " in tensor.reason
    }
    assert any(why in one for one in found), found


def test_open_shapes_stay_in_buffers():
    n = tvm.tirx.Var("n", "int64")
    mod = after("layouts", module(two_products, (n, 12)))
    assert SCOPE not in scopes(mod).values()
    assert any("its shape is open" in t.reason for t in read_tensor_layouts(mod))


def test_what_has_room_only_in_another_shape_gets_it():
    mod = module(two_products, (5, 12))
    for limits, shape in (
        ({"max_height": 5, "max_width": 4}, [1, 5, 4, 4]),
        ({"max_height": 4, "max_width": 20}, [1, 1, 20, 4]),
        ({"max_height": 4, "max_width": 19}, [5, 1, 4, 4]),
    ):
        (first, *_) = calls(after("layouts", mod, limited(**limits)))
        assert [int(n) for n in first.ty.shape.values] == shape


def test_reductions_read_whole_texels():
    """Whatever a schedule reads of an image, it reads by four lanes at a time."""
    mod = after("verify", module(two_products, (9, 32)))
    seen = 0
    for func in mod.functions.values():
        if not isinstance(func, tvm.tirx.PrimFunc):
            continue
        lanes: set = set()
        loads: list = []

        def loop(node, lanes=lanes):
            if node.kind == tvm.tirx.ForKind.VECTORIZED and int(node.extent) == 4:
                lanes.add(node.loop_var)

        structural_walk(func.body, [(tvm.tirx.For, loop), (TensorLoad, loads.append)])
        for load in loads:
            if is_texture(load.source):
                seen += 1
                assert load.indices[-1] in lanes, func.script()
    assert seen


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.device
@pytest.mark.parametrize("limits", [{}, {"max_width": 8, "max_height": 6, "max_layers": 5}])
@pytest.mark.parametrize(
    "shape",
    [(4,), (5,), (3, 8), (7, 12), (1, 5, 12), (2, 1, 3, 4), (7, 1, 2, 1, 8), (2, 3, 1, 5, 2, 16)],
)
def test_any_rank_through_images_or_buffers(opencl_device, shape, limits):
    def body(x):
        rows = op.nn.softmax(op.multiply(x, x), -1)
        return op.sum(op.nn.softmax(op.add(rows, x), -1), 0)

    x = RNG.standard_normal(shape).astype("float32")
    expected = softmax(softmax(x.astype(float) ** 2) + x).sum(0)
    found = run(module(body, shape), [x], opencl_device, limited(**limits))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.device
@pytest.mark.parametrize("profile", ["adreno-740", "mali-g710"])
def test_a_block_of_a_transformer_through_images(opencl_device, profile):
    wq, wk, wv, wo = (RNG.standard_normal((24, 24)).astype("float32") / 5 for _ in range(4))

    def body(x):
        q, k, v = (
            op.permute_dims(op.reshape(op.matmul(x, const(w)), (9, 2, 12)), (1, 0, 2))
            for w in (wq, wk, wv)
        )
        scores = op.nn.softmax(op.matmul(q, op.permute_dims(k, (0, 2, 1))), -1)
        mixed = op.permute_dims(op.matmul(scores, v), (1, 0, 2))
        return op.add(x, op.matmul(op.reshape(mixed, (9, 24)), const(wo)))

    mod = module(body, (9, 24))
    x = RNG.standard_normal((9, 24)).astype("float32")
    q, k, v = ((x @ w).reshape(9, 2, 12).transpose(1, 0, 2) for w in (wq, wk, wv))
    mixed = softmax(q @ k.transpose(0, 2, 1)) @ v
    expected = x + mixed.transpose(1, 0, 2).reshape(9, 24) @ wo
    profile = load_profile(profile)
    profile = replace(profile, texture=replace(profile.texture, preferred=True))
    assert SCOPE in scopes(after("layouts", mod, profile)).values()
    found = run(mod, [x], opencl_device, profile)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
