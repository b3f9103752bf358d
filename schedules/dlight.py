"""TVM's own dlight rules, in the order in which its GPU pipeline tries them."""

from __future__ import annotations

from tvm import s_tir, tirx
from tvm.s_tir import dlight
from tvm.target import Target

from smartmem_tvm.analysis import foreign_local_read
from smartmem_tvm.upstream import DLIGHT_ERRORS

from .base import RuleDeclined, ScheduleRule, first_line


class GuardedRule:
    """A dlight rule whose crash or wrong schedule is a reason to try the next rule.

    Only for rules of TVM: in a rule of ours such an exception is a defect and must surface.
    """

    def __init__(self, rule: ScheduleRule) -> None:
        self._rule = rule
        self.name = type(rule).__name__

    def apply(
        self, func: tirx.PrimFunc, target: Target, tunable: bool
    ) -> s_tir.Schedule | list[s_tir.Schedule] | None:
        """Apply the rule; raise RuleDeclined instead of what dlight raises."""
        try:
            applied = self._rule.apply(func, target, tunable)
        except DLIGHT_ERRORS as error:
            raise RuleDeclined(f"raised {type(error).__name__}: {first_line(error)}") from error
        # One rule of dlight's makes wrong code on some functions (upstream, fault 9).
        if isinstance(applied, s_tir.Schedule):
            for scheduled in applied.mod.functions.values():
                wrong = foreign_local_read(scheduled)
                if wrong is not None:
                    raise RuleDeclined(wrong)
        return applied


def dlight_rules() -> list[GuardedRule]:
    """Rules for GPU-like devices; the last one, Fallback, takes almost everything."""
    gpu = dlight.gpu
    return [
        GuardedRule(rule)
        for rule in (
            gpu.Matmul(),
            gpu.GEMV(),
            gpu.Reduction(),
            gpu.GeneralReduction(),
            gpu.Fallback(),
        )
    ]
