"""Seeded inputs for a model, and what onnxruntime computes from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime

from ..errors import ModelError
from .inputs import check_inputs
from .model import ImportedModel, TensorSpec
from .runtime_errors import ORT_ERRORS
from .shapes import Shape, check_shapes
from .weights import detach_weights

THREADS = 2
IN_MEMORY = 1 << 30
"""Weights of more bytes are handed over beside the graph: protocol buffers end at 2 GB."""
_INTEGERS = 100
"""Integer inputs without a known bound are drawn from 0 to 99."""


def random_inputs(
    inputs: Sequence[TensorSpec],
    seed: int = 0,
    shapes: Mapping[str, Shape] | None = None,
) -> dict[str, np.ndarray]:
    """Draw inputs: floats standard normal, integers within the table they index, fair booleans.

    Parameters
    ----------
    inputs : sequence of TensorSpec
        As :class:`ImportedModel` has them.
    seed : int
        The same seed gives the same values; each input's do not depend on the other inputs.
    shapes : mapping of str to tuple, optional
        Shapes of inputs that are symbolic.
    """
    given = shapes or {}
    check_shapes([spec.name for spec in inputs], given)
    values = {}
    for spec in inputs:
        shape = _concrete_shape(spec, given.get(spec.name))
        rng = np.random.default_rng([seed, *spec.name.encode()])
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            values[spec.name] = rng.standard_normal(shape).astype(dtype)
        elif dtype.kind in "iu":
            values[spec.name] = rng.integers(0, spec.upper or _INTEGERS, shape).astype(dtype)
        elif dtype.kind == "b":
            values[spec.name] = rng.integers(0, 2, shape).astype(dtype)
        else:
            raise ModelError(f"input '{spec.name}' has dtype {spec.dtype}: no values to draw.")
    return values


def reference_outputs(
    imported: ImportedModel, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Run the imported ONNX graph, as it was before any folding, in onnxruntime.

    Raises
    ------
    ModelError
        The model is not from ONNX, or onnxruntime cannot run the graph.
    SmartMemError
        The inputs do not fit.
    """
    if imported.onnx_model is None:
        raise ModelError(
            f"'{imported.name}' does not come from an ONNX graph, so onnxruntime cannot compute a "
            "reference for it."
        )
    check_inputs(imported.inputs, inputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = _session(imported.onnx_model, options)
        names = [spec.name for spec in imported.outputs]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except ORT_ERRORS as error:
        raise ModelError(f"onnxruntime cannot run '{imported.name}': {error}") from error


def _session(
    model: onnx.ModelProto, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    providers = ["CPUExecutionProvider"]
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= IN_MEMORY:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    # Declared as external data that is never opened: the values are given from memory, which
    # onnxruntime otherwise copies into a form of its own.
    options.add_session_config_entry("session.disable_prepacking", "1")
    bare, weights = detach_weights(model)
    inputs = [value for value in bare.graph.input if value.name not in weights]
    del bare.graph.input[:]
    bare.graph.input.extend(inputs)
    for name, tensor in weights.items():
        declared = bare.graph.initializer.add(
            name=name, data_type=tensor.data_type, dims=tensor.dims
        )
        declared.data_location = onnx.TensorProto.EXTERNAL
        declared.external_data.add(key="location", value="in-memory")
    values = [
        onnxruntime.OrtValue.ortvalue_from_numpy(onnx.numpy_helper.to_array(tensor))
        for tensor in weights.values()
    ]
    options.add_external_initializers(list(weights), values)
    return onnxruntime.InferenceSession(bare.SerializeToString(), options, providers=providers)


def _concrete_shape(spec: TensorSpec, given: Shape | None) -> tuple[int, ...]:
    shape = spec.shape if given is None else tuple(given)
    if len(shape) != len(spec.shape):
        raise ModelError(
            f"shapes gives input '{spec.name}' {len(shape)} dimensions, {shape}; the model has "
            f"{len(spec.shape)}, {spec.shape}."
        )
    unknown = next((extent for extent in shape if isinstance(extent, str)), None)
    if unknown is not None:
        raise ModelError(
            f"input '{spec.name}' has the symbolic extent '{unknown}': give its shape "
            f"(shapes={{'{spec.name}': (…)}})."
        )
    return tuple(int(extent) for extent in shape)
