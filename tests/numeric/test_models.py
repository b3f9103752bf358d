"""Whole models against onnxruntime; slow, and repeated on every driver before a release."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartmem_tvm import zoo
from smartmem_tvm.checking import TOLERANCE, output_errors
from smartmem_tvm.compiler import compile as compile_model
from smartmem_tvm.frontend import import_model, random_inputs, reference_outputs
from smartmem_tvm.zoo.registry import read_graph
from smartmem_tvm.zoo.seeding import fill_weights

LEGACY = Path(__file__).parents[1] / "data" / "legacy"
ZOO = ["zoo:swin", "zoo:vit", "zoo:convnext"]

pytestmark = [pytest.mark.slow, pytest.mark.device]


def compare(imported, dtype: str = "float32", shapes=None) -> None:
    artifact = compile_model(imported, "auto", dtype=dtype)
    inputs = random_inputs(imported.inputs, seed=1, shapes=shapes)
    with_times = artifact.profile(inputs)
    errors = output_errors(artifact.run(inputs), reference_outputs(imported, inputs))
    assert max(errors.values()) < TOLERANCE[dtype]
    # What explain counts from the module is what the device really launched.
    assert sum(kernel.launches for kernel in with_times) == artifact.manifest.launches


@pytest.mark.parametrize("name", ZOO)
def test_zoo_model_equals_onnxruntime(name: str, opencl_device) -> None:
    compare(import_model(name))


@pytest.mark.parametrize("name", ZOO)
def test_zoo_model_in_half_precision(name: str, opencl_info) -> None:
    if not opencl_info.fp16:
        pytest.skip(f"{opencl_info.name} has no fp16")
    compare(import_model(name), "float16")


@pytest.mark.parametrize("name", [entry["name"] for entry in zoo.list_models()])
def test_micro_size_of_every_model(name: str, opencl_device) -> None:
    compare(import_model(f"zoo:{name}/micro"))


@pytest.mark.parametrize("name", ["swin", "vit"])
def test_model_of_the_legacy_exporter(name: str, opencl_device) -> None:
    graph = read_graph(LEGACY / f"{name}.onnx.xz")
    fill_weights(graph, seed=0)
    shapes = {graph.graph.input[0].name: (1, 3, 224, 224)}
    compare(import_model(graph, shapes=shapes), shapes=shapes)
