"""Facts about a module: what is launched, what it moves, what it reads and writes.

Nothing here rewrites. Facts come from the structure of the functions and their attributes, never
from names.
"""

from __future__ import annotations

from .footprint import footprint_bytes
from .kernels import KernelInfo, kernel_names, list_kernels
from .launches import Launch, accesses_outside_launches, find_launches, is_host_function
from .layout_only import is_layout_only
from .private_memory import foreign_local_read

__all__ = [
    "KernelInfo",
    "Launch",
    "accesses_outside_launches",
    "find_launches",
    "footprint_bytes",
    "foreign_local_read",
    "is_host_function",
    "is_layout_only",
    "kernel_names",
    "list_kernels",
]
