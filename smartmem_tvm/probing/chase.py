"""Sizes of caches, from the time of one dependent read in growing working sets."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .device import Kernel, ProbedDevice
from .timing import Budget, time_kernel

_SMALLEST = 2 << 10
_LARGEST = 16 << 20
_LOADS = 1 << 13
_FLAT = 1.25
_CLEAR = 1.6
_FEWEST = 3
_NEAR = 4
# i → (a·i + c) mod lines meets every line once where a-1 is a multiple of 12 and c has no factor
# in common with lines = 2^n or 3·2^n; consecutive reads are far apart.
_FACTOR = 12 * 104729 + 1
_STEP = 7919

_SOURCE = """
__kernel void link(__global uint* next, uint lines, uint stride) {
  ulong i = get_global_id(0);
  if (i < lines) next[i * stride] = (uint)((FACTORul * i + STEPul) % lines) * stride;
}
__kernel void chase(__global const uint* next, __global uint* target, int loads) {
  uint at = 0;
  for (int i = 0; i < loads; ++i) at = next[at];
  target[0] = at;
}
"""


@dataclass(frozen=True)
class Latency:
    """Nanoseconds of a read that depends on the one before, in a working set of ``bytes``."""

    bytes: int
    ns: float


def latencies(probed: ProbedDevice, line_bytes: int, budget: Budget) -> list[Latency]:
    """Measure from 2 KiB to 16 MiB, or as far as the budget lasts.

    Raises
    ------
    DeviceError
        If the device has no memory for it or refuses the kernel.
    """
    text = _SOURCE.replace("FACTOR", str(_FACTOR)).replace("STEP", str(_STEP))
    kernels = {
        "link": Kernel(("handle", "uint32", "uint32")),
        "chase": Kernel(("handle", "handle", "int32")),
    }
    module = probed.load(text, kernels)
    largest = _LARGEST
    if probed.info is not None:
        largest = min(largest, probed.info.max_allocation)
    table = probed.empty((largest // 4,), "uint32")
    target = probed.empty((1,), "uint32")
    group = probed.group
    found: list[Latency] = []
    for size in sizes(largest):
        if budget.left <= 0:
            break
        lines = size // line_bytes
        probed.launch(module, "link", table, lines, line_bytes // 4, -(-lines // group), group)
        # Twice around, so that what is not in the cache was met and dropped before.
        loads = max(_LOADS, 2 * lines)
        samples = time_kernel(probed, module, "chase", (table, target, loads, 1, 1), limit_s=0.1)
        # The least: whatever else the device does only adds.
        found.append(Latency(size, min(samples) / loads * 1e9))
    return found


def sizes(largest: int) -> list[int]:
    """Working sets: powers of two and the half-way sizes between."""
    found = []
    size = _SMALLEST
    while size <= largest:
        found += [size, size * 3 // 2]
        size *= 2
    return [size for size in found if size <= largest]


def cache_sizes(measured: Sequence[Latency]) -> list[int]:
    """Bytes of the caches that show clearly, the smallest first.

    A level is three or more neighbouring sizes within 25 % of the first one's latency. A cache is
    the end of a level that is followed, at no more than four times its size, by another one that
    is 1.6 times as high; what rises slowly ends the search, because a step after it may be
    anything.
    """
    levels = _levels(measured)
    found: list[int] = []
    base = 0
    for number in range(1, len(levels)):
        height, before = (statistics.median(one.ns for one in levels[i]) for i in (number, base))
        # Small steps (address translation) do not end a cache; the next large one does.
        if height < _CLEAR * before:
            continue
        end = levels[number - 1][-1].bytes
        if levels[number][0].bytes > _NEAR * end:
            break
        found.append(end)
        base = number
    return found


def _levels(measured: Sequence[Latency]) -> list[list[Latency]]:
    levels: list[list[Latency]] = []
    index = 0
    while index < len(measured):
        first = measured[index].ns
        end = index
        while end < len(measured) and first / _FLAT <= measured[end].ns <= first * _FLAT:
            end += 1
        if end - index >= _FEWEST:
            levels.append(list(measured[index:end]))
            index = end
        else:
            index += 1
    return levels
