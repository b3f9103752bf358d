"""Strip an exported ONNX graph to what the zoo stores: no weights, no trace of the exporter.

Trained tensors lose their values and get a distribution to draw them from, chosen by how the graph
uses them. Everything else (indices, masks, shapes, scalars) keeps its values. Needs only onnx and
numpy.
"""

from __future__ import annotations

import lzma
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

KEY = "smartmem.seeded"
LARGEST_CONSTANT = 1 << 20
"""Bytes of a constant that is stored with its values; more is taken for a missed weight."""

_PASSES_ON = {"Cast", "Gather", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_NORMS = {
    "BatchNormalization": {1: "scale", 2: "bias", 3: "bias", 4: "variance"},
    "GroupNormalization": {1: "scale", 2: "bias"},
    "InstanceNormalization": {1: "scale", 2: "bias"},
    "LayerNormalization": {1: "scale", 2: "bias"},
}
_FIXED = {
    "scale": "normal 1 0.1",  # of a norm, or of a residual branch
    "bias": "normal 0 0.05",
    "variance": "uniform 0.5 1.5",
    "table": "normal 0 0.5",  # position tables and tokens: as large as what they are added to
}


def strip(model: onnx.ModelProto, trained: Iterable[np.ndarray], source: dict[str, str]) -> None:
    """Make `model` weightless, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        Exported from a network whose trained tensors held distinct random values.
    trained : iterable of numpy.ndarray
        Those values. A tensor of the graph is trained if all its values occur in one of them, in
        any order: exporters transpose, reshape and gather parameters.
    source : dict of str to str
        Where the graph comes from; the only metadata that is kept.
    """
    is_trained = _trained_test(trained)
    _refuse_repeats(model.graph)
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and values.size > 1 and is_trained(values):
            tensor.CopyFrom(_declared(model.graph, tensor.name, tensor.data_type, tensor.dims))
        elif values.nbytes > LARGEST_CONSTANT:
            raise ValueError(
                f"tensor '{tensor.name}' {values.shape} has {values.nbytes} bytes and matches no "
                "trained tensor: pass what it was computed from."
            )
    _share_constants(model.graph)
    _strip_metadata(model, source)


def declare(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Add trained tensors of float32, by their names and shapes, to a graph that reads them."""
    model.graph.initializer.extend(
        _declared(model.graph, name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )


def redistribute(model: onnx.ModelProto, distributions: Mapping[str, str]) -> None:
    """Declare other distributions for the weights whose names end as the keys say."""
    for ending, declared in distributions.items():
        entries = [
            entry
            for tensor in model.graph.initializer
            if tensor.name.endswith(ending)
            for entry in tensor.metadata_props
            if entry.key == KEY
        ]
        if not entries:
            raise ValueError(f"no trained tensor's name ends in '{ending}'")
        for entry in entries:
            entry.value = declared


def save(model: onnx.ModelProto, path: Path) -> int:
    """Write a graph, compressed; returns the size of the file."""
    data = lzma.compress(model.SerializeToString(deterministic=True), preset=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    partial.write_bytes(data)
    os.replace(partial, path)
    return len(data)


def _declared(
    graph: onnx.GraphProto, name: str, data_type: int, dims: Sequence[int]
) -> onnx.TensorProto:
    """A tensor without values, with the distribution that suits its use in `graph`."""
    role = _role(graph, name, tuple(dims))
    tensor = onnx.TensorProto(name=name, data_type=data_type, dims=dims)
    tensor.metadata_props.add(key=KEY, value=_FIXED.get(role, role))
    return tensor


def _trained_test(trained: Iterable[np.ndarray]) -> Callable[[np.ndarray], bool]:
    tables = [np.unique(values) for values in trained]

    def within(values: np.ndarray, table: np.ndarray) -> bool:
        places = np.minimum(np.searchsorted(table, values), table.size - 1)
        return bool((table[places] == values).all())

    def test(values: np.ndarray) -> bool:
        flat = values.ravel()
        return any(within(flat[:64], table) and within(flat, table) for table in tables)

    return test


def _refuse_repeats(graph: onnx.GraphProto) -> None:
    """The legacy exporter writes identical parameters once and repeats them by Identity nodes."""
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in constants:
            raise ValueError(
                f"'{node.output[0]}' repeats '{node.input[0]}': give the network's parameters "
                "distinct values before the export."
            )


def _share_constants(graph: onnx.GraphProto) -> None:
    """Keep one of several equal constants; the exporter folds a table anew wherever it is read."""
    kept: dict[tuple[object, ...], str] = {}
    replaced = {}
    for tensor in graph.initializer:
        if tensor.metadata_props:  # trained: it has no values
            continue
        values = numpy_helper.to_array(tensor)
        content = (tensor.data_type, values.shape, values.tobytes())
        first = kept.setdefault(content, tensor.name)
        if first != tensor.name:
            replaced[tensor.name] = first
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = replaced.get(name, name)
    remaining = [tensor for tensor in graph.initializer if tensor.name not in replaced]
    del graph.initializer[:]
    graph.initializer.extend(remaining)


def _weight(fan_in: int, kept_axis: int) -> str:
    return f"centred {kept_axis} {1 / math.sqrt(fan_in):.6g}"


def _role(graph: onnx.GraphProto, name: str, shape: tuple[int, ...]) -> str:
    """What a trained tensor is used as; for a weight, what to draw it from."""
    for node in graph.node:
        if name not in node.input:
            continue
        position = list(node.input).index(name)
        if node.op_type in _PASSES_ON and position == 0:
            role = _role(graph, node.output[0], shape)
            return "table" if node.op_type == "Gather" else role
        if node.op_type in _NORMS and position > 0:
            return _NORMS[node.op_type][position]
        if node.op_type == "Conv":
            return _weight(math.prod(shape[1:]), 0) if position == 1 else "bias"
        if node.op_type == "Gemm" and position < 2:
            flag = "transB" if position == 1 else "transA"
            transposed = any(a.name == flag and a.i for a in node.attribute)
            summed = 1 if transposed == (position == 1) else 0
            return _weight(shape[summed], 1 - summed)
        if node.op_type == "MatMul" and len(shape) == 2:
            return _weight(shape[1 - position], position)
        if node.op_type == "MatMul":
            return f"normal 0 {1 / math.sqrt(shape[-2] if position else shape[-1]):.6g}"
        if node.op_type == "Mul":
            return "scale"
        return "bias" if max(shape) == math.prod(shape) and len(shape) == 1 else "table"
    return "bias"


def _strip_metadata(model: onnx.ModelProto, source: dict[str, str]) -> None:
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    model.ir_version = max(model.ir_version, 10)  # the first that has a tensor's metadata_props
    for key, value in source.items():
        model.metadata_props.add(key=key, value=value)
