"""Both of torch's exporters write the same network with the same kernels.

The zoo's graphs are from the current exporter; ``tests/data/legacy`` has the same networks from the
legacy one, which writes three to six times as many nodes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from smartmem_tvm.devices import load_profile
from smartmem_tvm.explaining import explain
from smartmem_tvm.frontend import import_model
from smartmem_tvm.zoo.registry import load, read_graph
from smartmem_tvm.zoo.seeding import fill_weights

LEGACY = Path(__file__).parents[1] / "data" / "legacy"
LARGEST_DIFFERENCE = 0.02


def legacy(name, size):
    graph = read_graph(LEGACY / f"{name if size == 'full' else f'{name}-{size}'}.onnx.xz")
    fill_weights(graph, seed=0)
    return graph


def explained(graph, shape):
    imported = import_model(graph, shapes={graph.graph.input[0].name: shape})
    return explain(imported.mod, load_profile("cpu").target())


def extents(graph):
    return tuple(dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("swin", "micro"),
        ("vit", "micro"),
        pytest.param("swin", "full", marks=pytest.mark.slow),
        pytest.param("vit", "full", marks=pytest.mark.slow),
    ],
)
def test_both_exporters_give_the_same_kernels(name, size):
    current, old = load(name, size), legacy(name, size)
    exporters = [{p.key: p.value for p in m.metadata_props}["exporter"] for m in (current, old)]
    assert ["dynamo=True" in text for text in exporters] == [True, False]
    assert len(old.graph.node) > 1.2 * len(current.graph.node)  # they are not the same graph
    found = [explained(graph, extents(current)) for graph in (current, old)]
    kernels = [sum(kernel.calls for kernel in e.kernels) for e in found]
    assert min(kernels) > 10
    assert max(kernels) <= (1 + LARGEST_DIFFERENCE) * min(kernels)
    assert not any(kernel.layout_only for e in found for kernel in e.kernels)
