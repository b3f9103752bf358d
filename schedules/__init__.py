"""Schedules for kernels: rules, and the pass that applies them."""

from __future__ import annotations

if __name__ == "schedules":
    raise ImportError(
        "the folder schedules/ is the package smartmem_tvm.schedules: install the "
        "project (`pip install -e .`) and import it under that name"
    )

from .base import ApplySchedules, RuleDeclined, refusals, rule_of
from .dlight import dlight_rules

__all__ = ["ApplySchedules", "RuleDeclined", "dlight_rules", "refusals", "rule_of"]
