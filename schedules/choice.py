"""What decides a kernel's schedule, as data: what rules choose, searches vary and records keep.

::

    func  --rule-->  Choice(Tile(rows=((0, 7),), lane=1, width=16, …))  -->  s_tir.Schedule
                                        ↑ ↓
                     {"rows": [[0, 7]], "lane": 1, "width": 16, …}   JSON
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tvm import s_tir, tirx

from smartmem_tvm.analysis.fused_kernel import Kernel, read_kernel
from smartmem_tvm.analysis.loop_orders import loop_orders
from smartmem_tvm.analysis.texels import split_texels
from smartmem_tvm.errors import SmartMemError

from .base import RuleDeclined
from .emit import WorkItem
from .regroup import regroup
from .tile import Tile

CHOICE = "smartmem.schedule_choice"


@dataclass(frozen=True)
class Choice:
    """A schedule of a kernel.

    Attributes
    ----------
    tile : Tile
        What a work-item computes; axes are those of the kernel in its order.
    order : int
        Which of the kernel's loop orders (:func:`smartmem_tvm.analysis.loop_orders.loop_orders`).
    fused : bool
        Whether axes are taken together or apart so that tiles fit them (:mod:`.regroup`).
    row_bytes : int
        Private memory for values of a row that several loops need (:mod:`.kept_rows`).
    """

    tile: Tile
    order: int = 0
    fused: bool = True
    row_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """What JSON keeps: defaults are left out."""
        tile = {name: value for name, value in asdict(self.tile).items() if value != _TILE[name]}
        rest = {name: getattr(self, name) for name in ("order", "fused", "row_bytes")}
        return {**tile, **{name: value for name, value in rest.items() if value != _REST[name]}}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Choice:
        """Read what :meth:`to_dict` wrote, before or after JSON.

        Raises
        ------
        SmartMemError
            For a field that is none, or a value of another type.
        """
        unknown = sorted(set(document) - set(_TILE) - set(_REST))
        if unknown:
            raise SmartMemError(
                f"a schedule has no field '{unknown[0]}': its fields are "
                f"{', '.join([*_TILE, *_REST])}. Was it written by a later version?"
            )
        tile = {name: _read(name, document[name]) for name in _TILE if name in document}
        rest = {name: _read(name, document[name]) for name in _REST if name in document}
        return cls(Tile(**tile), **rest)


_TILE = asdict(Tile())
_REST = {f.name: f.default for f in fields(Choice) if f.name != "tile"}
_PAIRS = ("rows", "shape")


def _read(name: str, value: Any) -> Any:
    """A field's value out of JSON."""

    def whole(number: Any) -> bool:
        return isinstance(number, int) and not isinstance(number, bool) and number >= 0

    legal = False
    if name in _PAIRS and isinstance(value, list | tuple):
        value = tuple(tuple(pair) if isinstance(pair, list | tuple) else pair for pair in value)
        legal = all(isinstance(p, tuple) and len(p) == 2 and all(map(whole, p)) for p in value)
    elif name == "inner" and isinstance(value, list | tuple):
        value = tuple(value)
        legal = all(map(whole, value))
    elif name == "fused":
        legal = isinstance(value, bool)
    elif name in ("lane", "fastest"):
        legal = value is None or whole(value)
    elif name not in _PAIRS and name != "inner":
        legal = whole(value)
    if not legal:
        raise SmartMemError(f"field '{name}' of a schedule cannot be {value!r}.")
    return value


def kernel_in_order(func: tirx.PrimFunc, order: int, fused: bool = True) -> Kernel:
    """A function's kernel in one of its loop orders; RuleDeclined where it has no such order."""
    kernel = read_kernel(func)
    if order:
        orders = loop_orders(kernel)
        if order >= len(orders):
            raise RuleDeclined(f"the kernel has {len(orders)} loop orders, and no number {order}")
        kernel = orders[order]
    return regroup(kernel) if fused else split_texels(kernel)


def scheduled(kernel: Kernel, choice: Choice) -> s_tir.Schedule:
    """Schedule of a kernel that is in the choice's order; its function says what was chosen."""
    return described(WorkItem(kernel, choice.tile, choice.row_bytes), choice)


def described(item: WorkItem, choice: Choice) -> s_tir.Schedule:
    """Schedule of a work-item by a choice; its function says what was chosen.

    A tile whose source would become too long has been made smaller: the function says to what.
    """
    schedule, tile = item.schedule()
    func = schedule.mod["main"]
    text = json.dumps(replace(choice, tile=tile).to_dict(), sort_keys=True)
    return s_tir.Schedule(func.with_attr(CHOICE, text))


def choice_of(func: tirx.PrimFunc) -> Choice | None:
    """What a function that a rule of this package scheduled was scheduled by; None for others."""
    text = func.attrs.get(CHOICE)
    return None if text is None else Choice.from_dict(json.loads(str(text)))


def schedule_by(func: tirx.PrimFunc, choice: Choice) -> s_tir.Schedule:
    """Schedule of a function by a choice; RuleDeclined where the choice does not fit it."""
    kernel = kernel_in_order(func, choice.order, choice.fused)
    last, axes = max(choice.tile.axes(), default=-1), len(kernel.sink.axes)
    if last >= axes:
        raise RuleDeclined(f"the schedule names axis {last}, the kernel has {axes}")
    return scheduled(kernel, choice)
