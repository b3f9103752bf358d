"""Tuning with MetaSchedule: what its worker processes need to run OpenCL kernels."""

from __future__ import annotations

from .worker import load_runtime

__all__ = ["load_runtime"]
