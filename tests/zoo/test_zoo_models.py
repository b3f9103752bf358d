from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from smartmem_tvm import zoo
from smartmem_tvm.errors import ModelError
from smartmem_tvm.frontend import import_model, random_inputs
from smartmem_tvm.frontend.runtime_errors import ORT_ERRORS
from smartmem_tvm.zoo.registry import graph_file, load_graph
from smartmem_tvm.zoo.seeding import distribution

MODELS = [(entry["name"], size) for entry in zoo.list_models() for size in entry["sizes"]]
# Weights of more than this would not fit beside the other tests; their smaller sizes are run.
MOST_PARAMS_M = 500


def runnable():
    """Every graph whose weights fit; only the smallest in the fast tests."""
    for name, size in MODELS:
        if zoo.info(name, size)["params_m"] < MOST_PARAMS_M:
            marks = [] if size == "micro" else [pytest.mark.slow]
            yield pytest.param(name, size, marks=marks)


PUBLISHED = {  # parameters in millions and 1e9 multiply-accumulates, as timm's tables give them
    ("convnext", "full"): (28.59, 4.47),
    ("swin", "full"): (28.29, 4.51),
    ("vit", "full"): (86.57, 17.58),
}


def test_the_list():
    listed = zoo.list_models()
    assert [entry["name"] for entry in listed] == sorted(entry["name"] for entry in listed)
    assert {"convnext", "swin", "vit"} <= {entry["name"] for entry in listed}
    assert all(zoo.DEFAULT_SIZE in entry["sizes"] for entry in listed)


@pytest.mark.parametrize(("name", "size"), MODELS)
def test_graphs_are_small_and_bare(name, size):
    assert graph_file(name, size).stat().st_size < 1 << 20
    model = load_graph(name, size)
    assert model.ByteSize() < 2 << 20
    texts = [model.doc_string, model.graph.doc_string, *(n.doc_string for n in model.graph.node)]
    assert not any(texts)
    assert not any(node.metadata_props for node in model.graph.node)
    assert b"/site-packages/" not in model.SerializeToString()
    assert {entry.key for entry in model.metadata_props} == {"model", "exporter"}
    for tensor in model.graph.initializer:
        assert tensor.HasField("raw_data") != (distribution(tensor) is not None)


@pytest.mark.parametrize(("name", "size"), PUBLISHED)
def test_figures_are_the_published_ones(name, size):
    figures = zoo.info(name, size)
    params, macs = PUBLISHED[name, size]
    assert figures["params_m"] == pytest.approx(params, rel=0.015)
    assert figures["macs_g"] == pytest.approx(macs, rel=0.02)
    assert figures["operators"] == len(load_graph(name, size).graph.node)
    assert figures["inputs"] == {"input": [1, 3, 224, 224]}
    assert figures["outputs"] == {"logits": [1, 1000]}
    assert set(figures["source"]) == {"model", "exporter"}


# What squashes: the share of results that say no more than on which side their operand lies.
SATURATED = {
    "Relu": lambda result: (result == 0).mean(),
    "Sigmoid": lambda result: (np.abs(result - 0.5) > 0.499).mean(),
    "Softmax": lambda result: (result.max(-1) > 0.999).mean() if result.shape[-1] > 1 else 0,
}


def with_results_of(model: onnx.ModelProto, kinds) -> dict[str, str]:
    """Make the results of these kinds of operators outputs; returns the kinds by name."""
    found = {node.output[0]: node.op_type for node in model.graph.node if node.op_type in kinds}
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in found.keys() - outputs)
    return found


def dependence(first: np.ndarray, second: np.ndarray) -> float:
    """How much two results for independent inputs differ, relative to one: up to about 1.4.

    The median over the second axis of results with several: the boxes of a detector have the
    position of their cell in some of its channels, which is large and constant.
    """
    rows = (first[0], second[0]) if first.ndim > 2 else (first, second)
    ratios = [(a - b).std() / a.std() for a, b in zip(*rows, strict=True)]
    return float(np.median(ratios))


@pytest.mark.parametrize(("name", "size"), list(runnable()))
def test_seeded_models_compute_something(name, size):
    imported = import_model(f"zoo:{name}/{size}")
    inputs = [random_inputs(imported.inputs, seed) for seed in (0, 1)]
    del imported
    model = zoo.load(name, size)
    outputs = [value.name for value in model.graph.output]
    squashed = with_results_of(model, SATURATED)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    del model
    wanted = [*outputs, *(name for name in squashed if name not in outputs)]
    first = dict(zip(wanted, session.run(wanted, inputs[0]), strict=True))
    second = dict(zip(outputs, session.run(outputs, inputs[1]), strict=True))
    for key in outputs:
        assert np.isfinite(first[key]).all()
        # Pixels of boxes spread more than logits.
        assert 0.1 < first[key].std() < 100
        assert dependence(first[key], second[key]) > 0.25
    for key, kind in squashed.items():
        assert SATURATED[kind](first[key]) < 0.7, f"{kind} '{key}' is saturated"


def test_a_weightless_file_is_no_model():
    stored = load_graph("convnext")
    with pytest.raises(ModelError, match="stored without weights"):
        import_model(stored)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(stored)
    with pytest.raises(ORT_ERRORS):
        onnxruntime.InferenceSession(stored.SerializeToString())


@pytest.mark.parametrize("name", ["swim", "", "../swin", "swin/full"])
def test_unknown_model(name):
    with pytest.raises(ModelError, match=r"it has .*convnext.* swin, .*vit"):
        zoo.load(name)


@pytest.mark.parametrize("size", ["tiny", "", "../swin/full", "*"])
def test_unknown_size(size):
    with pytest.raises(ModelError, match=r"of vit: it has .*full"):
        zoo.info("vit", size)


def test_the_folder_is_no_package_of_its_own():
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", "import zoo"], cwd=root, capture_output=True, text=True, check=False
    )
    assert found.returncode != 0
    assert "this folder is the package smartmem_tvm.zoo" in found.stderr
