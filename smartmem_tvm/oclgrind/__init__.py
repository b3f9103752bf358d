"""Executed traffic: what Oclgrind counts while it interprets one inference.

Oclgrind is an OpenCL simulator (Debian and Ubuntu: ``apt install oclgrind``). It executes what
clang makes of the kernels, so the counts measure the schedule. They are exact and repeatable, and
slow to get: about two million floating-point operations a second.
"""

from __future__ import annotations

from .counts import ExecutedTraffic, KernelCounts, parse_counts
from .session import executed

__all__ = ["ExecutedTraffic", "KernelCounts", "executed", "parse_counts"]
