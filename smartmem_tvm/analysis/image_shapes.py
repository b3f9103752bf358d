"""Which image holds a tensor: dimensions taken together as layers, rows and columns of texels.

::

    x: [12, 197, 64]    →    [1, 2364, 16, 4]: layer, row, column, lane

The last dimension that has several elements runs along the four lanes of a texel and along x, the
dimensions before it along y: of two dimensions that a kernel reduces over, one follows lanes and x,
the other y, so that neighbours in both lie side by side. Only as many as the limits of the device
ask for are taken into columns or layers instead. The order of elements is that of the buffer.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from tvm import tirx

from .texels import LANES, innermost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..devices.schema import TextureLimits

# Texels of a row that a cache line holds, at most: devices pad rows to whole lines.
LEAST_COLUMNS = 4
Groups = tuple[list[int], list[int], list[int]]


def image_groups(shape: Sequence[int], limits: TextureLimits) -> Groups | None:
    """Extents taken together as layers, rows and columns; None where no image is large enough.

    As few layers as possible, then as few dimensions in a row as possible, of which there should be
    at least :data:`LEAST_COLUMNS` texels. The shape must be a whole number of texels
    (:func:`.texels.has_texels`).
    """
    dim = innermost(shape) or 0
    extents = [*shape[:dim], shape[dim] // LANES]
    most = limits.max_layers, limits.max_height, limits.max_width
    for layers in range(len(extents)):
        splits = range(len(extents) - 1, layers - 1, -1)
        narrow = [d for d in splits if prod(extents[d:]) < LEAST_COLUMNS]
        for columns in [*(d for d in splits if d not in narrow), *narrow]:
            groups = extents[:layers], extents[layers:columns], extents[columns:]
            if all(prod(group) <= limit for group, limit in zip(groups, most, strict=True)):
                return groups
    return None


def image_shape(groups: Groups) -> list[int]:
    """Extents of the image: layers, rows, columns, lanes."""
    return [*map(prod, groups), LANES]


def image_map(shape: Sequence[int], groups: Groups) -> tirx.IndexMap:
    """Where the element of a buffer lies in the image: layer, row, column, lane."""
    names = [tirx.Var(f"i{d}", "int64") for d in range(len(shape))]
    dim = innermost(shape) or 0
    lanes = tirx.IntImm("int64", LANES)
    digits = [*names[:dim], names[dim] // lanes]
    final, start = [], 0
    for group in groups:
        place: Any = tirx.IntImm("int64", 0)
        for index, extent in zip(digits[start : start + len(group)], group, strict=True):
            place = index if isinstance(place, tirx.IntImm) else place * extent + index
        final.append(place)
        start += len(group)
    return tirx.IndexMap(names, [*final, names[dim] % lanes], None)
