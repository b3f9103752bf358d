"""Taking the weights out of an ONNX graph and putting them back.

A graph without its weights is small: it can be checked, inferred, inlined and folded without
copying the weights or meeting the 2 GB limit of protocol buffers, and nothing that is done to it
can change a weight. Detached weights become graph inputs, which every tool understands.
"""

from __future__ import annotations

import math

import onnx

LARGE = 4096
"""Tensors of more elements are detached whatever their dtype: no shape is that long."""

_FLOATING = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
}
_FLOAT_SHAPE_OPERANDS = {("Resize", 1), ("Resize", 2), ("Upsample", 1)}
"""Floating operands (operator, position) that say how large the result is."""


def detach_weights(
    model: onnx.ModelProto,
) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """Split a model into its graph and its weights.

    Parameters
    ----------
    model : onnx.ModelProto
        Left as it is.

    Returns
    -------
    tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]
        A copy with the weights as further graph inputs, and the weights (the model's own
        tensors, not copies). Integers and scalars, which shapes are computed from, stay.
    """
    kept_floats = {
        node.input[position]
        for node in model.graph.node
        for position in range(len(node.input))
        if (node.op_type, position) in _FLOAT_SHAPE_OPERANDS
    }
    weights = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if _is_weight(tensor) and tensor.name not in kept_floats
    }
    bare = onnx.ModelProto()
    for descriptor, value in model.ListFields():
        if descriptor.name != "graph":
            _copy_field(bare, descriptor, value)
    for descriptor, value in model.graph.ListFields():
        if descriptor.name != "initializer":
            _copy_field(bare.graph, descriptor, value)
    bare.graph.initializer.extend(t for t in model.graph.initializer if t.name not in weights)
    declared = {value.name for value in model.graph.input}
    bare.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
        for name, tensor in weights.items()
        if name not in declared
    )
    return bare, weights


def attach_weights(bare: onnx.ModelProto, weights: dict[str, onnx.TensorProto]) -> None:
    """Turn the inputs of `bare` that are named in `weights` back into initializers, in place."""
    inputs = [value for value in bare.graph.input if value.name not in weights]
    used = used_names(bare.graph)
    del bare.graph.input[:]
    bare.graph.input.extend(inputs)
    bare.graph.initializer.extend(tensor for name, tensor in weights.items() if name in used)


def replace_graph(
    model: onnx.ModelProto, bare: onnx.ModelProto, weights: dict[str, onnx.TensorProto]
) -> None:
    """Give `model` everything of `bare`, in place; its weights stay where they are, uncopied.

    What :func:`attach_weights` would make of `bare`, but for the order of the initializers.
    """
    used = used_names(bare.graph)
    for index in reversed(range(len(model.graph.initializer))):
        name = model.graph.initializer[index].name
        if name not in weights or name not in used:
            del model.graph.initializer[index]
    for target, source, kept in ((model, bare, "graph"), (model.graph, bare.graph, "initializer")):
        for descriptor, _ in target.ListFields():
            if descriptor.name != kept:
                target.ClearField(descriptor.name)
        for descriptor, value in source.ListFields():
            if descriptor.name != kept:
                _copy_field(target, descriptor, value)
    model.graph.initializer.extend(bare.graph.initializer)
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def used_names(graph: onnx.GraphProto) -> set[str]:
    """Values that a node (of a subgraph too) reads or that the graph returns."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                names |= used_names(subgraph)
    return names


def _is_weight(tensor: onnx.TensorProto) -> bool:
    elements = math.prod(tensor.dims)
    return elements > LARGE or (elements > 1 and tensor.data_type in _FLOATING)


def _copy_field(target: object, descriptor: object, value: object) -> None:
    """Copy one field that is present; protocol buffers have three ways to."""
    current = getattr(target, descriptor.name)
    if hasattr(current, "MergeFrom"):
        current.MergeFrom(value)
    elif hasattr(current, "extend"):
        current.extend(value)
    else:
        setattr(target, descriptor.name, value)
