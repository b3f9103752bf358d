from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from smartmem_tvm.zoo.registry import read_graph
from smartmem_tvm.zoo.seeding import distribution, fill_weights

SCRIPT = Path(__file__).parents[2] / "zoo" / "export" / "weightless.py"


@pytest.fixture(scope="module")
def weightless():
    spec = importlib.util.spec_from_file_location("weightless", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def exported():
    """A graph as an exporter leaves it, and the network's parameters."""
    rng = np.random.default_rng(0)
    shapes = {
        "kernel": (4, 3, 2, 2),
        "kernel_bias": (4,),
        "norm_scale": (4,),
        "norm_shift": (4,),
        "norm_mean": (4,),
        "norm_variance": (4,),
        "dense": (4, 5),
        "position": (1, 3, 5),
        "gamma": (5,),
        "dense_bias": (5,),
    }
    trained = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    constants = {
        "mask": np.array([[0, -100, 0, -100, 0]], np.float32),
        "shape": np.array([1, 3, 4], np.int64),
        "half": np.array(0.5, np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "kernel", "kernel_bias"], ["c"], "conv"),
        node(
            "BatchNormalization",
            ["c", "norm_scale", "norm_shift", "norm_mean", "norm_variance"],
            ["n"],
            "norm",
        ),
        node("Reshape", ["n", "shape"], ["r"], "reshape"),
        node("MatMul", ["r", "dense"], ["m"], "dense"),
        node("Add", ["m", "dense_bias"], ["b"], "bias"),
        node("Mul", ["b", "gamma"], ["g"], "gamma"),
        node("Add", ["g", "position"], ["p"], "position"),
        node("Add", ["p", "mask"], ["q"], "mask"),
        node("Mul", ["q", "half"], ["y"], "half"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 5])],
        [numpy_helper.from_array(v, k) for k, v in {**trained, **constants}.items()],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    model.graph.node[0].metadata_props.add(key="stack_trace", value="/home/someone/model.py")
    model.graph.node[0].doc_string = "somewhere"
    model.metadata_props.add(key="noise", value="noise")
    # Exporters transpose: the graph holds the transposed values of what the network trained.
    return model, [v.T.copy() for v in trained.values()], constants


def test_roles(weightless, exported):
    model, trained, constants = exported
    weightless.strip(model, trained, {"model": "test"})
    found = {tensor.name: distribution(tensor) for tensor in model.graph.initializer}
    assert found == {
        "kernel": "normal 0 0.288675",  # 1 / sqrt(12)
        "kernel_bias": "normal 0 0.05",
        "norm_scale": "normal 1 0.1",
        "norm_shift": "normal 0 0.05",
        "norm_mean": "normal 0 0.05",
        "norm_variance": "uniform 0.5 1.5",
        "dense": "normal 0 0.5",  # 1 / sqrt(4)
        "dense_bias": "normal 0 0.05",
        "gamma": "normal 1 0.1",
        "position": "normal 0 0.5",
        "mask": None,
        "shape": None,
        "half": None,
    }
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), constants[tensor.name])
        else:
            assert not tensor.HasField("raw_data")


def test_metadata_goes(weightless, exported):
    model, trained, _ = exported
    weightless.strip(model, trained, {"model": "test"})
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("model", "test")]
    assert b"someone" not in model.SerializeToString()
    assert b"somewhere" not in model.SerializeToString()


def test_file_and_back(weightless, exported, tmp_path):
    model, trained, _ = exported
    weightless.strip(model, trained, {})
    size = weightless.save(model, tmp_path / "tiny" / "full.onnx.xz")
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["full.onnx.xz"]
    assert (tmp_path / "tiny" / "full.onnx.xz").stat().st_size == size
    read = read_graph(tmp_path / "tiny" / "full.onnx.xz")
    assert read == model
    fill_weights(read)
    onnx.checker.check_model(read, full_check=True)


def test_a_large_constant_is_taken_for_a_missed_weight(weightless, exported):
    model, trained, _ = exported
    large = np.random.default_rng(1).standard_normal(1 << 19).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(large, "missed"))
    with pytest.raises(ValueError, match=r"'missed' .* matches no trained tensor"):
        weightless.strip(model, trained, {})


def test_merged_parameters_are_refused(weightless, exported):
    model, trained, _ = exported
    model.graph.node.insert(0, helper.make_node("Identity", ["gamma"], ["twin"]))
    with pytest.raises(ValueError, match="'twin' repeats 'gamma'"):
        weightless.strip(model, trained, {})
