from __future__ import annotations

import numpy as np
import pytest
from host import run_on_host
from onnx import helper
from onnx_graphs import legacy, linear, model, value

from smartmem_tvm.errors import ModelError
from smartmem_tvm.frontend import import_model, random_inputs, reference_outputs


def two_inputs(first, second):
    return model(
        [helper.make_node("Add", ["a", "b"], ["y"], "sum")],
        [value("a", first), value("b", second)],
        [value("y", first)],
    )


def test_symbolic_batch_stays_symbolic():
    imported = import_model(linear("batch"))
    assert imported.inputs[0].shape == ("batch", 8)
    assert imported.outputs[0].shape == ("batch", 4)
    assert imported.inputs[0].symbols == ("batch",)
    for batch in (1, 5):
        inputs = random_inputs(imported.inputs, shapes={"x": (batch, 8)})
        expected = reference_outputs(imported, inputs)["y"]
        assert expected.shape == (batch, 4)
        ours = run_on_host(imported, inputs)["y"]
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_shape_replaces_the_symbol():
    imported = import_model(linear("batch"), shapes={"x": (5, 8)})
    assert (imported.inputs[0].shape, imported.outputs[0].shape) == ((5, 8), (5, 4))


def test_shape_replaces_a_static_batch():
    imported = import_model(linear(2), shapes={"x": (3, 8)})
    inputs = random_inputs(imported.inputs)
    assert reference_outputs(imported, inputs)["y"].shape == (3, 4)


def test_a_shape_can_make_an_extent_symbolic():
    assert import_model(linear(2), shapes={"x": ("n", 8)}).outputs[0].shape == ("n", 4)


def test_a_symbol_is_bound_in_every_input():
    imported = import_model(two_inputs(["n", 4], ["n", 4]), shapes={"a": (3, 4)})
    assert [spec.shape for spec in imported.inputs] == [(3, 4), (3, 4)]


def test_two_values_for_a_symbol():
    with pytest.raises(ModelError, match="'n' two values: 3 in input 'a', 5 in input 'b'"):
        import_model(two_inputs(["n", 4], ["n", 4]), shapes={"a": (3, 4), "b": (5, 4)})


def test_unnamed_extents_get_names_of_their_own():
    given = two_inputs([2, 4], [2, 4])
    given.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_value")
    given.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1
    shape = import_model(given, shapes={"b": (1, 1)}).inputs[0].shape
    assert shape == ("a_0", "a_1")


def test_input_without_a_declared_shape():
    given = two_inputs(None, [2, 4])
    with pytest.raises(ModelError, match="input 'a' has no declared shape: give one"):
        import_model(given)
    assert import_model(given, shapes={"a": (2, 4)}).inputs[0].shape == (2, 4)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (2, 8)}, "the input 'z', which the model does not have: it has 'x'"),
        ({"x": (2, 8, 1)}, r"'x' 3 dimensions, \(2, 8, 1\); the model declares 2"),
        ({"x": (0, 8)}, "the extent 0"),
        ({"x": (-1, 8)}, "the extent -1"),
        ({"x": (2.5, 8)}, r"the extent 2\.5"),
        ({"x": (True, 8)}, "the extent True"),
        ({"x": ("", 8)}, "the extent ''"),
    ],
)
def test_bad_shapes(shapes, message):
    with pytest.raises(ModelError, match=message):
        import_model(linear("batch"), shapes=shapes)


def test_shape_that_the_graph_refuses():
    with pytest.raises(ModelError, match=r"operator MatMul \(node 'product'\)"):
        import_model(linear(), shapes={"x": (2, 9)})


def test_symbol_that_cannot_stay():
    """The pads depend on the height, so it has to be known."""
    given = legacy()
    given.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(ModelError, match=r"'height' of input 'x'.*shapes=\{'x': "):
        import_model(given)
    assert import_model(given, shapes={"x": (1, 3, 6, 6)}).outputs[0].shape == (1, 5, 64)
