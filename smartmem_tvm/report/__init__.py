"""Results as JSON for programs and as tables for people."""

from __future__ import annotations

from .document import json_text
from .tables import (
    check_table,
    device_table,
    fate_table,
    kernel_table,
    operator_table,
    profile_table,
    profiles_table,
    summary_table,
    tensor_table,
)

__all__ = [
    "check_table",
    "device_table",
    "fate_table",
    "json_text",
    "kernel_table",
    "operator_table",
    "profile_table",
    "profiles_table",
    "summary_table",
    "tensor_table",
]
