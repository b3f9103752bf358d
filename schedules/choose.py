"""Candidates for tiles, and the cheapest of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nsmallest

from .base import RuleDeclined
from .cost import Costs
from .limits import ScheduleLimits
from .tile import Tile

# Tiles that are compared with their order.
NEARLY = 6


def widths(extent: int, most: int) -> list[int]:
    """Vector widths that fit an axis, the widest first."""
    return [w for w in (16, 8, 4, 2) if w <= min(extent, most)]


def row_sizes(extent: int, most: int) -> list[int]:
    """Tile sizes along an axis: all up to the limit, and the extent itself."""
    return [n for n in range(1, most + 1) if n <= extent]


def lane_tiles(
    costs: Costs, inner: tuple[int, ...], limits: ScheduleLimits, most: int
) -> Iterator[Tile]:
    """Tiles with lanes along an axis of the sink, or none, and rows along another axis."""
    axes = [d for d, n in enumerate(costs.extents) if n > 1 and not costs.symbolic[d]]
    outer = [d for d in axes if d not in inner]
    width_limit = max(limits.vector_width, limits.register_tile[1])
    for lane in (None,) if moves_bytes(costs) else (*outer, None):
        choices = [1] if lane is None else widths(costs.extents[lane], width_limit)
        for width in choices:
            yield Tile(lane=lane, width=width, inner=inner)
            for row in outer:
                if row == lane:
                    continue
                for size in row_sizes(costs.extents[row], most):
                    if size > 1:
                        yield Tile(((row, size),), lane, width, inner)


def moves_bytes(costs: Costs) -> bool:
    """Whether a buffer of elements of a byte is read or written, of which there are no vectors.

    OpenCL has none of booleans, and TVM's generator makes one number of four gathered bytes.
    """
    kernel = costs.kernel
    stages = [*kernel.stages, kernel.sink]
    buffers = {store.buffer for stage in stages for store in stage.stores}
    buffers |= {load.source for stage in stages for load in stage.loads()}
    return any(str(buffer.dtype) in ("bool", "int8", "uint8") for buffer in buffers)


def reduction_tiles(costs: Costs, inner: tuple[int, ...], limits: ScheduleLimits) -> Iterator[Tile]:
    """Tiles with lanes along reductions, and rows along one or two axes."""
    width = limits.vector_width
    if width < 2 or moves_bytes(costs):
        return
    axes = [d for d, n in enumerate(costs.extents) if n > 1 and not costs.symbolic[d]]
    outer = [d for d in axes if d not in inner]
    yield Tile(inner=inner, inner_width=width)
    for row in outer:
        yield Tile(((row, 4 if costs.extents[row] >= 4 else 2),), inner=inner, inner_width=width)
        for other in outer:
            if other > row:
                sizes = [4 if costs.extents[d] >= 4 else 2 for d in (row, other)]
                rows = ((row, sizes[0]), (other, sizes[1]))
                yield Tile(rows, inner=inner, inner_width=width)


def cheapest(
    costs: Costs, tiles: Iterator[Tile], finished: Callable[[Tile], Tile] = lambda tile: tile
) -> Tile:
    """The legal tile of the smallest cost; the first of equal ones.

    In lock step the order of neighbours decides as well: of the :data:`NEARLY` cheapest, that is
    taken which is the cheapest when it is `finished`.
    """
    legal = [
        (costs.of(tile), number, tile) for number, tile in enumerate(filter(costs.allows, tiles))
    ]
    if not legal:
        raise RuleDeclined("no tile fits")
    if not costs.limits.lock_step:
        return finished(min(legal)[2])
    return min((finished(tile) for _, _, tile in nsmallest(NEARLY, legal)), key=costs.of)
