"""Casts from and to floats of 4 and 8 bits and integers of 2 and 4, against ml_dtypes."""

from __future__ import annotations

import numpy as np
import pytest
from host import run_on_host
from onnx import TensorProto, helper
from onnx_graphs import model, value

from smartmem_tvm.errors import ModelError
from smartmem_tvm.frontend import import_model
from smartmem_tvm.frontend.narrow_types import FLOATS, INTEGERS

NAMES = TensorProto.DataType.Name
SCALE = TensorProto.FLOAT8E8M0
TWO_SIGNS = sorted(FLOATS - {SCALE})


def cast(source, target, length, **attributes):
    node = helper.make_node("Cast", ["x"], ["y"], to=target, **attributes)
    return import_model(
        model([node], [value("x", [length], source)], [value("y", [length], target)], opset=24)
    )


def run(imported, x):
    (y,) = run_on_host(imported, {"x": x}).values()
    return y


def numpy_type(kind):
    return helper.tensor_dtype_to_np_dtype(kind)


def values_of(kind):
    return np.arange(256, dtype="uint8").view(numpy_type(kind)).astype("float32")


def interesting(kind):
    """Every value of the type, those half-way between, their neighbours, and what is too large."""
    known = np.unique(values_of(kind)[np.isfinite(values_of(kind))].astype("float64"))
    middle = ((known[1:] + known[:-1]) / 2).astype("float32")
    beyond = known[-1] * np.array([1 + 2**-9, 1.02, 1.04, 1.07, 1.2, 3, 1e3])
    points = np.concatenate(
        [known, middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf), beyond, -beyond]
    )
    return np.append(points, [np.inf, -np.inf, np.nan, -0.0]).astype("float32")


def expected(x, kind, saturate):
    dtype = numpy_type(kind)
    if saturate:
        most = np.nanmax(np.where(np.isfinite(values_of(kind)), values_of(kind), 0))
        x = np.clip(x, -most, most)
    return x.astype(dtype)


@pytest.mark.parametrize("saturate", [True, False], ids=["saturate", "overflow"])
@pytest.mark.parametrize("kind", TWO_SIGNS, ids=NAMES)
def test_floats_are_rounded_to_the_nearest(kind, saturate):
    x = interesting(kind)
    if kind == TensorProto.FLOAT8E5M2 and saturate:  # infinities become the largest number
        assert np.isinf(x).any()
    codes = run(cast(TensorProto.FLOAT, kind, len(x), saturate=int(saturate)), x)
    assert codes.dtype == np.uint8
    made = codes.view(numpy_type(kind)).astype("float32")
    wanted = expected(x, kind, saturate or kind == TensorProto.FLOAT4E2M1).astype("float32")
    np.testing.assert_array_equal(made, wanted)
    number = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(made[number]), np.signbit(wanted[number]))


@pytest.mark.parametrize("target", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32])
@pytest.mark.parametrize("kind", sorted(FLOATS), ids=NAMES)
def test_every_code_has_its_value(kind, target):
    codes = np.arange(16 if kind == TensorProto.FLOAT4E2M1 else 256, dtype="uint8")
    wanted = values_of(kind)[: len(codes)]
    if target == TensorProto.INT32:
        codes = codes[np.abs(wanted) < 1e4]
        wanted = wanted[np.abs(wanted) < 1e4]
    with np.errstate(over="ignore"):
        wanted = wanted.astype(numpy_type(target))
    np.testing.assert_array_equal(run(cast(kind, target, len(codes)), codes), wanted)


@pytest.mark.parametrize("mode", ["up", "down"])
def test_scales_are_rounded_to_powers_of_two(mode):
    x = np.float32([0.25, 0.26, 0.5, 3, 4, 1e-30, 2.0**127, 1.5 * 2.0**127, np.inf, np.nan, -1])
    codes = run(cast(TensorProto.FLOAT, SCALE, len(x), round_mode=mode), x)
    round_to = np.ceil if mode == "up" else np.floor
    wanted = np.clip(round_to(np.log2(x[:8].astype("float64"))) + 127, 0, 254)
    np.testing.assert_array_equal(codes, [*wanted, 254, 255, 255])


def test_nearest_scales_are_refused():
    with pytest.raises(ModelError, match="round_mode 'nearest'"):
        cast(TensorProto.FLOAT, SCALE, 3, round_mode="nearest")


@pytest.mark.parametrize("kind", sorted(INTEGERS), ids=NAMES)
def test_integers_keep_their_lowest_bits(kind):
    bits, signed = INTEGERS[kind]
    x = np.arange(-20, 20, dtype="float32")
    made = run(cast(TensorProto.FLOAT, kind, len(x)), x)
    assert made.dtype == ("int8" if signed else "uint8")
    first = -(2 ** (bits - 1)) if signed else 0
    np.testing.assert_array_equal(made, (x - first) % 2**bits + first)
    back = cast(kind, TensorProto.FLOAT, len(x))
    assert back.inputs[0].dtype == made.dtype
    np.testing.assert_array_equal(run(back, made), made)


def test_moved_and_cast_again():
    """Codes pass through operators that only move elements, and from one type to another."""
    first, second = TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2
    given = model(
        [
            helper.make_node("Cast", ["x"], ["narrow_1"], to=first),
            helper.make_node("Transpose", ["narrow_1"], ["turned"]),
            helper.make_node("Cast", ["turned"], ["y"], to=second),
        ],
        [value("x", [4, 3])],
        [value("narrow_1", [4, 3], first), value("y", [3, 4], second)],
        opset=23,
    )
    x = np.random.default_rng(0).standard_normal((4, 3)).astype("float32")
    made = run_on_host(import_model(given), {"x": x})
    kinds = {"narrow_1": numpy_type(first), "y": numpy_type(second)}
    once = x.astype(kinds["narrow_1"])
    wanted = {"narrow_1": once, "y": once.T.astype("float32").astype(kinds["y"])}
    for name, array in made.items():
        np.testing.assert_array_equal(array, wanted[name].view("uint8"))


def test_arithmetic_is_refused():
    kind = TensorProto.FLOAT8E5M2
    given = model(
        [helper.make_node("DequantizeLinear", ["x", "scale"], ["y"], "wide")],
        [value("x", [3], kind), value("scale", [])],
        [value("y", [3])],
        opset=23,
    )
    message = r"DequantizeLinear \(node 'wide'\) reads 'x', whose elements are of type FLOAT8E5M2"
    with pytest.raises(ModelError, match=message):
        import_model(given)


def test_casts_in_branches_are_refused():
    def branch(name):
        inner = helper.make_node("Cast", ["x"], [name], name, to=TensorProto.INT4)
        back = helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.FLOAT)
        return helper.make_graph([inner, back], name, [], [value(f"{name}_wide", [3])])

    chosen = helper.make_node(
        "If", ["c"], ["y"], "choice", then_branch=branch("a"), else_branch=branch("b")
    )
    inputs = [value("x", [3]), value("c", [], TensorProto.BOOL)]
    with pytest.raises(ModelError, match="in a branch of 'choice'"):
        import_model(model([chosen], inputs, [value("y", [3])], opset=23))
