"""Elementwise functions and copies through index maps: vectors along the best axis."""

from __future__ import annotations

from tvm import s_tir, tirx
from tvm.target import Target

from .base import RuleDeclined
from .choose import cheapest, lane_tiles
from .contraction import with_group
from .cost import costs_of
from .emit import WorkItem
from .limits import limits_of


class Elementwise:
    """One vector, or one element, for each work-item."""

    name = "Elementwise"

    def apply(self, func: tirx.PrimFunc, target: Target, _tunable: bool) -> s_tir.Schedule:
        """Return a schedule; raise RuleDeclined with the reason."""
        limits = limits_of(target)
        costs = costs_of(func, limits)
        kernel = costs.kernel
        if kernel.reductions:
            raise RuleDeclined("it has reductions")
        tile = cheapest(costs, lane_tiles(costs, (), limits, 1))
        return WorkItem(kernel, with_group(tile, costs, limits)).schedule()
