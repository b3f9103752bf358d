"""Reads the histograms that ``oclgrind --inst-counts`` prints after every launch.

::

    Instructions executed for kernel 'matmul_kernel':
               14336 - load local (57344 bytes)
                 352 - load global (1408 bytes)
                  64 - call _Z11read_imagef16ocl_image2d_array...()
                   6 - call _Z8vstore16Dv16_fmPU3AS1f()

Vector loads and stores are calls of built-in functions: their bytes are the count times the lanes
times the size of the pointer's type; the space is the pointer's (1 global, 2 constant, 3 local).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

_KERNEL = re.compile(r"Instructions executed for kernel '(?P<name>[^']+)':")
_LINE = re.compile(r"\s*(?P<count>[\d,]+) - (?P<what>.+)")
_MEMORY = re.compile(r"(?P<kind>load|store) (?P<space>global|local) \((?P<bytes>[\d,]+) bytes\)")
_IMAGE = re.compile(r"call _Z\d+(?P<kind>read|write)_image(?P<type>[fh]|u?i)")
_VECTOR = re.compile(
    r"call _Z\d+v(?P<kind>load|store)(?P<lanes>\d+)\w*PU3AS(?P<space>[123])K?(?P<type>[a-z]|Dh)\(\)"
)
_SPACES = {"1": "global", "2": "global", "3": "local"}
# Mangled names of the types that pointers of vload and vstore point to.
_BYTES = {"c": 1, "h": 1, "s": 2, "t": 2, "Dh": 2, "i": 4, "j": 4, "f": 4, "l": 8, "m": 8, "d": 8}
_TEXEL = {"f": 16, "h": 8, "i": 16, "ui": 16}  # what one call returns or takes: four lanes


@dataclass(frozen=True)
class KernelCounts:
    """What was executed by the launches of one kernel, in bytes and instructions.

    Attributes
    ----------
    name
        The OpenCL kernel.
    launches
        How often it ran.
    global_loaded, global_stored, local_loaded, local_stored
        Bytes; constant memory counts as global where the compiler put it there.
    image_read, image_written
        Bytes of the four lanes that each call returns or takes, whatever the texel's format.
    instructions
        All instructions of all work-items, loads and stores included.
    """

    name: str
    launches: int = 0
    global_loaded: int = 0
    global_stored: int = 0
    local_loaded: int = 0
    local_stored: int = 0
    image_read: int = 0
    image_written: int = 0
    instructions: int = 0

    @property
    def traffic(self) -> int:
        """Bytes of global loads and stores and of image reads and writes."""
        return self.global_loaded + self.global_stored + self.image_read + self.image_written


@dataclass(frozen=True)
class ExecutedTraffic:
    """Counts of one inference: ``total`` over all launches, ``kernels`` in order of first launch.

    ``bytes`` is the executed traffic: global loads and stores plus image reads and writes.
    """

    bytes: int
    total: KernelCounts
    kernels: tuple[KernelCounts, ...]


def parse_counts(text: str) -> ExecutedTraffic:
    """Add up the histograms in Oclgrind's output; other lines in it are passed over."""
    kernels: dict[str, KernelCounts] = {}
    current: str | None = None
    for line in text.splitlines():
        if match := _KERNEL.match(line):
            current = match["name"]
            known = kernels.get(current, KernelCounts(current))
            kernels[current] = _add(known, KernelCounts(current, launches=1))
        elif current is not None and (match := _LINE.match(line)):
            counted = _line(current, int(match["count"].replace(",", "")), match["what"])
            kernels[current] = _add(kernels[current], counted)
        else:
            current = None
    total = sum_counts("total", kernels.values())
    return ExecutedTraffic(total.traffic, total, tuple(kernels.values()))


def sum_counts(name: str, parts: Iterable[KernelCounts]) -> KernelCounts:
    """Sum of counts under a new name."""
    total = KernelCounts(name)
    for part in parts:
        total = _add(total, part)
    return total


def _line(name: str, count: int, what: str) -> KernelCounts:
    if match := _MEMORY.match(what):
        ending = "loaded" if match["kind"] == "load" else "stored"
        size = int(match["bytes"].replace(",", ""))
        return KernelCounts(name, instructions=count, **{f"{match['space']}_{ending}": size})
    if match := _VECTOR.match(what):
        ending = "loaded" if match["kind"] == "load" else "stored"
        size = count * int(match["lanes"]) * _BYTES[match["type"]]
        space = _SPACES[match["space"]]
        return KernelCounts(name, instructions=count, **{f"{space}_{ending}": size})
    if match := _IMAGE.match(what):
        ending = "read" if match["kind"] == "read" else "written"
        size = count * _TEXEL[match["type"]]
        return KernelCounts(name, instructions=count, **{f"image_{ending}": size})
    return KernelCounts(name, instructions=count)


def _add(first: KernelCounts, second: KernelCounts) -> KernelCounts:
    numbers = [item.name for item in fields(KernelCounts) if item.name != "name"]
    return KernelCounts(first.name, *(getattr(first, n) + getattr(second, n) for n in numbers))
