"""Constants in images: which ones, in which shape, and that the numbers stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from placed_textures import ADRENO, after, limited, run
from relax_graphs import calls, const, module
from tvm.ir.expr import GenericConst
from tvm.relax import op

from smartmem_tvm.analysis.tensor_layouts import read_tensor_layouts
from smartmem_tvm.analysis.texels import SCOPE, is_texture

RNG = np.random.default_rng(0)
W, V, B = (RNG.standard_normal(s).astype("float32") for s in ((12, 16), (16, 8), (16,)))
SLOW_READS = replace(ADRENO, bandwidth=replace(ADRENO.bandwidth, texture_gbps=55.0))


def layer(x):
    hidden = op.nn.relu(op.add(op.matmul(x, const(W)), const(B)))
    return op.matmul(op.nn.softmax(hidden), const(V))


def constants(mod):
    return [tensor for tensor in read_tensor_layouts(mod) if tensor.constant]


def why(mod):
    """Why the constant of each shape is a buffer; an empty text for those that are images."""
    return {
        tensor.shape: "" if tensor.scope == SCOPE else tensor.reason.partition("in a buffer: ")[2]
        for tensor in constants(mod)
    }


def test_weights_and_biases_are_images_in_their_layouts():
    mod = after("layouts", module(layer, (5, 12)))
    assert why(mod) == {W.shape: "", B.shape: "", V.shape: ""}
    found = []
    for call in calls(mod):
        func = mod[call.args[0]]
        for number, argument in enumerate(call.args[1].fields):
            if isinstance(argument, GenericConst):
                found.append(argument)
                assert is_texture(func.params[number])
                assert str(argument.ty.vdevice.memory_scope) == SCOPE
                assert [int(n) for n in argument.ty.shape.values] == list(argument.value.shape)
                assert argument.value.shape[0] == 1
                assert argument.value.shape[3] == 4
    values = {array.size: array for array in (W, V, B)}
    for constant in found:
        stored, known = constant.value.numpy(), values.pop(constant.value.numpy().size)
        flat = stored.reshape(-1)
        assert any(np.array_equal(flat, each.reshape(-1)) for each in (known, known.T))
        if known.ndim == 2:  # lanes and x along one dimension, y along the other
            assert sorted([stored.shape[1], 4 * stored.shape[2]]) == sorted(known.shape)
    assert not values


def test_the_switch_leaves_constants_in_buffers():
    mod = after("layouts", module(layer, (5, 12)), weights=False)
    assert {tensor.scope for tensor in constants(mod)} == {"global"}
    assert SCOPE in {tensor.scope for tensor in read_tensor_layouts(mod)}


def scaled(factors):
    """Products whose columns are scaled: the constant's size is at the limit or below it."""

    def body(x):
        width = factors.shape[-1]
        product = op.matmul(x, op.reshape(op.sum(x, [0, 1]), (1, 1)))
        return op.nn.softmax(op.multiply(op.broadcast_to(product, (5, width)), const(factors)))

    return body


@pytest.mark.parametrize(
    ("width", "reason"),
    [(16, ""), (12, "it has 48 bytes, fewer than 64"), (18, "innermost extent is no multiple")],
)
def test_small_and_ragged_constants(width, reason):
    found = why(after("layouts", module(scaled(normal(width)), (5, 1))))[width,]
    assert (reason in found) if reason else not found


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (limited(max_width=3, max_layers=1), "larger than any image: 1 layers of 16384 rows and 3"),
        (limited(texel_bits=(64,)), "no texels of four float32"),
        (SLOW_READS, "the device reads images no faster"),
    ],
)
def test_what_the_device_cannot_or_should_not(profile, reason):
    found = why(after("layouts", module(layer, (5, 12)), profile))
    assert reason in found[W.shape]


def test_single_lanes_are_read_from_buffers():
    """Texels of the output follow its columns, those of one constant its rows."""

    def body(x):
        rows, columns = const(normal(16, 1)), const(normal(1, 20))
        return op.nn.softmax(op.nn.softmax(op.add(op.multiply(rows, x), columns)))

    found = why(after("layouts", module(body, (16, 20))))
    assert found[1, 20] == ""
    assert "texels along another axis" in found[16, 1]


def normal(*shape):
    return RNG.standard_normal(shape).astype("float32")


@pytest.mark.device
@given(
    rows=st.integers(1, 9),
    inner=st.sampled_from([1, 3, 4, 8, 12, 20]),
    outer=st.sampled_from([1, 4, 6, 16, 24]),
    limits=st.sampled_from([{}, {"max_width": 5, "max_height": 8, "max_layers": 4}]),
)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_products_through_images_or_buffers(opencl_device, rows, inner, outer, limits):
    w, b = normal(inner, outer), normal(outer)

    def body(x):
        return op.add(op.nn.relu(op.add(op.matmul(x, const(w)), const(b))), const(b))

    x = normal(rows, inner)
    found = run(module(body, (rows, inner)), [x], opencl_device, limited(**limits))
    np.testing.assert_allclose(found, np.maximum(x @ w + b, 0) + b, rtol=1e-4, atol=1e-5)


@pytest.mark.device
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolutions_through_images(opencl_device, groups):
    w, b = normal(16, 8 // groups, 3, 3), normal(1, 16, 1, 1)

    def body(x):
        made = op.nn.conv2d(x, const(w), padding=(1, 1), groups=groups)
        return op.nn.softmax(op.nn.relu(op.add(made, const(b))), 1)

    x = normal(1, 8, 6, 7)
    mod = module(body, x.shape)
    assert not why(after("layouts", mod))[w.shape]
    padded = np.pad(x[0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    windows = windows.reshape(groups, 8 // groups, 6, 7, 3, 3)
    kernels = w.reshape(groups, 16 // groups, 8 // groups, 3, 3)
    expected = np.einsum("gihwyx,goiyx->gohw", windows, kernels).reshape(1, 16, 6, 7) + b
    expected = np.exp(np.maximum(expected, 0))
    expected /= expected.sum(1, keepdims=True)
    found = run(mod, [x], opencl_device, ADRENO)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
