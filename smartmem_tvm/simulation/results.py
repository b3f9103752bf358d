"""What a simulation counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

LEVELS = ("texture_l1", "buffer_l1", "l2")


@dataclass(frozen=True)
class Accesses:
    """Requests of work-items to device memory, and their bytes.

    A request moves at most 16 bytes: an element, a vector of up to 16 bytes, or a texel.
    """

    buffer_loads: int = 0
    buffer_stores: int = 0
    image_reads: int = 0
    image_writes: int = 0
    buffer_loaded_bytes: int = 0
    buffer_stored_bytes: int = 0
    image_read_bytes: int = 0
    image_written_bytes: int = 0

    @property
    def requests(self) -> int:
        """All requests."""
        return self.buffer_loads + self.buffer_stores + self.image_reads + self.image_writes

    @property
    def bytes(self) -> int:
        """Bytes of all requests."""
        buffers = self.buffer_loaded_bytes + self.buffer_stored_bytes
        return buffers + self.image_read_bytes + self.image_written_bytes

    def scaled(self, factor: float) -> Accesses:
        """Counts times a factor, rounded."""
        return Accesses(*(round(getattr(self, f.name) * factor) for f in fields(Accesses)))

    def plus(self, other: Accesses) -> Accesses:
        """Sum of both."""
        return Accesses(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Accesses)))


@dataclass(frozen=True)
class LevelCounts:
    """One cache level, all cores together.

    Attributes
    ----------
    lookups
        Lines asked for: each line once per instruction of a wave.
    misses
        Those that were not there.
    write_backs
        Dirty lines that went to memory (L2 only), at the end of the launch included.
    """

    lookups: int = 0
    misses: int = 0
    write_backs: int = 0

    def plus(self, other: LevelCounts, factor: float = 1.0) -> LevelCounts:
        """Sum of this and the other times a factor, rounded."""
        return LevelCounts(
            *(
                round(getattr(self, f.name) + factor * getattr(other, f.name))
                for f in fields(LevelCounts)
            )
        )


@dataclass(frozen=True)
class CacheCounts:
    """The levels of one configuration."""

    texture_l1: LevelCounts = LevelCounts()
    buffer_l1: LevelCounts = LevelCounts()
    l2: LevelCounts = LevelCounts()

    @property
    def misses(self) -> int:
        """Misses of all levels."""
        return self.texture_l1.misses + self.buffer_l1.misses + self.l2.misses

    def plus(self, other: CacheCounts, factor: float = 1.0) -> CacheCounts:
        """Sum of this and the other times a factor, rounded."""
        return CacheCounts(
            *(getattr(self, level).plus(getattr(other, level), factor) for level in LEVELS)
        )


@dataclass(frozen=True)
class Counts:
    """Accesses, and cache counts by the name of the configuration."""

    accesses: Accesses
    caches: dict[str, CacheCounts]

    def plus(self, other: Counts, factor: float = 1.0) -> Counts:
        """Sum of this and the other times a factor, rounded."""
        return Counts(
            self.accesses.plus(other.accesses.scaled(factor)),
            {name: each.plus(other.caches[name], factor) for name, each in self.caches.items()},
        )


@dataclass(frozen=True)
class KernelSimulation:
    """One kernel of a module.

    Attributes
    ----------
    name, func
        The OpenCL kernel and the PrimFunc it comes from.
    calls
        Launches in one inference.
    counts
        Of one launch; None where it could not be simulated.
    work_groups, simulated
        Work-groups of a launch, and how many of them were simulated.
    assumed
        What depends on data that was not given, and what it was taken for.
    refused
        Why it could not be simulated.
    """

    name: str
    func: str
    calls: int
    counts: Counts | None
    work_groups: int = 0
    simulated: int = 0
    assumed: tuple[str, ...] = ()
    refused: str | None = None


@dataclass(frozen=True)
class Simulation:
    """One inference: ``total`` is the sum over all launches of the kernels that are not refused."""

    total: Counts
    kernels: tuple[KernelSimulation, ...]

    @property
    def refused(self) -> tuple[KernelSimulation, ...]:
        """Kernels that are missing in the total."""
        return tuple(kernel for kernel in self.kernels if kernel.counts is None)


def sum_kernels(kernels: Iterable[KernelSimulation], configurations: Iterable[str]) -> Counts:
    """Counts of all launches of the kernels."""
    total = Counts(Accesses(), {name: CacheCounts() for name in configurations})
    for kernel in kernels:
        if kernel.counts is not None:
            total = total.plus(kernel.counts, kernel.calls)
    return total
