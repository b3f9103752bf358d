"""Traffic columns of a runner, from the kernels that its module launches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...analysis import KernelInfo


def footprint_of(kernels: Iterable[KernelInfo]) -> int | None:
    """Unique bytes that each launch reads and writes, over all launches of one inference.

    None where the footprint of a kernel is not known because an extent of it is symbolic.
    """
    total = 0
    for kernel in kernels:
        if kernel.footprint_bytes is None:
            return None
        total += kernel.calls * kernel.footprint_bytes
    return total
