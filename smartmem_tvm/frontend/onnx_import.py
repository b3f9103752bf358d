"""ONNX models become Relax.

Requires standard operators and input shapes; guarantees a function "main" whose parameters are the
graph's inputs in order, whose weights are constants, and in which nothing depends on constants
alone. TVM's importer does the conversion; what it says about a graph it cannot convert is turned
into an error that names the node.
"""

from __future__ import annotations

import contextlib
import io
import traceback
import warnings
from collections.abc import Mapping

import onnx
import onnx.inliner
import tvm
from tvm.relax.frontend.onnx import onnx_frontend

from ..errors import ModelError
from .folding import fold_shapes, needs_folding
from .importer_faults import Importer
from .model import ImportedModel, count_operators, fold, input_specs, output_specs
from .narrow_types import carry_narrow_types
from .onnx_file import check_complete
from .onnx_graph import STANDARD, check_operators, describe, index_bounds
from .shapes import (
    Shape,
    apply_shapes,
    check_declared_inputs,
    check_declared_outputs,
    graph_inputs,
    symbols,
)
from .weights import attach_weights, detach_weights, replace_graph

_CONVERSION_ERRORS = (
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What the importer's converters raise; translated only where it came from converting a node."""


def import_onnx(
    model: onnx.ModelProto,
    name: str,
    shapes: Mapping[str, Shape] | None = None,
    *,
    take_over: bool = False,
) -> ImportedModel:
    """Convert a model whose weights are loaded.

    Parameters
    ----------
    model : onnx.ModelProto
        Left as it is, unless `take_over`.
    name : str
        The name of the result; messages use it too.
    shapes : mapping of str to tuple, optional
        Shapes by input name, which replace the declared ones. Inputs that are not named, and
        extents given as a string, stay as declared.
    take_over : bool
        The caller does not need `model` any more: it becomes the result's `onnx_model`, which
        saves a copy of the weights.
    """
    check_complete(model, f"'{name}'")
    prepared = _prepare(model, name, shapes or {}, take_over)
    names = [value.name for value in graph_inputs(prepared.graph)]
    results = [value.name for value in prepared.graph.output]
    mod = _convert_folding(prepared)
    try:
        mod = fold(mod)
    except _CONVERSION_ERRORS:
        output_specs(mod["main"], results)  # what TVM asserts there is that shapes are known
        raise
    main = mod["main"]
    return ImportedModel(
        name=name,
        mod=mod,
        inputs=input_specs(main, names, index_bounds(prepared.graph)),
        outputs=output_specs(main, results),
        operators=count_operators(mod),
        onnx_model=prepared,
    )


def _prepare(
    model: onnx.ModelProto, name: str, shapes: Mapping[str, Shape], take_over: bool
) -> onnx.ModelProto:
    """Check, inline local functions and set the input shapes; in a copy unless taken over."""
    check_declared_inputs(model.graph, shapes)
    check_declared_outputs(model.graph)
    bare, weights = detach_weights(model)
    if bare.functions:
        bare = onnx.inliner.inline_local_functions(bare)
    if bare.graph.sparse_initializer:
        raise ModelError(f"'{name}' has sparse initializers: store them as dense tensors.")
    check_operators(bare.graph)
    try:
        onnx.checker.check_model(_with_shape_fields(bare))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"'{name}' is no valid ONNX model: {error}") from error
    if take_over:
        replace_graph(model, bare, weights)
    else:
        attach_weights(bare, weights)
        model = bare
    apply_shapes(model.graph, shapes)
    carry_narrow_types(model.graph)
    return model


def _with_shape_fields(bare: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose inputs and outputs all have a shape field.

    The checker wants one, but exporters leave out what they do not know, and for inputs `shapes`
    can make up for it.
    """
    checked = onnx.ModelProto()
    checked.CopyFrom(bare)
    for value in (*checked.graph.input, *checked.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return checked


def _convert_folding(model: onnx.ModelProto) -> tvm.IRModule:
    """Convert; shape arithmetic is folded first, or only where it must if shapes are symbolic.

    TVM keeps some shape arithmetic on symbolic extents that onnxruntime would leave alone, so a
    symbolic graph is first converted as it is. What it cannot convert, it refuses.
    """
    if not needs_folding(model.graph):
        return _convert(model)
    if symbols(model.graph):
        try:
            return _convert(model)
        except ModelError:
            return _convert(fold_shapes(model))
    try:
        folded = fold_shapes(model)
    except ModelError:
        # onnxruntime does not know the newest operator sets; there may be nothing to fold.
        with contextlib.suppress(ModelError):
            return _convert(model)
        raise
    return _convert(folded)


def _convert(model: onnx.ModelProto) -> tvm.IRModule:
    """TVM's import; it prints to the standard output and warns about what was checked here.

    Not ``from_onnx``, which has ONNX check the model again: that serialises all weights, and fails
    on 2 GB of them.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in STANDARD), 1)
    importer = Importer(shape_dict={}, dtype_dict=None)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return importer.from_onnx(model.graph, opset)
    except _CONVERSION_ERRORS as error:
        node = _node_in_conversion(error)
        if node is None:
            raise
        raise ModelError(_conversion_message(model, node, error)) from error


def _node_in_conversion(error: BaseException) -> onnx.NodeProto | None:
    """The node that the importer was at, from the frame that walks the graph."""
    walker = onnx_frontend.ONNXGraphImporter._construct_nodes.__code__
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is walker:
            return frame.f_locals.get("node")
    return None


def _conversion_message(model: onnx.ModelProto, node: onnx.NodeProto, error: BaseException) -> str:
    reason = str(error).strip().splitlines()
    message = (
        f"operator {node.op_type} (node {describe(node)}) cannot be converted: "
        f"{reason[0] if reason else type(error).__name__}"
    )
    unknown = symbols(model.graph)
    if unknown:
        extents = ", ".join(f"'{extent}' of input '{name}'" for name, extent in unknown)
        example = unknown[0][0]
        message += (
            f" Symbolic extents: {extents}; where an operator needs them known, give the input's "
            f"shape (shapes={{'{example}': (…)}})."
        )
    return message
