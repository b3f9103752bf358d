"""Applying schedule rules to the kernels of a module.

::

    ApplySchedules([Matmul, Fallback])

    @T.prim_func                          @T.prim_func
    def f(A, B, C):                       def f(A, B, C):   # tirx.is_scheduled
        for i, j, k in T.grid(...):   →       for bx in T.thread_binding(...):
            ...                                   ...

The first rule that returns a schedule wins. A rule that cannot handle a function returns None or
raises :class:`RuleDeclined` with the reason; a schedule primitive that TVM refuses counts as the
same. Reasons are kept in the attribute ``smartmem.schedule_refusals`` of the function, the rule
that won in ``smartmem.schedule_rule``. A function that no rule takes stays unscheduled:
:class:`smartmem_tvm.passes.VerifyThreadBinding` then refuses it and prints the reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.schedule import ScheduleError
from tvm.target import Target

from smartmem_tvm.analysis import is_host_function
from smartmem_tvm.analysis.footprint import record_footprint
from smartmem_tvm.analysis.fused_kernel import NotAKernel
from smartmem_tvm.errors import SmartMemError

REFUSALS = "smartmem.schedule_refusals"
RULE = "smartmem.schedule_rule"
IS_SCHEDULED = "tirx.is_scheduled"


@tvm_ffi.register_error  # so that it passes through callbacks of TVM as itself
class RuleDeclined(Exception):
    """A rule does not fit a function; the message says why."""


class ScheduleRule(Protocol):
    """What :class:`ApplySchedules` asks of a rule; dlight's rules have the same shape."""

    def apply(
        self, func: tirx.PrimFunc, target: Target, tunable: bool
    ) -> s_tir.Schedule | list[s_tir.Schedule] | None:
        """Return a schedule of `func` for `target`, or None when the rule does not fit."""


def refusals(func: tirx.PrimFunc) -> list[str]:
    """Reasons why rules did not fit the function, in the order in which they were tried."""
    return [str(reason) for reason in func.attrs.get(REFUSALS) or []]


def rule_of(func: tirx.PrimFunc) -> str | None:
    """Name of the rule that scheduled the function, None when none of ours did."""
    name = func.attrs.get(RULE)
    return None if name is None else str(name)


def first_line(error: Exception) -> str:
    """Return the line of a TVM error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    stated = [line for line in lines if line.startswith(("Error message:", "ScheduleError:"))]
    return (stated or lines or ["no message"])[0]


@tvm.transform.module_pass(opt_level=0, name="smartmem.ApplySchedules")
class ApplySchedules:
    """Schedule every device function that has no schedule yet.

    Parameters
    ----------
    rules
        Tried in order. They see ``Target.current()`` unless the function has a target.
    """

    def __init__(self, rules: Sequence[ScheduleRule]) -> None:
        self.rules = tuple(rules)

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return a module with the schedules applied."""
        current = Target.current(allow_none=True)
        mod = mod.clone()
        for gv, func in list(mod.functions.items()):
            if not isinstance(func, tirx.PrimFunc) or func.attrs.get(IS_SCHEDULED):
                continue
            own = func.attrs.get("target")
            target = own if own is not None else current
            if target is None:
                raise SmartMemError(
                    f"function '{gv.name_hint}' has no target: run the pass inside "
                    "`with target:` or bind one with tirx.transform.BindTarget"
                )
            if not is_host_function(func, target):
                mod.update_func(gv, _schedule(func, target, self.rules))
        return mod


def _schedule(func: tirx.PrimFunc, target: Target, rules: Sequence[ScheduleRule]) -> tirx.PrimFunc:
    reasons: list[str] = []
    scheduled = func
    for rule in rules:
        name = getattr(rule, "name", type(rule).__name__)
        try:
            found = rule.apply(func, target, False)
        except (RuleDeclined, NotAKernel, ScheduleError) as error:
            reasons.append(f"{name}: {first_line(error)}")
            continue
        if found is None:
            continue
        schedule = found[0] if isinstance(found, list) else found
        scheduled = schedule.mod["main"].with_attr({IS_SCHEDULED: True, RULE: name})
        scheduled = record_footprint(scheduled, func)
        break
    return scheduled.with_attr(REFUSALS, reasons) if reasons else scheduled
