"""Upper bounds of symbolic extents, which a shape declares as ``"batch<=8"``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..errors import ModelError
from .model import EXTENT_LIMITS, ImportedModel, extent_limits, input_specs
from .shapes import Shape

_SIGN = "<="

# For each input, the axes with a bound.
Limits = dict[str, dict[int, int]]


def split_limits(
    shapes: Mapping[str, Shape] | None,
) -> tuple[dict[str, Shape] | None, Limits]:
    """Shapes without bounds, and the bounds: ``("n<=8", 3)`` is ``("n", 3)`` and ``{0: 8}``."""
    if shapes is None:
        return None, {}
    plain: dict[str, Shape] = {}
    limits: Limits = {}
    for name, shape in shapes.items():
        extents = list(shape)
        for axis, extent in enumerate(extents):
            if isinstance(extent, str) and _SIGN in extent:
                extents[axis], limit = _parsed(name, extent)
                limits.setdefault(name, {})[axis] = limit
        plain[name] = tuple(extents)
    return plain, limits


def _parsed(name: str, extent: str) -> tuple[str, int]:
    symbol, _, limit = (part.strip() for part in extent.partition(_SIGN))
    if not symbol or not limit.isdecimal() or int(limit) < 1:
        raise ModelError(
            f"shapes gives input '{name}' the extent '{extent}': a bound is written NAME<=N with a "
            "positive N, such as batch<=8."
        )
    return symbol, int(limit)


def with_limits(imported: ImportedModel, limits: Limits) -> ImportedModel:
    """Model with the bounds declared: in the function's attribute, and for its inputs' checks."""
    if not limits:
        return imported
    main = imported.mod["main"]
    declared = extent_limits(main)
    given: dict[str, int] = {}
    for spec in imported.inputs:
        for axis, limit in limits.get(spec.name, {}).items():
            symbol = spec.shape[axis]
            if not isinstance(symbol, str) or not symbol.isidentifier():
                raise ModelError(
                    f"shapes gives dimension {axis} of input '{spec.name}' the bound {limit}, but "
                    f"it is {symbol}: only a symbol of its own can have one."
                )
            if given.setdefault(symbol, limit) != limit:
                raise ModelError(
                    f"shapes gives the symbolic extent '{symbol}' two bounds: {given[symbol]} and "
                    f"{limit} (input '{spec.name}')."
                )
    mod = imported.mod.clone()
    mod["main"] = main = main.with_attr(EXTENT_LIMITS, declared | given)
    names = [spec.name for spec in imported.inputs]
    upper = {spec.name: spec.upper for spec in imported.inputs if spec.upper is not None}
    return replace(imported, mod=mod, inputs=input_specs(main, names, upper))
