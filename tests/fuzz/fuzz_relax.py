"""A random graph as a Relax module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from fuzz_graphs import BATCH, BOUND, Graph, is_symbolic
from tvm import relax, tirx

OPERATORS: dict[str, Callable[..., Any]] = {
    "reshape": lambda a, k: relax.op.reshape(a[0], k["shape"]),
    "permute_dims": lambda a, k: relax.op.permute_dims(a[0], k["axes"]),
    "expand_dims": lambda a, k: relax.op.expand_dims(a[0], k["axis"]),
    "squeeze": lambda a, k: relax.op.squeeze(a[0], [k["axis"]]),
    "flip": lambda a, k: relax.op.flip(a[0], k["axis"]),
    "strided_slice": lambda a, k: relax.op.strided_slice(
        a[0], [k["axis"]], [k["begin"]], [k["end"]], [k["stride"]]
    ),
    "split": lambda a, k: relax.op.split(a[0], k["indices"], k["axis"]),
    "concat": lambda a, k: relax.op.concat(a, k["axis"]),
    "pad": lambda a, k: relax.op.nn.pad(
        a[0], [width for pair in k["widths"] for width in pair], k["mode"], k["value"]
    ),
    "broadcast_to": lambda a, k: relax.op.broadcast_to(a[0], k["shape"]),
    "repeat": lambda a, k: relax.op.repeat(a[0], k["repeats"], k["axis"]),
    "tile": lambda a, k: relax.op.tile(a[0], k["repeats"]),
    "take": lambda a, k: relax.op.take(a[0], a[1], k["axis"]),
    "relu": lambda a, _: relax.op.nn.relu(a[0]),
    "exp": lambda a, _: relax.op.exp(a[0]),
    "sigmoid": lambda a, _: relax.op.sigmoid(a[0]),
    "tanh": lambda a, _: relax.op.tanh(a[0]),
    "negative": lambda a, _: relax.op.negative(a[0]),
    "abs": lambda a, _: relax.op.abs(a[0]),
    "erf": lambda a, _: relax.op.erf(a[0]),
    "add": lambda a, _: relax.op.add(a[0], a[1]),
    "subtract": lambda a, _: relax.op.subtract(a[0], a[1]),
    "multiply": lambda a, _: relax.op.multiply(a[0], a[1]),
    "maximum": lambda a, _: relax.op.maximum(a[0], a[1]),
    "minimum": lambda a, _: relax.op.minimum(a[0], a[1]),
    "divide_safely": lambda a, _: relax.op.divide(
        a[0], relax.op.add(relax.op.abs(a[1]), relax.const(1.0))
    ),
    "add_scalar": lambda a, k: relax.op.add(a[0], relax.const(k["value"], "float32")),
    "multiply_scalar": lambda a, k: relax.op.multiply(a[0], relax.const(k["value"], "float32")),
    "where": lambda a, _: relax.op.where(a[0], a[1], a[2]),
    "where_greater": lambda a, k: relax.op.where(
        relax.op.greater(a[0], relax.const(k["value"], "float32")), a[1], a[2]
    ),
    "matmul": lambda a, _: relax.op.matmul(a[0], a[1]),
    "conv2d": lambda a, k: relax.op.nn.conv2d(
        a[0], a[1], k["strides"], k["padding"], k["dilation"], k["groups"]
    ),
    "max_pool2d": lambda a, k: relax.op.nn.max_pool2d(a[0], k["size"], k["strides"]),
    "conv2d_transpose": lambda a, k: relax.op.nn.conv2d_transpose(
        a[0], a[1], k["strides"], k["padding"], k["output_padding"], k["dilation"], k["groups"]
    ),
    "pool2d": lambda a, k: getattr(relax.op.nn, f"{k['kind']}_pool2d")(
        a[0], k["size"], k["strides"], k["padding"], count_include_pad=k["count_padding"]
    ),
    "argmax": lambda a, k: relax.op.argmax(a[0], k["axis"], k["keepdims"]),
    "argmin": lambda a, k: relax.op.argmin(a[0], k["axis"], k["keepdims"]),
    "rms_norm": lambda a, k: relax.op.nn.rms_norm(a[0], a[1], k["axes"]),
    "group_norm": lambda a, k: relax.op.nn.group_norm(
        a[0], a[1], a[2], k["groups"], 1, list(range(2, k["ndim"]))
    ),
    "scatter_elements": lambda a, k: relax.op.scatter_elements(*a, k["axis"], k["reduction"]),
    "scatter_nd": lambda a, k: relax.op.scatter_nd(*a, k["reduction"]),
    "sum": lambda a, k: relax.op.sum(a[0], k["axes"], k["keepdims"]),
    "mean": lambda a, k: relax.op.mean(a[0], k["axes"], k["keepdims"]),
    "max": lambda a, k: relax.op.max(a[0], k["axes"], k["keepdims"]),
    "min": lambda a, k: relax.op.min(a[0], k["axes"], k["keepdims"]),
    "variance": lambda a, k: relax.op.variance(a[0], k["axes"], k["keepdims"]),
    "softmax": lambda a, k: relax.op.nn.softmax(a[0], k["axis"]),
    "layer_norm": lambda a, k: relax.op.nn.layer_norm(a[0], a[1], a[2], k["axes"]),
}

# Which of them random graphs have not, but random kernels.
OF_KERNELS = frozenset(
    "conv2d_transpose pool2d argmax argmin rms_norm group_norm scatter_elements scatter_nd".split()
)


def to_relax(graph: Graph, *, negated_twice: bool = False) -> tvm.IRModule:
    """Module whose "main" takes the graph's inputs and returns its outputs, always as a tuple.

    With `negated_twice` every output is, so that none is a tensor of the graph itself.
    """
    batch = tirx.Var("n", "int64")

    def extents(shape: Any) -> list[Any]:
        return [batch * (e // BATCH) if is_symbolic(e) else e for e in shape]

    known: dict[str, Any] = {}
    values = graph.values()
    for tensor in graph.tensors:
        if tensor.is_constant:
            known[tensor.name] = relax.const(values[tensor.name])
        else:
            ty = relax.TensorType(extents(tensor.shape), tensor.dtype)
            known[tensor.name] = relax.Var(tensor.name, ty)
    parameters = [known[tensor.name] for tensor in graph.inputs]
    half = [tensor.name for tensor in graph.tensors if tensor.dtype == "float16"]
    builder = relax.BlockBuilder()
    with builder.function("main", parameters):
        with builder.dataflow():
            for name in half:
                known[name] = builder.emit(relax.op.astype(known[name], "float32"))
            for step in graph.steps:
                attrs = dict(step.attrs)
                if "shape" in attrs:
                    attrs["shape"] = extents(attrs["shape"])
                made = builder.emit(OPERATORS[step.op]([known[r] for r in step.reads], attrs))
                if len(step.shapes) == 1:
                    known[step.name] = made
                else:
                    for number, name in enumerate(step.makes):
                        known[name] = builder.emit(relax.TupleGetItem(made, number))
            outputs = [known[name] for name in graph.outputs]
            if half:
                outputs = [_in_half(builder, output) for output in outputs]
            for _ in range(2 * negated_twice):
                outputs = [builder.emit(relax.op.negative(output)) for output in outputs]
            result = builder.emit_output(relax.Tuple(outputs))
        builder.emit_func_output(result)
    mod = builder.finalize()
    if graph.n:
        mod["main"] = mod["main"].with_attr("tir_var_upper_bound", {"n": BOUND})
    return mod


def _in_half(builder: relax.BlockBuilder, output: Any) -> Any:
    if output.ty.dtype != "float32":
        return output
    return builder.emit(relax.op.astype(output, "float16"))
