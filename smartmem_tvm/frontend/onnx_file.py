"""Reading ONNX files: what is no model, what is damaged and what is missing is said in a sentence.

External data is read here too, once every file was found inside the model's folder and long
enough for the tensors that point into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper as external

from ..errors import ModelError

_DTYPE_BITS = {
    kind: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).itemsize * 8
    for kind in onnx.helper.get_all_tensor_dtypes()
    if kind != onnx.TensorProto.STRING
} | {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
    onnx.TensorProto.INT2: 2,
    onnx.TensorProto.UINT2: 2,
}


def read_onnx(path: str | Path) -> onnx.ModelProto:
    """Read a model with its external data.

    Parameters
    ----------
    path : str or Path
        An ONNX file.

    Raises
    ------
    ModelError
        The file is missing, empty, truncated or no ONNX model; or its external data is missing,
        too short, or outside the model's folder.
    """
    path = Path(path)
    model = parse_onnx(_read_bytes(path), f"'{path}'")
    for tensor in tensors(model.graph):
        if external.uses_external_data(tensor):
            _load_external(tensor, path)
    check_complete(model, f"'{path}'")
    return model


def parse_onnx(data: bytes, origin: str) -> onnx.ModelProto:
    """Parse a serialised model; `origin` says in messages where the bytes are from."""
    if not data:
        raise ModelError(f"{origin} is empty (0 bytes): export or copy the ONNX model again.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{origin} is no ONNX model, or a truncated one ({len(data)} bytes do not parse as "
            "an ONNX protocol buffer): export or copy it again."
        ) from error
    _check_is_model(model, origin)
    return model


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All constant tensors of a graph: initializers and node attributes, subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in (attribute.g, *attribute.graphs):
                yield from tensors(subgraph)


def check_complete(model: onnx.ModelProto, origin: str) -> None:
    """Refuse constants without (all of) their values."""
    for tensor in tensors(model.graph):
        if external.uses_external_data(tensor):
            raise ModelError(
                f"{origin}: the values of tensor '{tensor.name}' are in an external file that was "
                "not loaded: give the path of the model, or load it with onnx.load(path)."
            )
        if tensor.data_type not in _DTYPE_BITS:
            continue
        wanted = _byte_size(tensor)
        if tensor.HasField("raw_data"):
            given = len(tensor.raw_data)
            if given == wanted:
                continue
        elif wanted == 0 or any(
            len(getattr(tensor, name))
            for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
        ):
            continue
        else:
            given = 0
        raise ModelError(
            f"{origin}: tensor '{tensor.name}' of shape {list(tensor.dims)} has {given} bytes of "
            f"values where {wanted} are needed: the model is truncated or was stored without "
            "weights. Export it with its weights (models of the zoo load as zoo:NAME)."
        )


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"'{path}' is a folder: give the ONNX file in it.")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(
            f"there is no model file '{path}' (models of the zoo are named zoo:NAME)."
        ) from error
    except OSError as error:
        raise ModelError(f"the model file '{path}' cannot be read: {error.strerror}.") from error


def _check_is_model(model: onnx.ModelProto, origin: str) -> None:
    """Few bytes parse as a message whose fields are all absent, so presence is what tells."""
    if not model.HasField("graph") or not model.ir_version:
        raise ModelError(f"{origin} is no ONNX model: it has no graph or no IR version.")
    if not model.graph.output:
        raise ModelError(f"{origin} has a graph without outputs: truncated, or no ONNX model.")
    if not model.opset_import:
        raise ModelError(
            f"{origin} imports no operator set: the file is truncated, or the exporter left "
            "opset_import out. Export it again."
        )


def _load_external(tensor: onnx.TensorProto, model_path: Path) -> None:
    place = external.ExternalDataInfo(tensor)
    folder = model_path.parent.resolve()
    file = (folder / place.location).resolve()
    if not place.location or not file.is_relative_to(folder):
        raise ModelError(
            f"'{model_path}': tensor '{tensor.name}' has its values in '{place.location}', outside "
            f"the model's folder '{folder}'. Put the data file beside the model and refer to it "
            "by a relative path."
        )
    if not file.is_file():
        raise ModelError(
            f"'{model_path}': the external data file '{place.location}' of tensor '{tensor.name}' "
            f"is missing: put it into '{folder}'."
        )
    wanted = _byte_size(tensor)
    offset = place.offset or 0
    length = wanted if place.length is None else place.length
    available = file.stat().st_size - offset
    if length != wanted or offset < 0 or available < length:
        raise ModelError(
            f"'{model_path}': tensor '{tensor.name}' of shape {list(tensor.dims)} needs {wanted} "
            f"bytes; '{place.location}' offers {max(0, min(length, available))} at offset "
            f"{offset}. The data file is truncated or belongs to another model."
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(wanted)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _byte_size(tensor: onnx.TensorProto) -> int:
    elements = int(np.prod(tensor.dims, dtype=np.int64)) if tensor.dims else 1
    return (elements * _DTYPE_BITS.get(tensor.data_type, 0) + 7) // 8
