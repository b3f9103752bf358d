"""The rule that takes what no other does: a work-item for each point of the output."""

from __future__ import annotations

from dataclasses import replace

from tvm import s_tir, tirx
from tvm.target import Target

from smartmem_tvm.analysis.fused_kernel import read_kernel
from smartmem_tvm.analysis.texels import LANES, axis_of_texels, split_texels

from .base import RuleDeclined
from .choice import Choice, described
from .emit import WorkItem
from .limits import limits_of
from .tile import Tile
from .work import least_operations

# More repeated work than this is left to TVM's rules, which launch several kernels instead.
MOST_REPEATED = 4.0
FEW_OPERATIONS = 2_000_000


class Generic:
    """Compute each output element on its own, with all that it needs, in one launch.

    Always correct. Declines where stages would be computed anew so often that several launches
    are better.
    """

    name = "Generic"

    def apply(self, func: tirx.PrimFunc, target: Target, _tunable: bool) -> s_tir.Schedule:
        """Return a schedule; raise RuleDeclined with the reason."""
        limits = limits_of(target)
        kernel = split_texels(read_kernel(func))
        tile = Tile(group=min(limits.max_group, 64))
        texel = axis_of_texels(kernel)
        if texel is not None:
            tile = replace(tile, lane=texel, width=LANES)
        item = WorkItem(kernel, tile)
        schedule = described(item, Choice(tile, fused=False))
        least = least_operations(kernel)
        if item.operations > max(FEW_OPERATIONS, MOST_REPEATED * least):
            raise RuleDeclined(
                f"one launch would do {item.operations} updates where {least} are needed"
            )
        return schedule
