"""What schedule rules may ask of a device: limits and preferred shapes, never a name."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.target import Target

from smartmem_tvm.analysis.walks import Memory
from smartmem_tvm.devices import profile_for


@dataclass(frozen=True)
class ScheduleLimits:
    """Figures of a device that shape a kernel.

    Attributes
    ----------
    max_group : int
        Most work-items in a work-group.
    vector_width : int
        Lanes of the widest useful vector of float32.
    register_tile : tuple[int, int]
        Rows and columns of an output tile that one work-item keeps in registers.
    local_bytes : int
        Bytes of local (shared) memory of a work-group.
    tile_bytes : int
        Of these, what operands may take that a group fetches together; 0 where local memory is
        ordinary memory.
    subgroup : int
        Work-items that run in lock step; 1 where each runs alone, as on a processor.
    memory : Memory
        What the model of transactions asks.
    row_bytes : int
        Bytes that a work-item may keep of a row in private memory: half of the first cache where
        work-items run alone and private memory is ordinary memory, else 0.
    """

    max_group: int
    vector_width: int
    register_tile: tuple[int, int]
    local_bytes: int
    tile_bytes: int
    subgroup: int
    memory: Memory
    row_bytes: int

    @property
    def lock_step(self) -> bool:
        """Whether neighbouring work-items share their memory transactions, as on a GPU."""
        return self.subgroup > 1


def limits_of(target: Target) -> ScheduleLimits:
    """Limits of a target; what it does not say is taken from the profile that made it.

    A target that no known profile made gets cautious figures, legal on any device.
    """
    profile = profile_for(target)
    group = target.attrs.get("max_num_threads")
    local = target.attrs.get("max_shared_memory_per_block")
    local = profile.local_memory.bytes if local is None else int(local)
    return ScheduleLimits(
        profile.work_group.default_size if group is None else int(group),
        profile.compute.vector_width,
        profile.compute.register_tile,
        local,
        local // 2 if profile.local_memory.in_hardware else 0,
        profile.work_group.subgroup_size,
        Memory.of(profile),
        0 if profile.work_group.subgroup_size > 1 else profile.cache.buffer_l1_bytes // 2,
    )
