"""Schedules for kernels: rules, and the pass that applies them."""

from __future__ import annotations

if __name__ == "schedules":
    raise ImportError(
        "the folder schedules/ is the package smartmem_tvm.schedules: install the "
        "project (`pip install -e .`) and import it under that name"
    )

from .base import ApplySchedules, RuleDeclined, ScheduleRule, refusals, rule_of
from .contraction import Contraction
from .dlight import dlight_rules
from .elementwise import Elementwise
from .generic import Generic
from .row_reduction import RowReduction

__all__ = [
    "ApplySchedules",
    "Generic",
    "RuleDeclined",
    "ScheduleRule",
    "dlight_rules",
    "own_rules",
    "refusals",
    "rule_of",
    "schedule_rules",
]


def own_rules() -> list[ScheduleRule]:
    """Rules of this package, the most special first; each makes exactly one launch."""
    return [Elementwise(), Contraction(), RowReduction(), Generic()]


def schedule_rules() -> list[ScheduleRule]:
    """All rules in the order in which the pipeline tries them: ours, then TVM's."""
    return [*own_rules(), *dlight_rules()]
