"""Checks that arrays are what a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import SmartMemError
from .model import TensorSpec


def check_inputs(
    specs: Sequence[TensorSpec], inputs: Mapping[str, Any] | Sequence[Any]
) -> list[np.ndarray]:
    """Bring ``inputs`` into the model's order, checked.

    Nothing is converted: a wrong dtype is an error, because a silent conversion hides mistakes.

    Parameters
    ----------
    specs : Sequence[TensorSpec]
        What the model takes. Extents given as text are symbols: an extent that occurs several
        times must be the same everywhere.
    inputs : Mapping[str, array] or Sequence[array]
        Arrays by name, or in the order of ``specs``.

    Raises
    ------
    SmartMemError
        Naming the input, what came and what is expected.
    """
    named = _by_name(specs, inputs)
    symbols: dict[str, tuple[int, str]] = {}
    return [_checked(spec, named[spec.name], symbols) for spec in specs]


def _by_name(
    specs: Sequence[TensorSpec], inputs: Mapping[str, Any] | Sequence[Any]
) -> Mapping[str, Any]:
    names = [spec.name for spec in specs]
    expected = ", ".join(f"'{name}'" for name in names) or "none"
    if not isinstance(inputs, Mapping):
        if isinstance(inputs, np.ndarray) or not isinstance(inputs, Sequence):
            raise SmartMemError(
                f"inputs are a {type(inputs).__name__}: a dictionary of arrays by name or a list "
                f"of arrays is expected. Inputs of the model: {expected}."
            )
        if len(inputs) != len(names):
            raise SmartMemError(
                f"{len(inputs)} inputs came and the model takes {len(names)}: {expected}."
            )
        return dict(zip(names, inputs, strict=True))
    unknown = [str(name) for name in inputs if name not in names]
    if unknown:
        raise SmartMemError(f"the model has no input '{unknown[0]}'; its inputs: {expected}.")
    missing = [name for name in names if name not in inputs]
    if missing:
        raise SmartMemError(f"input '{missing[0]}' is missing; the model takes: {expected}.")
    return inputs


def _checked(spec: TensorSpec, value: Any, symbols: dict[str, tuple[int, str]]) -> np.ndarray:
    array = np.asarray(value)
    if str(array.dtype) != spec.dtype:
        raise SmartMemError(
            f"input '{spec.name}' has dtype {array.dtype} and the model takes {spec.dtype}: "
            f"convert it, for example with .astype('{spec.dtype}')."
        )
    came, expected = list(array.shape), f"[{', '.join(map(str, spec.shape))}]"
    if len(came) != len(spec.shape):
        raise SmartMemError(
            f"input '{spec.name}' has shape {came}, of {len(came)} dimensions, and the model takes "
            f"{expected}, of {len(spec.shape)}."
        )
    limits: dict[int | str, int] = dict(spec.limits)
    for axis, (extent, wanted) in enumerate(zip(came, spec.shape, strict=True)):
        if isinstance(wanted, int) and extent != wanted:
            raise SmartMemError(
                f"input '{spec.name}' has shape {came} and the model takes {expected}: dimension "
                f"{axis} is {extent} instead of {wanted}."
            )
        if extent == 0:
            raise SmartMemError(f"input '{spec.name}' has shape {came}: it holds no element.")
        limit = limits.get(wanted)
        if limit is not None and extent > limit:
            raise SmartMemError(
                f"input '{spec.name}' has shape {came} and the model takes {expected} with "
                f"'{wanted}' up to {limit}: dimension {axis} is {extent}. Split the input, or "
                "compile the model with a larger bound."
            )
        if isinstance(wanted, str) and wanted.isidentifier():
            bound, where = symbols.setdefault(wanted, (extent, spec.name))
            if bound != extent:
                raise SmartMemError(
                    f"input '{spec.name}' has shape {came} and the model takes {expected}: "
                    f"'{wanted}' is {extent} here and {bound} in input '{where}'."
                )
    if spec.upper is not None and int(array.max()) >= spec.upper:
        raise SmartMemError(
            f"input '{spec.name}' holds {int(array.max())}, and the model has a table of "
            f"{spec.upper} entries for it: every value must be below {spec.upper}."
        )
    return np.ascontiguousarray(array).reshape(array.shape)
