"""Weights from a seed, for graphs that are stored without.

A stored tensor without values has, among its ``metadata_props``, one entry ``smartmem.seeded``
whose value names a distribution and two numbers: ``normal MEAN STD`` or ``uniform LOW HIGH``.
"""

from __future__ import annotations

import hashlib

import numpy as np
import onnx

KEY = "smartmem.seeded"

_DTYPES = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.FLOAT16: np.float16}


def distribution(tensor: onnx.TensorProto) -> str | None:
    """The distribution that a tensor's values are drawn from, or None if it has its values."""
    return next((entry.value for entry in tensor.metadata_props if entry.key == KEY), None)


def fill_weights(model: onnx.ModelProto, seed: int = 0) -> None:
    """Give every tensor that is stored without values those of `seed`, in place.

    The values of a tensor depend on the seed and on its name alone: neither the order of the
    tensors nor what else is in the graph changes them.

    Parameters
    ----------
    model : onnx.ModelProto
        A graph of the zoo. Tensors with values keep them.
    seed : int
        Any integer.
    """
    for tensor in model.graph.initializer:
        declared = distribution(tensor)
        if declared is not None:
            tensor.raw_data = _draw(tensor, declared, seed).tobytes()
            del tensor.metadata_props[:]


def _draw(tensor: onnx.TensorProto, declared: str, seed: int) -> np.ndarray:
    kind, first, second = declared.split()
    digest = hashlib.sha256(f"{seed} {tensor.name}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
    shape = tuple(tensor.dims)
    if kind == "normal":
        values = rng.standard_normal(shape, np.float32)
        values *= np.float32(second)
        values += np.float32(first)
    elif kind == "uniform":
        values = rng.random(shape, np.float32)
        values *= np.float32(second) - np.float32(first)
        values += np.float32(first)
    else:
        raise ValueError(f"tensor '{tensor.name}' declares an unknown distribution: {declared}")
    dtype = np.dtype(_DTYPES[tensor.data_type]).newbyteorder("<")
    return values.astype(dtype, copy=False)
