"""Physical layouts: where the elements of a tensor lie in its buffer.

::

    Layout((0, 2, 3, 1))                  x[n, c, h, w]  →  x[n, h, w, c]
    Layout((0, 1, 2, 3), block=(1, 4))    x[n, c, h, w]  →  x[n, c // 4, h, w, c % 4]

A layout is a permutation of the dimensions, of which one may be cut into vectors that then lie
innermost; its last vector is padded where the extent is not a multiple. Elements of the padding are
never read. As an attribute of a function a layout is a :class:`tvm.tirx.IndexMap`, and maps of any
other form are legal there as long as no two elements share a place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.ir.prim import expr as prim

from smartmem_tvm.errors import SmartMemError

from .expressions import const, dtype_of, static
from .index_evaluate import evaluate_all

# Attribute of a PrimFunc: an index map, or None for row by row, for each parameter.
LAYOUTS = "smartmem.layouts"
_CHUNK = 1 << 20  # elements that are placed at a time


@dataclass(frozen=True)
class Layout:
    """A permutation of the dimensions, one of them in vectors or none.

    Attributes
    ----------
    order : tuple[int, ...]
        Dimensions of the tensor, the outermost first.
    block : (int, int) or None
        Dimension that is cut into vectors, and the elements of one. The number of the vector
        stands where `order` has the dimension, the place in the vector is innermost.
    """

    order: tuple[int, ...]
    block: tuple[int, int] | None = None

    @property
    def is_row_major(self) -> bool:
        """Whether elements lie as the tensor's own dimensions say."""
        return self.block is None and self.order == tuple(range(len(self.order)))

    def shape(self, extents: Sequence[Any]) -> list[Any]:
        """Extents of the buffer of a tensor with the given extents."""
        if self.block is None:
            return [extents[d] for d in self.order]
        dim, lanes = self.block
        return [
            *(_quotient_up(extents[d], lanes) if d == dim else extents[d] for d in self.order),
            lanes if isinstance(extents[dim], int) else const(lanes, extents[dim]),
        ]

    def indices(self, indices: Sequence[Any]) -> list[Any]:
        """Where the element at `indices` lies; integers, expressions or arrays."""
        if self.block is None:
            return [indices[d] for d in self.order]
        dim, lanes = self.block
        size = const(lanes, indices[dim]) if hasattr(indices[dim], "ty") else lanes
        return [
            *(indices[d] // size if d == dim else indices[d] for d in self.order),
            indices[dim] % size,
        ]

    def strides(self, extents: Sequence[int]) -> list[int]:
        """Elements from one index of each buffer dimension to the next."""
        shape = self.shape(extents)
        return [prod(shape[d + 1 :]) for d in range(len(shape))]

    def pack(self, array: NDArray[Any]) -> NDArray[Any]:
        """The tensor's elements as they lie in the buffer; padding is zero."""
        if self.block is None:
            return np.ascontiguousarray(array.transpose(self.order))
        dim, lanes = self.block
        missing = -array.shape[dim] % lanes
        if missing:
            array = np.pad(array, [(0, missing if d == dim else 0) for d in range(array.ndim)])
        split = (*array.shape[:dim], array.shape[dim] // lanes, lanes, *array.shape[dim + 1 :])
        order = [d if d <= dim else d + 1 for d in self.order]
        return np.ascontiguousarray(array.reshape(split).transpose([*order, dim + 1]))

    def index_map(self) -> tirx.IndexMap:
        """The layout as TVM writes one; equal layouts give the same object."""
        return _index_map(self)

    def __str__(self) -> str:
        """Dimensions by number, such as ``[0, 1/4, 2, 3, 1%4]``."""
        if self.block is None:
            return str(list(self.order))
        dim, lanes = self.block
        names = [f"{d}/{lanes}" if d == dim else str(d) for d in self.order]
        return f"[{', '.join([*names, f'{dim}%{lanes}'])}]"


def row_major(ndim: int) -> Layout:
    """The layout of a tensor that others see."""
    return Layout(tuple(range(ndim)))


def innermost(ndim: int, dim: int) -> Layout:
    """Row major but for one dimension, which is innermost."""
    return Layout((*(d for d in range(ndim) if d != dim), dim))


@lru_cache(maxsize=4096)
def _index_map(layout: Layout) -> tirx.IndexMap:
    names = [tirx.Var(f"i{d}", "int64") for d in range(len(layout.order))]
    return tirx.IndexMap(names, layout.indices(names), None)


def _quotient_up(extent: Any, lanes: int) -> Any:
    if isinstance(extent, int):
        return -(-extent // lanes)
    number = static(extent)
    if number is not None:
        return const(-(-number // lanes), extent)
    return (extent + const(lanes - 1, extent)) // const(lanes, extent)


def layout_of(index_map: tirx.IndexMap) -> Layout | None:
    """The layout that an index map is, None where it has another form."""
    number = {var: d for d, var in enumerate(index_map.initial_indices)}
    order: list[int] = []
    blocks: list[tuple[int, int]] = []
    if not number:
        return Layout(())
    *outer, last = index_map.final_indices
    for index in (*outer, last):
        if index in number:
            order.append(number[index])
        elif isinstance(index, prim.FloorDiv) and index.a in number and static(index.b):
            order.append(number[index.a])
            blocks.append((number[index.a], int(index.b)))
        elif not isinstance(index, prim.FloorMod) or index is not last:
            return None
    if isinstance(last, prim.FloorMod) and (number.get(last.a), static(last.b)) not in blocks:
        return None
    if len(blocks) != int(isinstance(last, prim.FloorMod)) or sorted(order) != list(
        range(len(number))
    ):
        return None
    return Layout(tuple(order), blocks[0] if blocks else None)


def map_indices(index_map: tirx.IndexMap, indices: Sequence[Any]) -> list[Any]:
    """Where the element at `indices` lies."""
    layout = layout_of(index_map)
    if layout is not None:
        return layout.indices(indices)  # of any integer type
    variables = index_map.initial_indices
    cast = [
        index if dtype_of(index) == dtype_of(var) else tirx.Cast(var.ty, index)
        for index, var in zip(indices, variables, strict=True)
    ]
    return list(index_map.map_indices(cast))


def map_shape(index_map: tirx.IndexMap, extents: Sequence[Any]) -> list[Any]:
    """Extents of the buffer of a tensor with the given extents."""
    layout = layout_of(index_map)
    if layout is not None:
        return layout.shape(extents)
    return list(index_map.map_shape(list(extents)))


def pack(index_map: tirx.IndexMap, array: NDArray[Any]) -> NDArray[Any]:
    """The elements of a tensor as they lie in a buffer of that layout; padding is zero.

    Raises
    ------
    SmartMemError
        When two elements have the same place.
    """
    layout = layout_of(index_map)
    if layout is not None:
        return layout.pack(array)
    shape = [int(extent) for extent in index_map.map_shape(list(array.shape))]
    packed = np.zeros(prod(shape), array.dtype)
    taken = np.zeros(packed.size, bool)
    flat = array.reshape(-1)
    for first in range(0, flat.size, _CHUNK):
        places = np.arange(first, min(first + _CHUNK, flat.size))
        columns = np.unravel_index(places, array.shape)
        values = dict(zip(index_map.initial_indices, columns, strict=True))
        where = np.ravel_multi_index(evaluate_all(list(index_map.final_indices), values), shape)
        if taken[where].any() or np.unique(where).size != where.size:
            raise SmartMemError(
                f"the layout {index_map} puts two elements of a tensor of shape "
                f"{list(array.shape)} into one place: give a map that keeps them apart"
            )
        taken[where] = True
        packed[where] = flat[first : first + places.size]
    return packed.reshape(shape)
