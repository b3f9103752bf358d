"""How every tensor is stored and read, and why: what a pass records and reports print."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import tvm

ATTRIBUTE = "smartmem.tensor_layouts"

# How a kernel reads a tensor; the first two are the readings that layouts are chosen for.
ALONG_REDUCTION = "stride one along its reduction"
ALONG_LANES = "stride one along vector lanes"
SHARED = "shared by all lanes"
GATHERED = "gathered"
SINGLE = "one element at a time"
UNKNOWN = "not modelled"
READINGS = (ALONG_REDUCTION, ALONG_LANES, SHARED, GATHERED, SINGLE, UNKNOWN)
STRIDE_ONE = frozenset({ALONG_REDUCTION, ALONG_LANES})


@dataclass(frozen=True)
class Reading:
    """How one kernel reads a tensor, in the walk that the cost model gives the kernel.

    Attributes
    ----------
    reader
        Name of the first tensor that the kernel makes.
    how
        One of :data:`READINGS`; of several accesses of the kernel, that of the worst one.
    reduced
        Whether the tensor is read along a reduced axis of the kernel.
    reason
        Why it is not read with stride one; empty where it is.
    kernel
        Function of the kernel; empty until names are final.
    scheduled
        One of :data:`READINGS`, as the loops of the scheduled function have it; empty before, and
        where they do not move along a reduction.
    """

    reader: str
    how: str
    reduced: bool
    reason: str = ""
    kernel: str = ""
    scheduled: str = ""


@dataclass(frozen=True)
class NextBest:
    """The cheapest layout but the chosen one, all other tensors as they are.

    Attributes
    ----------
    layout
        As :class:`TensorLayout` writes it.
    extra
        How much more it would cost, in vector instructions.
    ratio
        That cost over the chosen layout's.
    """

    layout: str
    extra: float
    ratio: float


@dataclass(frozen=True)
class TensorLayout:
    """One tensor of the graph in its buffer.

    Attributes
    ----------
    name
        Of the tensor; a constant is called after a tensor that its first reader makes.
    shape
        Extents; names of shape variables.
    layout
        Dimensions by number, the outermost first; ``1/4`` and ``1%4`` are those of a dimension that
        is cut into vectors.
    row_by_row
        Whether that is the plain order.
    scope
        Memory scope.
    bytes
        Of the buffer, with padding; 0 for a view of another tensor, None for open extents.
    copies
        How many of the bytes are there because the tensor is stored a second time, in another
        layout.
    forced
        Whether it had to lie row by row.
    constant
        Whether its elements are known at compile time.
    reason
        Why it lies so.
    cost
        Cost of the kernels around it, in vector instructions of the cost model; 0 where no kernel
        with a model has it.
    next_best
        What another layout would have cost; None where there was no choice.
    readings
        For each kernel that reads it.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    layout: str
    row_by_row: bool
    bytes: int | None
    reason: str
    forced: bool = False
    constant: bool = False
    scope: str = "global"
    copies: int = 0
    cost: float = 0.0
    next_best: NextBest | None = None
    readings: tuple[Reading, ...] = ()


def read_tensor_layouts(mod: tvm.IRModule) -> list[TensorLayout]:
    """Layouts recorded in a module, in the order of the graph."""
    text = mod.get_attr(ATTRIBUTE)
    if text is None:
        return []
    return [
        TensorLayout(
            **{
                **entry,
                "shape": tuple(entry["shape"]),
                "next_best": NextBest(**entry["next_best"]) if entry["next_best"] else None,
                "readings": tuple(Reading(**reading) for reading in entry["readings"]),
            }
        )
        for entry in json.loads(str(text))
    ]


def with_tensor_layouts(mod: tvm.IRModule, tensors: Iterable[TensorLayout]) -> tvm.IRModule:
    """Module with these layouts recorded instead of any other."""
    entries = [asdict(tensor) for tensor in tensors]
    if not entries:  # IRModule.get_attr cannot read a text as short as "[]"
        return mod.without_attr(ATTRIBUTE) if mod.get_attr(ATTRIBUTE) is not None else mod
    return mod.with_attr(ATTRIBUTE, json.dumps(entries))


def count_readings(tensors: Iterable[TensorLayout]) -> dict[str, int]:
    """Operands that are read along a reduced axis, by how; every reading is named.

    A tensor that two kernels read is two operands.
    """
    return count(r.how for tensor in tensors for r in tensor.readings if r.reduced)


def count(found: Iterable[str]) -> dict[str, int]:
    """How often each of :data:`READINGS` occurs."""
    counts = Counter(found)
    return {how: counts[how] for how in READINGS}


def unexplained(tensors: Iterable[TensorLayout]) -> list[tuple[str, Reading]]:
    """Operands along a reduced axis that neither are read with stride one nor say why not."""
    return [
        (tensor.name, reading)
        for tensor in tensors
        for reading in tensor.readings
        if reading.reduced and reading.how not in STRIDE_ONE and not reading.reason
    ]
