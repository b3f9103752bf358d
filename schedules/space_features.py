"""What a cost model is told of a schedule: counts of the model of transactions, apart by memory.

What is in images is counted apart from what is in buffers, and reads apart from writes; views count
as they are read, by the strides of the composed index maps. All counts are logarithms.
"""

from __future__ import annotations

import math
from dataclasses import astuple, fields

from smartmem_tvm.analysis.texels import is_texture
from smartmem_tvm.analysis.transactions import Counts

from .cost import Costs
from .tile import Tile

_MEMORIES = ("buffer_reads", "buffer_writes", "image_reads", "image_writes")
_COUNTS = tuple(field.name for field in fields(Counts))
NAMES = (
    "cost",
    "transactions",
    "items",
    "groups",
    "group",
    "points",
    "rows",
    "lanes",
    "vectors",
    "updates",
    *(f"{memory}_{count}" for memory in _MEMORIES for count in _COUNTS),
)


def features_of(costs: Costs, tile: Tile) -> list[float]:
    """Figures of a tile, in the order of :data:`NAMES`."""
    items = tile.count(costs.extents)
    rows = math.prod(size for _, size in tile.rows)
    lanes = max(tile.width, tile.inner_width)
    group = tile.team if tile.team > 1 else math.prod(n for _, n in tile.shape) or 1
    group = tile.group if group == 1 else group
    vector = costs.limits.vector_width
    updates = sum(work.repeats * rows * lanes * len(work.stage.stores) for work in costs.work)
    figures = [
        costs.of(tile),
        costs.by_transactions(tile),
        items,
        items / max(group * tile.repeat, 1),
        group,
        rows * lanes,
        rows,
        lanes,
        rows * max(1.0, lanes / max(vector, 1)),
        updates,
    ]
    sums = {memory: [0.0] * len(_COUNTS) for memory in _MEMORIES}
    buffers = [access.buffer for work in costs.work for access in work.accesses]
    for buffer, (counts, writes) in zip(buffers, costs.counts(tile), strict=True):
        place = "image" if is_texture(buffer) else "buffer"
        total = sums[f"{place}_{'writes' if writes else 'reads'}"]
        for position, count in enumerate(astuple(counts)):
            total[position] += count
    figures += [count for memory in _MEMORIES for count in sums[memory]]
    return [math.log2(1.0 + figure) for figure in figures]
