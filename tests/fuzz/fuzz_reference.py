"""What a random graph computes, in NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from fuzz_graphs import Graph, at

Arrays = list[np.ndarray]
MOST_NOISE = {"float32": 1e-3, "float16": 0.05}  # that rounding may cause, of an output's values


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


def _check_spread(mean: np.ndarray, variance: np.ndarray) -> None:
    """Rows that are nearly constant lose their digits where a variance is computed of squares."""
    if (np.square(mean) > 1e3 * (variance + 1e-5)).any():
        raise IllConditionedError("the variance of numbers that are nearly equal")


def _layer_norm(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    data, gamma, beta = arrays
    axes = tuple(attrs["axes"])
    mean = data.mean(axis=axes, keepdims=True)
    centred = data - mean
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    _check_spread(mean, variance)
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


def _conv2d_transpose(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    """Every input element adds the window of weights that it scales to the output."""
    data, weight = arrays
    (top, left, bottom, right), groups = attrs["padding"], attrs["groups"]
    (sy, sx), (dy, dx), (ey, ex) = (attrs[k] for k in ("strides", "dilation", "output_padding"))
    count, channels, height, width = data.shape
    _, made, kh, kw = weight.shape
    rows, columns = (height - 1) * sy + dy * (kh - 1) + 1, (width - 1) * sx + dx * (kw - 1) + 1
    whole = np.zeros((count, groups, made, rows + ey, columns + ex), data.dtype)
    parts = data.reshape(count, groups, channels // groups, height, width)
    weights = weight.reshape(groups, channels // groups, made, kh, kw)
    for y in range(kh):
        for x in range(kw):
            scaled = np.einsum("ngchw,gco->ngohw", parts, weights[..., y, x])
            ends = y * dy + (height - 1) * sy + 1, x * dx + (width - 1) * sx + 1
            whole[..., y * dy : ends[0] : sy, x * dx : ends[1] : sx] += scaled
    whole = whole.reshape(count, groups * made, *whole.shape[3:])
    return whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]


def _pool2d(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    (data,), (top, left, bottom, right) = arrays, attrs["padding"]
    widths = [(0, 0), (0, 0), (top, bottom), (left, right)]
    least = -np.inf if attrs["kind"] == "max" else 0.0
    padded = np.pad(data, widths, constant_values=least)
    windows = _windows(padded, attrs["size"], attrs["strides"], [1, 1])
    if attrs["kind"] == "max":
        return windows.max(axis=(-2, -1))
    counted = np.pad(np.ones_like(data), widths, constant_values=attrs["count_padding"])
    counts = _windows(counted, attrs["size"], attrs["strides"], [1, 1]).sum(axis=(-2, -1))
    return windows.sum(axis=(-2, -1)) / counts


def _extreme_at(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    """Index of the first largest element; ties other than of zeros are left to luck."""
    data, axis = arrays[0], attrs["axis"]
    if data.shape[axis] > 1:
        upper = np.sort(data, axis=axis).take([-2, -1], axis=axis)
        first, last = np.split(upper, 2, axis=axis)
        if ((np.abs(last - first) < 1e-4) & (last != 0)).any():
            raise IllConditionedError("the index of one of numbers that are nearly equal")
    return data.argmax(axis=axis, keepdims=attrs["keepdims"])


def _rms_norm(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    data, weight = arrays
    mean = np.square(data).mean(axis=tuple(attrs["axes"]), keepdims=True)
    return data / np.sqrt(mean + 1e-5) * weight


def _group_norm(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    data, gamma, beta = arrays
    rows = data.reshape(data.shape[0], attrs["groups"], -1)
    mean = rows.mean(axis=2, keepdims=True)
    centred = rows - mean
    variance = np.square(centred).mean(axis=2, keepdims=True)
    _check_spread(mean, variance)
    scaled = (centred / np.sqrt(variance + 1e-5)).reshape(data.shape)
    channels = (1, -1, *(1 for _ in data.shape[2:]))
    return scaled * gamma.reshape(channels) + beta.reshape(channels)


_SCATTERED = {
    "update": lambda old, new: new,
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def _scatter_elements(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    data, indices, updates = arrays
    result = data.copy()
    for place in np.ndindex(*indices.shape):
        to = list(place)
        to[attrs["axis"]] = indices[place]
        old = result[tuple(to)]
        result[tuple(to)] = _SCATTERED[attrs["reduction"]](old, updates[place])
    return result


def _scatter_nd(arrays: Arrays, attrs: dict[str, Any]) -> np.ndarray:
    data, indices, updates = arrays
    result = data.copy()
    for place in np.ndindex(*indices.shape[:-1]):
        to = tuple(indices[place])
        result[to] = _SCATTERED[attrs["reduction"]](result[to], updates[place])
    return result


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
    "conv2d_transpose": _conv2d_transpose,
    "pool2d": _pool2d,
    "argmax": _extreme_at,
    "argmin": lambda a, k: _extreme_at([-a[0]], k),
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "scatter_elements": _scatter_elements,
    "scatter_nd": _scatter_nd,
    "sum": lambda a, k: a[0].sum(**_axes(k)),
    "mean": lambda a, k: a[0].mean(**_axes(k)),
    "max": lambda a, k: a[0].max(**_axes(k)),
    "min": lambda a, k: a[0].min(**_axes(k)),
    "variance": lambda a, k: a[0].var(**_axes(k)),
    "softmax": _softmax,
    "layer_norm": _layer_norm,
}


def evaluate(graph: Graph, dtype: str = "float64", stored: str = "") -> dict[str, np.ndarray]:
    """Every tensor of the graph by name, computed in `dtype`; each result rounded to `stored`."""
    values = {
        name: value.astype(dtype) if np.issubdtype(value.dtype, np.floating) else value
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
            if stored and np.issubdtype(value.dtype, np.floating):
                value = value.astype(stored).astype(dtype)
            values[name] = value
    return values


def reference(graph: Graph) -> list[tuple[np.ndarray, float]]:
    """Each output, and how far rounding alone may move its elements.

    Raises
    ------
    IllConditionedError
        If rounding alone moves an output by more than a thousandth of its values, or, where tensors
        are float16, a twentieth.
    """
    half = graph.storage == "float16"
    exact, rounded = evaluate(graph), evaluate(graph, "float32", "float16" if half else "")
    most = MOST_NOISE[graph.storage]
    found = []
    for name in graph.outputs:
        noise = float(np.abs(exact[name] - rounded[name]).max()) if exact[name].size else 0.0
        scale = float(np.abs(exact[name]).max()) if exact[name].size else 0.0
        if noise > most * max(scale, 1e-3):
            raise IllConditionedError(f"{name} has lost its digits to rounding")
        found.append((exact[name], noise))
    return found
