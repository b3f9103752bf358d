"""The kernels that one inference launches.

:func:`list_kernels` reads a module whose PrimFuncs are scheduled and whose reshapes are views,
but which is not yet in VM form: the module after the stage ``"verify"`` of
:func:`smartmem_tvm.pipeline.pipeline_stages`. Earlier, functions have no launches yet or a reshape
that costs nothing still looks like one; later, ``call_tir`` is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx

from ..errors import SmartMemError
from .footprint import Footprint, footprint_of_launch
from .launches import Launch, find_launches, is_host_function
from .layout_only import is_layout_only

_CALL_TIR = ("relax.call_tir", "relax.call_tir_inplace", "relax.call_tir_with_grad")


@dataclass(frozen=True)
class KernelInfo:
    """One device kernel of a compiled module.

    Attributes
    ----------
    name
        Name of the OpenCL kernel, as in the generated source and in profiles.
    func
        Name of the PrimFunc it comes from.
    calls
        Launches in one inference: call sites times host loops around the launch. Both branches of
        a conditional count. A host loop whose extent is not constant (TVM's cumulative sum) counts
        as one round: the number is then a lower bound.
    layout_only
        Whether it only moves data (:mod:`smartmem_tvm.analysis.layout_only`).
    footprint_bytes
        Unique bytes read plus written by one launch, None when a shape is symbolic.
    """

    name: str
    func: str
    calls: int
    layout_only: bool
    footprint_bytes: int | None


def kernel_names(mod: tvm.IRModule) -> dict[str, list[str]]:
    """OpenCL kernel names of every PrimFunc of the module, in launch order.

    TVM names the first kernel of a function ``f`` ``f_kernel``, the next ``f_kernel_1``, and so on,
    passing over names that the module already has. `mod` must hold the functions that are built
    together, since they share that set of names. The profile of a run is joined by these names.
    """
    supply = _NameSupply(
        gv.name_hint for gv in mod.get_global_vars() if isinstance(mod[gv], tirx.PrimFunc)
    )
    names: dict[str, list[str]] = {}
    for gv, func in mod.functions.items():
        if isinstance(func, tirx.PrimFunc):
            symbol = str(func.attrs.get("global_symbol") or gv.name_hint)
            names[gv.name_hint] = [supply.fresh(f"{symbol}_kernel") for _ in find_launches(func)]
    return names


class _NameSupply:
    """TVM's unique names: a counter per base name that skips what is taken."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self._next = {name: 0 for name in reserved}

    def fresh(self, name: str) -> str:
        name = name.replace(".", "_")
        candidate, number = name, self._next.get(name, 0)
        while candidate in self._next:
            number += 1
            candidate = f"{name}_{number}"
        self._next[candidate] = 0
        self._next[name] = number
        return candidate


def count_calls(mod: tvm.IRModule, entry: str) -> dict[str, int]:
    """How often `entry` calls each PrimFunc, through private Relax functions too."""
    counts: dict[str, int] = {}
    ops = [tvm.ir.Op.get(name) for name in _CALL_TIR]
    entering: list[str] = []

    def visit_function(name: str) -> None:
        if name in entering:
            raise SmartMemError(
                f"function '{name}' calls itself: the number of launches has no "
                "fixed value, so kernels cannot be counted"
            )
        entering.append(name)
        relax.analysis.post_order_visit(mod[name], visit)
        entering.pop()

    def visit(node: Any) -> None:
        if not isinstance(node, relax.Call):
            return
        if any(node.op.same_as(op) for op in ops):
            callee = node.args[0].name_hint
            counts[callee] = counts.get(callee, 0) + 1
        elif isinstance(node.op, tvm.ir.GlobalVar) and isinstance(mod[node.op], relax.Function):
            visit_function(node.op.name_hint)

    visit_function(entry)
    return counts


def list_kernels(mod: tvm.IRModule, entry: str = "main") -> list[KernelInfo]:
    """Kernels that one call of `entry` launches, one record per kernel of each called PrimFunc.

    The number of device launches is the sum of ``calls``.
    """
    names = kernel_names(mod)
    kernels = []
    for func_name, calls in count_calls(mod, entry).items():
        func = mod[func_name]
        if is_host_function(func):
            continue
        launches = find_launches(func)
        if not launches:
            raise SmartMemError(
                f"function '{func_name}' has no thread bindings, so its kernels cannot be counted: "
                "list kernels after the schedule stage"
            )
        for number, name in enumerate(names[func_name]):
            footprint = footprint_of_launch(func, launches, number)
            kernels.append(_describe(name, func_name, calls, launches[number], footprint))
    return kernels


def _describe(
    name: str, func_name: str, calls: int, launch: Launch, footprint: Footprint | None
) -> KernelInfo:
    return KernelInfo(
        name,
        func_name,
        calls * (1 if launch.repeats is None else max(0, launch.repeats)),
        is_layout_only(launch.body),
        None if footprint is None else footprint.bytes,
    )
