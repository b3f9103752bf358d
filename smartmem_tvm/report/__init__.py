"""Results as JSON for programs and as tables for people."""

from __future__ import annotations

from .document import json_text
from .layout_tables import against_the_grain_tables, layout_table
from .tables import (
    check_table,
    device_table,
    fate_table,
    half_table,
    kernel_table,
    operator_table,
    profile_table,
    profiles_table,
    summary_table,
    tensor_table,
)
from .tuning_tables import plot_tuning, task_row, tuning_table

__all__ = [
    "against_the_grain_tables",
    "check_table",
    "device_table",
    "fate_table",
    "half_table",
    "json_text",
    "kernel_table",
    "layout_table",
    "operator_table",
    "plot_tuning",
    "profile_table",
    "profiles_table",
    "summary_table",
    "task_row",
    "tensor_table",
    "tuning_table",
]
