"""Weights from a seed, for graphs that are stored without.

A stored tensor without values has, among its ``metadata_props``, one entry ``smartmem.seeded``
whose value names a distribution and two numbers:

- ``normal MEAN STD``, ``uniform LOW HIGH``: independent elements;
- ``centred AXIS STD``: weights of a convolution or matrix product. Normal, and the weights of each
  output, which are those of one index along AXIS, sum to zero. What all inputs of a sum have in
  common, as the mean of a rectified signal, then cancels; without that it grows from layer to layer
  and drowns what depends on the model's input (Brock et al., "Characterizing signal propagation to
  close the performance gap in unnormalized ResNets", ICLR 2021).
"""

from __future__ import annotations

import hashlib
import math

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
    elif kind == "centred":
        values = _centred(rng, shape, int(first))
        values *= np.float32(second)
    elif kind == "uniform":
        values = rng.random(shape, np.float32)
        values *= np.float32(second) - np.float32(first)
        values += np.float32(first)
    else:
        raise ValueError(f"tensor '{tensor.name}' declares an unknown distribution: {declared}")
    dtype = np.dtype(_DTYPES[tensor.data_type]).newbyteorder("<")
    return values.astype(dtype, copy=False)


def _centred(rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """Deviation 1, and zero means over every axis but this one; a sum of one term is left alone."""
    values = rng.standard_normal(shape, np.float32)
    summed = tuple(other for other in range(len(shape)) if other != axis)
    terms = math.prod(shape[other] for other in summed)
    if terms > 1:
        values -= values.mean(summed, keepdims=True)
        values *= np.float32(math.sqrt(terms / (terms - 1)))
    return values
