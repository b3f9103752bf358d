"""Shapes of graph inputs: what the caller fixes, and what stays symbolic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from ..errors import ModelError

Shape = Sequence[int | str]

_ELEMENTS = {
    onnx.TensorProto.BOOL,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.INT8,
    onnx.TensorProto.INT16,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.UINT16,
    onnx.TensorProto.UINT32,
    onnx.TensorProto.UINT64,
}
_CARRIED = {
    onnx.TensorProto.FLOAT4E2M1,
    onnx.TensorProto.FLOAT8E4M3FN,
    onnx.TensorProto.FLOAT8E4M3FNUZ,
    onnx.TensorProto.FLOAT8E5M2,
    onnx.TensorProto.FLOAT8E5M2FNUZ,
    onnx.TensorProto.FLOAT8E8M0,
    onnx.TensorProto.INT2,
    onnx.TensorProto.INT4,
    onnx.TensorProto.UINT2,
    onnx.TensorProto.UINT4,
}
"""Passed as bytes (:mod:`.narrow_types`)."""


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are fed: those without an initializer."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def declared_shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Extents of an input; a string is symbolic."""
    return tuple(
        dim.dim_value if dim.WhichOneof("value") == "dim_value" else dim.dim_param
        for dim in value.type.tensor_type.shape.dim
    )


def check_shapes(names: Sequence[str], shapes: Mapping[str, Shape]) -> None:
    """Refuse shapes of inputs that do not exist and extents that are no extents."""
    for name, shape in shapes.items():
        if name not in names:
            known = ", ".join(f"'{known}'" for known in names)
            raise ModelError(
                f"shapes names the input '{name}', which the model does not have: it has {known}."
            )
        for extent in shape:
            if isinstance(extent, bool) or not isinstance(extent, int | str) or extent in (0, ""):
                raise ModelError(_bad_extent(name, extent))
            if isinstance(extent, int) and extent < 0:
                raise ModelError(_bad_extent(name, extent))


def check_declared_inputs(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
    """Refuse inputs that are no tensors of numbers or booleans, or of unknown rank."""
    for value in graph_inputs(graph):
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise ModelError(
                f"input '{value.name}' is no tensor ({kind or 'no type declared'}); only tensors "
                "can be inputs."
            )
        tensor = value.type.tensor_type
        if tensor.elem_type not in _ELEMENTS | _CARRIED:
            element = onnx.TensorProto.DataType.Name(tensor.elem_type)
            raise ModelError(
                f"input '{value.name}' has elements of type {element}; inputs are numbers "
                "or booleans."
            )
        if not tensor.HasField("shape") and value.name not in shapes:
            raise ModelError(
                f"input '{value.name}' has no declared shape: give one, for example "
                f"shapes={{'{value.name}': (1, 3, 224, 224)}}."
            )


def check_declared_outputs(graph: onnx.GraphProto) -> None:
    """Refuse outputs that are no tensors."""
    for value in graph.output:
        kind = value.type.WhichOneof("value")
        if kind not in ("tensor_type", None):
            raise ModelError(
                f"output '{value.name}' is no tensor ({kind}); only tensors can be outputs: end "
                "the model at the tensors that it is made of."
            )


def apply_shapes(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
    """Write `shapes` into the graph's inputs, in place; a bound symbol is bound everywhere.

    Extents without a value or a name get a name of their own, and what the exporter recorded
    about intermediate shapes goes when an input's shape changes.
    """
    inputs = graph_inputs(graph)
    check_shapes([value.name for value in inputs], shapes)
    bound: dict[str, tuple[int | str, str]] = {}
    changed = False
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        if value.name in shapes:
            changed |= _override(value, shapes[value.name], bound)
        for axis, dim in enumerate(dims):
            if not dim.dim_param and dim.dim_value <= 0:
                dim.dim_param = f"{value.name}_{axis}"
    for value in inputs:
        if value.name not in shapes:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in bound:
                    _set(dim, bound[dim.dim_param][0])
    if changed:
        del graph.value_info[:]
        for output in graph.output:
            output.type.tensor_type.ClearField("shape")


def symbols(graph: onnx.GraphProto) -> list[tuple[str, str]]:
    """The pairs (input, symbolic extent) of a graph."""
    return [
        (value.name, extent)
        for value in graph_inputs(graph)
        for extent in declared_shape(value)
        if isinstance(extent, str)
    ]


def _override(
    value: onnx.ValueInfoProto, shape: Shape, bound: dict[str, tuple[int | str, str]]
) -> bool:
    tensor = value.type.tensor_type
    declared = declared_shape(value)
    if tensor.HasField("shape") and len(declared) != len(shape):
        raise ModelError(
            f"shapes gives input '{value.name}' {len(shape)} dimensions, {tuple(shape)}; the model "
            f"declares {len(declared)}, {declared}."
        )
    if not tensor.HasField("shape"):
        for extent in shape:
            _set(tensor.shape.dim.add(), extent)
        return True
    for dim, extent in zip(tensor.shape.dim, shape, strict=True):
        symbol = dim.dim_param
        earlier, place = bound.setdefault(symbol, (extent, value.name)) if symbol else (extent, "")
        if earlier != extent:
            raise ModelError(
                f"shapes gives the symbolic extent '{symbol}' two values: {earlier} in input "
                f"'{place}', {extent} in input '{value.name}'."
            )
        _set(dim, extent)
    return declared != tuple(shape)


def _set(dim: onnx.TensorShapeProto.Dimension, extent: int | str) -> None:
    if isinstance(extent, str):
        dim.dim_param = extent
    else:
        dim.dim_value = extent


def _bad_extent(name: str, extent: object) -> str:
    return (
        f"shapes gives input '{name}' the extent {extent!r}: extents are positive integers, or "
        "names for what stays symbolic."
    )
