from __future__ import annotations

import numpy as np
import onnx
import pytest
import tvm
from host import run_on_host
from onnx import TensorProto, helper
from onnx_graphs import constant, embedding, legacy, linear, model, value

from smartmem_tvm.errors import ModelError
from smartmem_tvm.frontend import TensorSpec, import_model, random_inputs, reference_outputs
from smartmem_tvm.frontend.onnx_import import import_onnx


def assert_matches_reference(imported, inputs):
    ours, reference = run_on_host(imported, inputs), reference_outputs(imported, inputs)
    assert list(ours) == list(reference)
    for name, expected in reference.items():
        np.testing.assert_allclose(ours[name], expected, rtol=1e-4, atol=1e-5)


def test_path(tmp_path):
    onnx.save(linear(), tmp_path / "small.onnx")
    imported = import_model(tmp_path / "small.onnx")
    assert imported.name == "small"
    assert imported.inputs == [TensorSpec("x", (2, 8), "float32")]
    assert imported.outputs == [TensorSpec("y", (2, 4), "float32")]
    assert imported.operators == 3
    assert len(imported.mod["main"].params) == 1
    assert_matches_reference(imported, random_inputs(imported.inputs))


def test_the_given_model_is_left_alone():
    given = legacy("batch")
    before = given.SerializeToString(deterministic=True)
    import_model(given, shapes={"x": (2, 3, 6, 6)})
    assert given.SerializeToString(deterministic=True) == before


def unused_and_inlined():
    """A local function, a weight that nothing reads and one that is declared as an input."""
    given = linear()
    given.graph.initializer.append(constant("spare", np.ones((3, 3)), "float32"))
    given.graph.input.append(value("w", [8, 4]))
    given.graph.node[2].op_type, given.graph.node[2].domain = "Activate", "local"
    body = [helper.make_node("Relu", ["a"], ["b"], "relu")]
    opset = helper.make_opsetid("", 17)
    given.functions.append(helper.make_function("local", "Activate", ["a"], ["b"], body, [opset]))
    given.opset_import.append(helper.make_opsetid("local", 1))
    return given


@pytest.mark.parametrize("build", [linear, legacy, unused_and_inlined])
def test_taking_a_model_over_makes_no_difference(build):
    copied, given = import_model(build()), build()
    taken = import_onnx(given, copied.name, take_over=True)
    assert taken.onnx_model is given
    assert copied.onnx_model is not given
    tvm.ir.assert_structural_equal(taken.mod, copied.mod)
    assert (taken.inputs, taken.outputs) == (copied.inputs, copied.outputs)
    for graph in (taken.onnx_model.graph, copied.onnx_model.graph):
        graph.initializer.sort(key=lambda tensor: tensor.name)
    assert taken.onnx_model == copied.onnx_model


def test_names_are_those_of_the_graph():
    given = linear()
    given.graph.input[0].name = given.graph.node[0].input[0] = "0.image/x"
    given.graph.output[0].name = given.graph.node[2].output[0] = "logits:0"
    imported = import_model(given)
    names = [spec.name for spec in (*imported.inputs, *imported.outputs)]
    assert names == ["0.image/x", "logits:0"]
    assert_matches_reference(imported, random_inputs(imported.inputs))


def test_initializers_declared_as_inputs():
    given = linear()
    given.graph.input.append(value("w", [8, 4]))
    assert [spec.name for spec in import_model(given).inputs] == ["x"]


def test_dtypes_bounds_and_unused_inputs():
    imported = import_model(embedding())
    assert [(spec.dtype, spec.upper) for spec in imported.inputs] == [
        ("int32", 7),
        ("bool", None),
        ("int64", None),
    ]
    assert_matches_reference(imported, random_inputs(imported.inputs))


def test_several_outputs():
    given = linear()
    given.graph.output.append(value("xw", [2, 4]))
    imported = import_model(given)
    assert [spec.name for spec in imported.outputs] == ["y", "xw"]
    assert_matches_reference(imported, random_inputs(imported.inputs))


def test_local_functions_are_inlined():
    function = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    given = model(
        [helper.make_node("Twice", ["x"], ["y"], domain="local")],
        [value("x", [3])],
        [value("y", [3])],
        domains=["local"],
    )
    given.functions.append(function)
    imported = import_model(given)
    assert_matches_reference(imported, random_inputs(imported.inputs))


@pytest.mark.parametrize(
    ("kind", "domain", "name", "message"),
    [
        ("Det", "", "volume", r"Det of domain ai\.onnx \(node 'volume'\)"),
        ("Relu", "acme", "odd", r"Relu of domain acme \(node 'odd'\)"),
        ("Det", "", "", r"Det of domain ai\.onnx \(node without a name that computes 'y'\)"),
        ("Attention", "", "heads", r"Attention of domain ai\.onnx \(node 'heads'\)"),
    ],
)
def test_unsupported_operator(kind, domain, name, message):
    given = model(
        [helper.make_node(kind, ["x"], ["y"], name, domain=domain)],
        [value("x", [3, 3])],
        [value("y", [])],
        opset=23,
        domains=[domain] if domain else [],
    )
    with pytest.raises(ModelError, match=message):
        import_model(given)


def test_unsupported_operator_in_a_subgraph():
    branch = [
        helper.make_graph(
            [helper.make_node("Det", ["x"], [out], f"{out}_node")], out, [], [value(out, [])]
        )
        for out in ("then", "else")
    ]
    given = model(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1])],
        [value("x", [3, 3]), value("c", [], TensorProto.BOOL)],
        [value("y", [])],
    )
    with pytest.raises(ModelError, match=r"Det of domain ai\.onnx"):
        import_model(given)


def test_undefined_value():
    given = linear()
    given.graph.node[1].input[1] = "nowhere"
    with pytest.raises(ModelError, match=r"no valid ONNX model: (.|\n)*nowhere"):
        import_model(given)


def test_conversion_failure_names_the_node(capfd):
    """The pads are an input of the model, which no importer can make static."""
    given = model(
        [helper.make_node("Pad", ["x", "pads"], ["y"], "padding")],
        [value("x", [2, 2]), value("pads", [4], TensorProto.INT64)],
        [value("y", ["a", "b"])],
    )
    with pytest.raises(ModelError, match=r"operator Pad \(node 'padding'\) cannot be converted"):
        import_model(given)
    assert capfd.readouterr().out == ""


def test_string_tensors_are_refused():
    given = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", [2], TensorProto.STRING)],
        [value("y", [2], TensorProto.STRING)],
    )
    with pytest.raises(ModelError, match="input 'x' has elements of type STRING"):
        import_model(given)


def test_sequence_input_is_refused():
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [2])
    given = model(
        [helper.make_node("SequenceAt", ["x", "first"], ["y"])],
        [sequence],
        [value("y", [2])],
        [constant("first", 0)],
    )
    with pytest.raises(ModelError, match="input 'x' is no tensor"):
        import_model(given)


def test_sparse_initializers_are_refused():
    given = linear()
    sparse = given.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(constant("s", [1.0], "float32"))
    sparse.indices.CopyFrom(constant("i", [0]))
    with pytest.raises(ModelError, match="sparse initializers"):
        import_model(given)


def test_shape_that_depends_on_values():
    given = model(
        [helper.make_node("ConstantOfShape", ["x"], ["y"], value=constant("", [1.0], "float32"))],
        [value("x", [3], onnx.TensorProto.INT64)],
        [value("y", [None, None, None])],
    )
    with pytest.raises(ModelError, match="output 'y' has no known shape"):
        import_model(given)
