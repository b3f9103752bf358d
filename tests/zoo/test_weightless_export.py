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
        "kernel": "centred 0 0.288675",  # 1 / sqrt(12), per output channel: axis 0
        "kernel_bias": "normal 0 0.05",
        "norm_scale": "normal 1 0.1",
        "norm_shift": "normal 0 0.05",
        "norm_mean": "normal 0 0.05",
        "norm_variance": "uniform 0.5 1.5",
        "dense": "centred 1 0.5",  # 1 / sqrt(4), per column: axis 1
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


@pytest.mark.parametrize(
    ("node", "dims", "expected"),
    [
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1), [5, 4], "centred 0 0.5"),
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"]), [4, 5], "centred 1 0.5"),
        (helper.make_node("Gemm", ["w", "x", "b"], ["y"]), [5, 4], "centred 0 0.5"),
        (helper.make_node("Gemm", ["w", "x", "b"], ["y"], transA=1), [4, 5], "centred 1 0.5"),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), [4, 5], "centred 1 0.5"),
        (helper.make_node("MatMul", ["w", "x"], ["y"]), [5, 4], "centred 0 0.5"),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), [3, 4, 5], "normal 0 0.5"),
        (helper.make_node("Conv", ["x", "w"], ["y"]), [8, 2, 3, 3], "centred 0 0.235702"),
        (helper.make_node("Gather", ["w", "i"], ["y"]), [9, 4], "normal 0 0.5"),
    ],
)
def test_weights_are_centred_per_output(weightless, node, dims, expected):
    model = onnx.ModelProto()
    model.graph.node.append(node)
    weightless.declare(model, {"w": dims})
    (tensor,) = model.graph.initializer
    assert (tensor.name, list(tensor.dims), distribution(tensor)) == ("w", dims, expected)


def test_equal_constants_are_shared(weightless, exported):
    model, trained, constants = exported
    model.graph.initializer.append(numpy_helper.from_array(constants["mask"], "twin"))
    model.graph.initializer.append(numpy_helper.from_array(constants["mask"].T.copy(), "other"))
    model.graph.node.append(helper.make_node("Add", ["twin", "other"], ["z"], "twice"))
    weightless.strip(model, trained, {})
    assert list(model.graph.node[-1].input) == ["mask", "other"]
    assert "twin" not in {tensor.name for tensor in model.graph.initializer}


def test_redistribute(weightless, exported):
    model, trained, _ = exported
    weightless.strip(model, trained, {})
    weightless.redistribute(model, {"_bias": "normal 0 1"})
    found = {tensor.name: distribution(tensor) for tensor in model.graph.initializer}
    assert [name for name, drawn in found.items() if drawn == "normal 0 1"] == [
        "kernel_bias",
        "dense_bias",
    ]
    with pytest.raises(ValueError, match="no trained tensor's name ends in 'mask'"):
        weightless.redistribute(model, {"mask": "normal 0 1"})


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
