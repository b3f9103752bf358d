"""Row reductions: results that several outputs share, as in softmax and normalisations.

::

    for k: M[i] = max(M[i], x[i, k])                 a work-item owns a row i:
    for k: S[i] += exp(x[i, k] - M[i])          →    M in a register, then S, then all j
    for j: O[i, j] = exp(x[i, j] - M[i]) / S[i]

Lanes run along the row, in the reductions and in the stores, or across rows where neighbouring
rows lie side by side in memory. Elementwise values of a row are computed again unless they are
costly; see :mod:`.kept_rows`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tvm import s_tir, tirx
from tvm.target import Target

from smartmem_tvm.analysis.fused_kernel import read_kernel
from smartmem_tvm.analysis.kernel_work import axes_of_rows
from smartmem_tvm.analysis.loop_orders import loop_orders

from .base import RuleDeclined
from .choice import Choice, scheduled
from .choose import cheapest, moves_bytes, widths
from .contraction import reduction_costs, team_tiles, with_group, with_order
from .cost import Costs
from .limits import ScheduleLimits, limits_of
from .regroup import regroup
from .tile import Tile


class RowReduction:
    """A work-item for each row, or for as many rows as a vector has lanes."""

    name = "RowReduction"

    def apply(self, func: tirx.PrimFunc, target: Target, _tunable: bool) -> s_tir.Schedule:
        """Return a schedule; raise RuleDeclined with the reason."""
        limits = limits_of(target)
        costs = reduction_costs(func, limits)
        if not rows_of(costs):
            raise RuleDeclined("every output has reductions of its own")
        orders = [costs]
        orders += [Costs(regroup(other), limits) for other in loop_orders(read_kernel(func))[1:]]
        found: list[tuple[int, Tile]] = []
        for order, one in enumerate(orders):
            try:
                found.append((order, cheapest(one, _tiles(one, rows_of(one), limits))))
            except RuleDeclined:  # no tile of this order writes whole texels
                if one is orders[-1] and not found:
                    raise
        order, tile = min(found, key=lambda pair: orders[pair[0]].of(pair[1]))
        costs = orders[order]
        if limits.lock_step:
            tile = with_order(tile, costs, limits)
        tile = with_group(tile, costs, limits)
        return scheduled(costs.kernel, Choice(tile, order, row_bytes=limits.row_bytes))


def rows_of(costs: Costs) -> tuple[int, ...]:
    """Axes of the sink that no result of a reduction belongs to."""
    wide = [d for d, n in enumerate(costs.extents) if n > 1 or costs.symbolic[d]]
    rows = axes_of_rows(costs.work, wide)
    # Lanes of texels are the innermost loop.
    return tuple(sorted(rows, key=lambda d: costs.kernel.sink.axes[d].var in costs.kernel.texels))


def _tiles(costs: Costs, inner: tuple[int, ...], limits: ScheduleLimits) -> Iterator[Tile]:
    yield from team_tiles(costs, inner, limits)
    if moves_bytes(costs):
        yield Tile(inner=inner)
        return
    last = costs.extents[inner[-1]] if not costs.symbolic[inner[-1]] else 1
    for width in widths(last, limits.vector_width):
        yield Tile(inner=inner, inner_width=width)
    yield Tile(inner=inner)
    for d, extent in enumerate(costs.extents):
        if d not in inner and not costs.symbolic[d]:
            for width in widths(extent, limits.vector_width):
                yield replace(Tile(inner=inner), lane=d, width=width)
