"""Places in a work-item where values are computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from smartmem_tvm.analysis.computation import Stage

from .lanes import Lane


@dataclass
class Scope:
    """A place where stages are computed: loops around it, statements there, results, values."""

    parent: Scope | None
    variables: tuple[Any, ...]
    repeats: int
    statements: list[Any] = field(default_factory=list)
    results: list[tuple[Stage, list[Any], dict[Any, Any]]] = field(default_factory=list)
    values: list[tuple[Any, Any]] = field(default_factory=list)
    lane: Lane | None = None
