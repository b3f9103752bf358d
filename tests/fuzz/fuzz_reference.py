"""What a random graph computes, in NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from fuzz_graphs import Graph, at

Arrays = list[np.ndarray]


class IllConditionedError(Exception):
    """The graph amplifies rounding, overflows, or compares equal numbers: it tests nothing."""


def _axes(attrs: dict[str, Any]) -> dict[str, Any]:
    return {"axis": tuple(attrs["axes"]), "keepdims": attrs["keepdims"]}


def _slice(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    index = [slice(None)] * arrays[0].ndim
    index[attrs["axis"]] = slice(attrs["begin"], attrs["end"], attrs["stride"])
    return arrays[0][tuple(index)]


_PAD_MODES = {"replicate": "edge", "reflect": "reflect", "circular": "wrap"}  # NumPy's words


def _pad(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    if attrs["mode"] == "constant":
        return np.pad(arrays[0], attrs["widths"], constant_values=attrs["value"])
    return np.pad(arrays[0], attrs["widths"], mode=_PAD_MODES[attrs["mode"]])


def _where_greater(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    distance = np.abs(arrays[0] - attrs["value"])
    if distance.size and distance.min() < 1e-4:
        raise IllConditionedError("a comparison of numbers that are nearly equal")
    return np.where(arrays[0] > attrs["value"], arrays[1], arrays[2])


def _softmax(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    raised = np.exp(arrays[0] - arrays[0].max(axis=attrs["axis"], keepdims=True))
    return raised / raised.sum(axis=attrs["axis"], keepdims=True)


def _layer_norm(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    data, gamma, beta = arrays
    axes = tuple(attrs["axes"])
    centred = data - data.mean(axis=axes, keepdims=True)
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    return centred / np.sqrt(variance + 1e-5) * gamma + beta


def _windows(data: np.ndarray, size: list[int], strides: list[int], dilation: list[int]) -> Any:
    """Views of [n, c, h, w] with the window's axes last."""
    extent = [d * (s - 1) + 1 for s, d in zip(size, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(data, extent, axis=(2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilation[0], :: dilation[1]]


def _conv2d(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    data, weight = arrays
    top, left, bottom, right = attrs["padding"]
    data = np.pad(data, [(0, 0), (0, 0), (top, bottom), (left, right)])
    windows = _windows(data, list(weight.shape[2:]), attrs["strides"], attrs["dilation"])
    groups = attrs["groups"]
    parts = [
        np.einsum("nchwij,ocij->nohw", x, w)
        for x, w in zip(np.split(windows, groups, axis=1), np.split(weight, groups), strict=True)
    ]
    return np.concatenate(parts, axis=1)


def _max_pool2d(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    return _windows(arrays[0], attrs["size"], attrs["strides"], [1, 1]).max(axis=(-2, -1))


def _erf(arrays: Arrays, _attrs: dict[str, Any]) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[arrays[0].dtype])(arrays[0])


OPERATORS: dict[str, Callable[[Arrays, dict[str, Any]], Any]] = {
    "reshape": lambda a, k: a[0].reshape(k["shape"]),
    "permute_dims": lambda a, k: a[0].transpose(k["axes"]),
    "expand_dims": lambda a, k: np.expand_dims(a[0], k["axis"]),
    "squeeze": lambda a, k: np.squeeze(a[0], k["axis"]),
    "flip": lambda a, k: np.flip(a[0], k["axis"]),
    "strided_slice": _slice,
    "split": lambda a, k: np.split(a[0], k["indices"], axis=k["axis"]),
    "concat": lambda a, k: np.concatenate(a, axis=k["axis"]),
    "pad": _pad,
    "broadcast_to": lambda a, k: np.broadcast_to(a[0], k["shape"]),
    "repeat": lambda a, k: np.repeat(a[0], k["repeats"], axis=k["axis"]),
    "tile": lambda a, k: np.tile(a[0], k["repeats"]),
    "take": lambda a, k: np.take(a[0], a[1], axis=k["axis"]),
    "relu": lambda a, _: np.maximum(a[0], 0),
    "exp": lambda a, _: np.exp(a[0]),
    "sigmoid": lambda a, _: 1 / (1 + np.exp(-a[0])),
    "tanh": lambda a, _: np.tanh(a[0]),
    "negative": lambda a, _: -a[0],
    "abs": lambda a, _: np.abs(a[0]),
    "erf": _erf,
    "add": lambda a, _: a[0] + a[1],
    "subtract": lambda a, _: a[0] - a[1],
    "multiply": lambda a, _: a[0] * a[1],
    "maximum": lambda a, _: np.maximum(a[0], a[1]),
    "minimum": lambda a, _: np.minimum(a[0], a[1]),
    "divide_safely": lambda a, _: a[0] / (np.abs(a[1]) + 1),
    "add_scalar": lambda a, k: a[0] + a[0].dtype.type(k["value"]),
    "multiply_scalar": lambda a, k: a[0] * a[0].dtype.type(k["value"]),
    "where": lambda a, _: np.where(a[0], a[1], a[2]),
    "where_greater": _where_greater,
    "matmul": lambda a, _: np.matmul(a[0], a[1]),
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
    "sum": lambda a, k: a[0].sum(**_axes(k)),
    "mean": lambda a, k: a[0].mean(**_axes(k)),
    "max": lambda a, k: a[0].max(**_axes(k)),
    "min": lambda a, k: a[0].min(**_axes(k)),
    "variance": lambda a, k: a[0].var(**_axes(k)),
    "softmax": _softmax,
    "layer_norm": _layer_norm,
}


def evaluate(graph: Graph, dtype: str = "float64") -> dict[str, np.ndarray]:
    """Every tensor of the graph by name, computed in `dtype`."""
    values = {
        name: value.astype(dtype) if value.dtype == np.float32 else value
        for name, value in graph.values().items()
    }
    for step in graph.steps:
        attrs = dict(step.attrs)
        if "shape" in attrs:
            attrs["shape"] = at(attrs["shape"], graph.n)
        with np.errstate(over="ignore", invalid="ignore"):
            made = OPERATORS[step.op]([values[name] for name in step.reads], attrs)
        for name, shape, value in zip(
            step.makes, step.shapes, made if len(step.shapes) > 1 else [made], strict=True
        ):
            if value.shape != at(shape, graph.n):
                raise ValueError(f"{name} of {step.op} is {value.shape}, not {at(shape, graph.n)}")
            if value.size and not np.abs(value).max() < 1e4:
                raise IllConditionedError(f"{name} has values past 1e4")
            values[name] = value
    return values


def reference(graph: Graph) -> list[tuple[np.ndarray, float]]:
    """Each output, and how far rounding alone may move its elements.

    Raises
    ------
    IllConditionedError
        If float32 alone moves an output by more than a thousandth of its values.
    """
    exact, rounded = evaluate(graph), evaluate(graph, "float32")
    found = []
    for name in graph.outputs:
        noise = float(np.abs(exact[name] - rounded[name]).max()) if exact[name].size else 0.0
        scale = float(np.abs(exact[name]).max()) if exact[name].size else 0.0
        if noise > 1e-3 * max(scale, 1e-3):
            raise IllConditionedError(f"{name} has lost its digits to rounding")
        found.append((exact[name], noise))
    return found
