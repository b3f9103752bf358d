"""Element types that no device computes with: floats of 4 and 8 bits, integers of 2 and 4 bits.

    Cast(x, to=FLOAT8E4M3FN)   →   number of magnitudes that |x| has passed, and the sign's bit
    Cast(codes, to=FLOAT)      →   Gather(table of the 256 values, codes)

Such tensors are carried in bytes: a float's code as uint8, an integer's value as int8 or uint8.
Inputs and outputs of the model are too: an array of such a type is passed as ``x.view("uint8")``
or ``x.astype("int8")``. TVM has these types, but its conversions differ from ONNX's where a value
is rounded, too large or not a number, and its OpenCL generator has no storage for them.

Operators that only move elements take carried tensors as they are; others, but for Cast, refuse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ModelError
from .onnx_graph import describe, nodes
from .shapes import graph_inputs
from .weights import used_names

INTEGERS = {
    TensorProto.INT2: (2, True),
    TensorProto.INT4: (4, True),
    TensorProto.UINT2: (2, False),
    TensorProto.UINT4: (4, False),
}
"""Bits of the integer types, and whether they are signed."""
FLOATS = {
    TensorProto.FLOAT4E2M1,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
    TensorProto.FLOAT8E8M0,
}
NARROW = FLOATS | set(INTEGERS)
_MOVING = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators whose first operand is moved and not computed with."""
_DECODED = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}


@dataclass
class _Rewriter:
    """Nodes and constants that replace casts; one for each graph."""

    graph: onnx.GraphProto
    made: list[onnx.NodeProto] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self._taken = used_names(self.graph)
        self._taken.update(output for node in self.graph.node for output in node.output)

    def name(self) -> str:
        self.count += 1
        name = f"narrow_{self.count}"
        return self.name() if name in self._taken else name

    def constant(self, values: np.ndarray) -> str:
        name = self.name()
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind: str, *inputs: str, output: str | None = None, **attrs: object) -> str:
        output = output or self.name()
        self.made.append(helper.make_node(kind, list(inputs), [output], **attrs))
        return output


def carry_narrow_types(graph: onnx.GraphProto) -> None:
    """Write a graph, in place, so that it carries narrow types in bytes.

    Raises
    ------
    ModelError
        An operator other than Cast computes with such a tensor.
    """
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in graph_inputs(graph)
        if value.type.tensor_type.elem_type in NARROW
    }
    if not kinds and not any(_narrow_target(node) for node in nodes(graph)):
        return
    rewriter = _Rewriter(graph)
    for node in graph.node:
        _refuse_subgraphs(node)
        source = kinds.get(node.input[0]) if node.input else None
        _refuse_computing(node, kinds)
        target = _narrow_target(node)
        if node.op_type == "Cast" and (source or target):
            if target:
                kinds[node.output[0]] = target
            _cast(rewriter, node, source, target)
            continue
        if source:
            kinds[node.output[0]] = source
        rewriter.made.append(node)
    del graph.node[:]
    graph.node.extend(rewriter.made)
    for value in (*graph.input, *graph.output):
        if value.name in kinds:
            value.type.tensor_type.elem_type = _carrier(kinds[value.name])
    kept = [value for value in graph.value_info if value.name not in kinds]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _narrow_target(node: onnx.NodeProto) -> int:
    """Narrow type that a cast makes, or 0."""
    target = _attribute(node, "to", 0) if node.op_type == "Cast" else 0
    return int(target) if target in NARROW else 0


def _attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default


def _refuse_computing(node: onnx.NodeProto, kinds: dict[str, int]) -> None:
    for position, name in enumerate(node.input):
        moves = node.op_type == "Cast" or node.op_type in _MOVING
        if name in kinds and not (moves and position == 0):
            kind = TensorProto.DataType.Name(kinds[name])
            raise ModelError(
                f"operator {node.op_type} (node {describe(node)}) reads '{name}', whose elements "
                f"are of type {kind}: devices compute with numbers of 8 bits and more, or "
                "booleans. Cast it to one of those before."
            )


def _refuse_subgraphs(node: onnx.NodeProto) -> None:
    for inner in _inner_nodes(node):
        if _narrow_target(inner):
            raise ModelError(
                f"operator Cast (node {describe(inner)}), in a branch of {describe(node)}, makes "
                "elements of less than 8 bits or floats of 8: cast outside of the branch."
            )


def _inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for attribute in node.attribute:
        for subgraph in (attribute.g, *attribute.graphs):
            yield from nodes(subgraph)


def _carrier(kind: int) -> int:
    signed = kind in INTEGERS and INTEGERS[kind][1]
    return TensorProto.INT8 if signed else TensorProto.UINT8


def _cast(rewriter: _Rewriter, node: onnx.NodeProto, source: int | None, target: int) -> None:
    value, result = node.input[0], node.output[0]
    if source in FLOATS:
        wide = int(_attribute(node, "to", 0))  # type: ignore[call-overload]
        table = wide if wide in _DECODED else TensorProto.FLOAT
        output = result if wide == table else None
        value = _decode(rewriter, value, source, table, output)
        if not target:
            if wide != table:
                rewriter.node("Cast", value, output=result, to=wide)
            return
    if not target:
        rewriter.node("Cast", value, output=result, to=_attribute(node, "to", 0))
    elif target in INTEGERS:
        _wrap(rewriter, value, target, result)
    else:
        saturate = bool(_attribute(node, "saturate", 1))
        mode = _attribute(node, "round_mode", b"up")
        _encode(rewriter, node, value, target, saturate, str(mode, "ascii"), result)


def _decode(rewriter: _Rewriter, codes: str, kind: int, wide: int, output: str | None) -> str:
    with np.errstate(over="ignore"):
        values = _values(kind).astype(helper.tensor_dtype_to_np_dtype(wide))
    table = rewriter.constant(values)
    index = rewriter.node("Cast", codes, to=TensorProto.INT32)
    return rewriter.node("Gather", table, index, output=output, axis=0)


def _wrap(rewriter: _Rewriter, value: str, kind: int, result: str) -> None:
    """The lowest bits, as two's complement where the type is signed."""
    bits, signed = INTEGERS[kind]
    whole = rewriter.node("Cast", value, to=TensorProto.INT32)
    half = rewriter.constant(np.array(2 ** (bits - 1) if signed else 0, "int32"))
    size = rewriter.constant(np.array(2**bits, "int32"))
    rest = rewriter.node("Mod", rewriter.node("Add", whole, half), size)
    rewriter.node("Cast", rewriter.node("Sub", rest, half), output=result, to=_carrier(kind))


def _encode(
    rewriter: _Rewriter,
    node: onnx.NodeProto,
    value: str,
    kind: int,
    saturate: bool,
    mode: str,
    result: str,
) -> None:
    """The code is the number of thresholds that the magnitude exceeds, and the sign's bit."""
    scale = kind == TensorProto.FLOAT8E8M0
    if scale and mode not in ("up", "down"):
        raise ModelError(
            f"operator Cast (node {describe(node)}) has round_mode '{mode}': 'up' and 'down' are "
            "implemented."
        )
    value = rewriter.node("Cast", value, to=TensorProto.FLOAT)
    limits = _scale_thresholds(mode, saturate) if scale else _thresholds(kind, saturate)
    thresholds = rewriter.constant(limits)
    magnitude = rewriter.node("Abs", value)
    last = rewriter.constant(np.array([-1]))
    passed = rewriter.node("Greater", rewriter.node("Unsqueeze", magnitude, last), thresholds)
    passed = rewriter.node("Cast", passed, to=TensorProto.INT32)
    code = rewriter.node("ReduceSum", passed, last, keepdims=0)
    zero, none = rewriter.constant(np.float32(0)), rewriter.constant(np.int32(0))
    negative = rewriter.node("Less", value, zero)
    unknown = rewriter.node("IsNaN", value)
    if scale:
        unknown, not_a_number = rewriter.node("Or", unknown, negative), 255
    else:
        code, not_a_number, undefined = _signed(rewriter, kind, value, negative, code, none)
        if undefined:
            unknown = rewriter.node("Or", unknown, undefined)
    code = rewriter.node("Where", unknown, rewriter.constant(np.int32(not_a_number)), code)
    rewriter.node("Cast", code, output=result, to=TensorProto.UINT8)


def _signed(
    rewriter: _Rewriter, kind: int, value: str, negative: str, code: str, none: str
) -> tuple[str, int, str]:
    """Code with the sign's bit, the code of what is no number, and where it has overflowed."""
    sign = rewriter.constant(np.int32(8 if kind == TensorProto.FLOAT4E2M1 else 128))
    undefined = ""
    if kind in (TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2FNUZ):
        # One zero, and the code of the other is what is no number.
        negative = rewriter.node("And", negative, rewriter.node("Greater", code, none))
        undefined = rewriter.node("Greater", code, rewriter.constant(np.int32(127)))
        not_a_number = 128
    else:
        inverse = rewriter.node("Reciprocal", value)  # of -0 it is minus infinity
        below = rewriter.node("Less", inverse, rewriter.constant(np.float32(0)))
        negative = rewriter.node("Or", negative, below)
        not_a_number = {TensorProto.FLOAT4E2M1: 8, TensorProto.FLOAT8E5M2: 126}.get(kind, 127)
    bit = rewriter.node("Where", negative, sign, none)
    return rewriter.node("Add", code, bit), not_a_number, undefined


def _values(kind: int) -> np.ndarray:
    """Value of each code."""
    codes = np.arange(256, dtype="uint8")
    return codes.view(helper.tensor_dtype_to_np_dtype(kind)).astype("float64")


def _thresholds(kind: int, saturate: bool) -> np.ndarray:
    """What a magnitude must exceed for each code from 1 on: to the nearest, ties to the even."""
    values = _values(kind)[: 8 if kind == TensorProto.FLOAT4E2M1 else 128]
    values = values[np.isfinite(values)]
    if not saturate and kind != TensorProto.FLOAT4E2M1:
        values = np.append(values, 2 * values[-1] - values[-2])
    middle = (values[1:] + values[:-1]) / 2
    limits = middle.astype("float32")
    even = np.arange(1, len(values)) % 2 == 0
    limits[even] = np.nextafter(limits[even], np.float32(0))
    return limits


def _scale_thresholds(mode: str, saturate: bool) -> np.ndarray:
    """The same for powers of two, rounded up or down."""
    values = np.ldexp(1.0, np.arange(-127, 128 if saturate else 129))
    if mode == "up":
        return values[:-1].astype("float32")
    with np.errstate(over="ignore"):
        limits = values[1:].astype("float32")
    return np.nextafter(limits, np.float32(0))
