from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from host import run_on_host
from onnx import helper
from onnx_graphs import legacy, linear, model, value

from smartmem_tvm.frontend import import_model, random_inputs, reference_outputs
from smartmem_tvm.frontend.folding import STRUCTURAL, fold_shapes, needs_folding
from smartmem_tvm.zoo.registry import read_graph
from smartmem_tvm.zoo.seeding import fill_weights

FIXTURES = Path(__file__).parents[1] / "data" / "legacy"
IMAGE = {"input": (1, 3, 224, 224)}


def run_unoptimised(graph: onnx.ModelProto, inputs) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    return session.run(None, inputs)


def assert_static(graph: onnx.GraphProto) -> None:
    constants = {tensor.name for tensor in graph.initializer} | {""}
    constants |= {out for n in graph.node if n.op_type == "Constant" for out in n.output}
    assert not {"Shape", "Size"} & {node.op_type for node in graph.node}
    for node in graph.node:
        for position in STRUCTURAL.get(node.op_type, ()):
            assert position >= len(node.input) or node.input[position] in constants


def test_what_needs_folding():
    assert needs_folding(legacy().graph)
    assert not needs_folding(linear().graph)


def test_computed_pads_and_shapes_become_constants():
    folded = fold_shapes(legacy())
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Pad", "Reshape"]
    assert_static(folded.graph)
    onnx.checker.check_model(folded)


def test_folding_changes_no_number():
    inputs = random_inputs(import_model(legacy()).inputs)
    before, after = (run_unoptimised(m, inputs)[0] for m in (legacy(), fold_shapes(legacy())))
    assert before.std() > 0
    np.testing.assert_array_equal(before, after)


def test_batch_norm_is_not_folded_into_its_convolution():
    """It would change the rounding: weights are out of the optimiser's reach."""
    given = legacy()
    rng = np.random.default_rng(1)
    names = ("scale", "shift", "mean", "variance")
    for name in names:
        values = rng.uniform(0.5, 1.5, 5).astype(np.float32)
        given.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    given.graph.node[0].output[0] = "raw"
    given.graph.node.insert(1, helper.make_node("BatchNormalization", ["raw", *names], ["c"], "bn"))
    folded = fold_shapes(given)
    assert [node.op_type for node in folded.graph.node][:2] == ["Conv", "BatchNormalization"]
    weights = {t.name: t.raw_data for t in given.graph.initializer}
    kept = {t.name: t.raw_data for t in folded.graph.initializer if t.name in weights}
    assert kept == {name: weights[name] for name in kept}
    assert {"w", *names} <= set(kept)


def test_import_is_static_and_right():
    imported = import_model(legacy())
    assert imported.outputs[0].shape == (1, 5, 64)
    assert "shape_of" not in imported.mod.script()
    inputs = random_inputs(imported.inputs)
    expected = reference_outputs(imported, inputs)["y"]
    np.testing.assert_allclose(run_on_host(imported, inputs)["y"], expected, rtol=1e-4, atol=1e-5)


def test_the_reference_is_the_unfolded_graph():
    imported = import_model(legacy())
    assert "Shape" in {node.op_type for node in imported.onnx_model.graph.node}


def test_resize_scales_stay_constant():
    """They are floats, yet they decide a shape: they must not be detached with the weights."""
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    given = model(
        [
            helper.make_node("Resize", ["x", "", "scales"], ["r"], "up", mode="nearest"),
            helper.make_node("Shape", ["r"], ["s"], "shape"),
            helper.make_node("Reshape", ["r", "s"], ["y"], "same"),
        ],
        [value("x", [1, 2, 3, 3])],
        [value("y", None)],
        [scales],
    )
    assert import_model(given).outputs[0].shape == (1, 2, 6, 6)


def test_a_branch_on_a_shape_is_decided():
    def branch(kind, out):
        node = helper.make_node(kind, ["x"], [out])
        return helper.make_graph([node], out, [], [value(out, [2, 3])])

    given = model(
        [
            helper.make_node("Size", ["x"], ["size"], "size"),
            helper.make_node("Equal", ["size", "six"], ["same"], "same"),
            helper.make_node(
                "If",
                ["same"],
                ["y"],
                "choice",
                then_branch=branch("Neg", "then"),
                else_branch=branch("Abs", "else"),
            ),
        ],
        [value("x", [2, 3])],
        [value("y", [2, 3])],
        [onnx.numpy_helper.from_array(np.array(6, np.int64), "six")],
    )
    assert [node.op_type for node in fold_shapes(given).graph.node] == ["Neg"]
    imported = import_model(given)
    inputs = random_inputs(imported.inputs)
    np.testing.assert_array_equal(run_on_host(imported, inputs)["y"], -inputs["x"])


@pytest.mark.parametrize(("name", "least"), [("swin", 3000), ("vit", 700)])
def test_legacy_exports(name, least):
    """Swin-T with static shapes, ViT-B/16 with a symbolic batch that is given here."""
    given = read_graph(FIXTURES / f"{name}.onnx.xz")
    fill_weights(given)
    assert len(given.graph.node) > least
    imported = import_model(given, shapes=IMAGE)
    assert imported.inputs[0].shape == IMAGE["input"]
    assert imported.outputs[0].shape == (1, 1000)
    script = imported.mod.script()
    assert "shape_of" not in script
    assert "shape_to_tensor" not in script
    inputs = random_inputs(imported.inputs)
    folded = fold_shapes(imported.onnx_model)
    assert_static(folded.graph)
    before, after = (run_unoptimised(m, inputs)[0] for m in (imported.onnx_model, folded))
    assert before.std() > 0.1
    np.testing.assert_array_equal(before, after)


def test_legacy_export_keeps_its_symbolic_batch():
    given = read_graph(FIXTURES / "vit.onnx.xz")
    fill_weights(given)
    imported = import_model(given)
    assert imported.inputs[0].shape == ("batch", 3, 224, 224)
    assert imported.outputs[0].shape == ("batch", 1000)
