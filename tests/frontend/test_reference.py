from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx_graphs import linear

from smartmem_tvm.errors import ModelError, SmartMemError
from smartmem_tvm.frontend import TensorSpec, import_model, random_inputs, reference_outputs
from smartmem_tvm.frontend import reference as reference_module

SPECS = [
    TensorSpec("image", (4, 1000), "float32"),
    TensorSpec("half", (4, 1000), "float16"),
    TensorSpec("tokens", (4000,), "int64", upper=7),
    TensorSpec("count", (4000,), "int8"),
    TensorSpec("mask", (4000,), "bool"),
]


def test_random_inputs_follow_the_specifications():
    values = random_inputs(SPECS, seed=3)
    assert [(v.shape, str(v.dtype)) for v in values.values()] == [
        (spec.shape, spec.dtype) for spec in SPECS
    ]
    for name in ("image", "half"):
        assert abs(values[name].mean()) < 0.1
        assert abs(values[name].std() - 1) < 0.1
    assert set(np.unique(values["tokens"])) == set(range(7))
    assert set(np.unique(values["count"])) == set(range(100))
    assert 0.4 < values["mask"].mean() < 0.6


def test_random_inputs_are_seeded_by_name():
    first, again = random_inputs(SPECS, seed=3), random_inputs(SPECS[:1], seed=3)
    np.testing.assert_array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], random_inputs(SPECS, seed=4)["image"])
    twin = random_inputs([TensorSpec("other", (4, 1000), "float32")], seed=3)["other"]
    assert not np.array_equal(first["image"], twin)


def test_symbolic_extents_need_a_shape():
    specs = [TensorSpec("x", ("batch", 8), "float32")]
    with pytest.raises(ModelError, match="the symbolic extent 'batch': give its shape"):
        random_inputs(specs)
    assert random_inputs(specs, shapes={"x": (3, 8)})["x"].shape == (3, 8)
    with pytest.raises(ModelError, match="1 dimensions"):
        random_inputs(specs, shapes={"x": (3,)})
    with pytest.raises(ModelError, match="the input 'z'"):
        random_inputs(specs, shapes={"z": (3,)})


def test_reference_of_a_linear_layer():
    imported = import_model(linear())
    inputs = random_inputs(imported.inputs)
    w, b = (np.frombuffer(t.raw_data, np.float32) for t in imported.onnx_model.graph.initializer)
    expected = np.maximum(inputs["x"] @ w.reshape(8, 4) + b, 0)
    np.testing.assert_allclose(reference_outputs(imported, inputs)["y"], expected, rtol=1e-5)


def test_weights_over_the_limit_are_handed_over_in_memory(monkeypatch):
    imported = import_model(linear())
    inputs = random_inputs(imported.inputs)
    expected = reference_outputs(imported, inputs)["y"]
    monkeypatch.setattr(reference_module, "IN_MEMORY", 16)
    sizes = []
    session = onnxruntime.InferenceSession

    def spy(graph, *args, **kwargs):
        sizes.append(len(graph))
        return session(graph, *args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    np.testing.assert_array_equal(reference_outputs(imported, inputs)["y"], expected)
    weights = sum(len(t.raw_data) for t in imported.onnx_model.graph.initializer)
    assert sizes[0] < imported.onnx_model.ByteSize() - weights + 200


def test_wrong_inputs_are_refused():
    imported = import_model(linear())
    with pytest.raises(SmartMemError, match="'x' has dtype float64"):
        reference_outputs(imported, {"x": np.zeros((2, 8))})


def test_no_reference_without_onnx():
    imported = import_model(import_model(linear()).mod)
    with pytest.raises(ModelError, match="does not come from an ONNX graph"):
        reference_outputs(imported, random_inputs(imported.inputs))
