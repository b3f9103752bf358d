"""What a kernel's memory accesses cost where its loops may run in several orders."""

from __future__ import annotations

from dataclasses import replace

from .fused_kernel import Kernel
from .layouts import Layout
from .loop_orders import loop_orders
from .transactions import KernelCost
from .walks import Memory, Walk


class OrderedCost:
    """Cost of one kernel under walks, each with an order of the loops, and layouts.

    Attributes
    ----------
    walks : list of Walk
        What a schedule may do.
    buffers : list
        Buffer of every access; the accesses are the same in all orders.
    """

    def __init__(self, kernel: Kernel, memory: Memory) -> None:
        first, *others = (KernelCost(one, memory) for one in loop_orders(kernel))
        self._models = [first, *(other for other in others if _same_accesses(other, first))]
        self.walks = list(first.walks)
        for order, model in enumerate(self._models[1:], start=1):
            self.walks += [replace(walk, order=order) for walk in model.walks if walk.inner]
        self.buffers = first.buffers

    def of(self, walk: Walk) -> KernelCost:
        """The model of the kernel with its loops in a walk's order."""
        return self._models[walk.order]

    def base(self, walk: Walk) -> float:
        """Cost of the kernel without its accesses."""
        return self.of(walk).base(walk)

    def access(self, number: int, walk: Walk, layout: Layout, image: bool = False) -> float:
        """Cost of one access, by its place in `buffers`, under a layout of its tensor."""
        return self.of(walk).access(number, walk, layout, image)

    def single_lanes(self, number: int, walk: Walk, layout: Layout) -> bool:
        """Whether an access is a write of less than a texel at a time."""
        model = self.of(walk)
        return model.is_write(number) and not model.writes_texels(number, walk, layout)


def _same_accesses(one: KernelCost, other: KernelCost) -> bool:
    return one.accesses == other.accesses and all(
        a.same_as(b) for a, b in zip(one.buffers, other.buffers, strict=True)
    )
