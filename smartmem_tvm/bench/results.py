"""The results file: one JSON document, written whole after every model.

::

    {"schema": 2, "complete": false, "settings": {…}, "environment": {…}, "skipped": [{…}],
     "probes": {"numpy-gemm": {…}},
     "models": {"swin/full": {"measured": true, "code": …, "commit": …, "facts": {…},
                              "records": […]}}}

A model that is only prepared has its kernels, traffic and errors, and no latencies. A run with the
same settings in the same environment goes on from an incomplete file; models that were measured
with other code are measured again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SmartMemError
from ..report import json_text
from ..whole_files import write_text

SCHEMA = 2
_ROW = ("model", "size", "runner", "latency_ms", "kernels", "max_rel_error", "failed")


@dataclass
class Record:
    """One model on one runner.

    Attributes
    ----------
    status : str
        ``ok``; ``wrong``: it ran, and its outputs are not the reference's; ``failed``.
    latency_ms : dict, optional
        ``median``, ``min``, ``max`` and the number ``n`` of inferences that were timed.
    times_ms : list[float]
        Every one of them, in order.
    footprint_bytes : int, optional
        Unique bytes that each launch reads and writes, summed over the launches of one inference.
    failed : str, optional
        Why the row does not count: ``KIND: sentence`` with a kind of ``wrong``, ``error``,
        ``crash``, ``time`` or ``memory``.
    ratio : float, optional
        Our median over this runner's, from the same alternating rounds.
    """

    model: str
    size: str
    runner: str
    status: str = "ok"
    latency_ms: dict[str, float] | None = None
    times_ms: list[float] = field(default_factory=list)
    kernels: int | None = None
    layout_kernels: int | None = None
    footprint_bytes: int | None = None
    max_rel_error: float | None = None
    failed: str | None = None
    ratio: float | None = None
    prepare_s: float | None = None
    load_s: float | None = None
    peak_memory_mib: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def fail(self, reason: str) -> None:
        """Take the record out of ratios; a wrong result stays called wrong."""
        if self.status == "ok":
            self.status = "wrong" if reason.startswith("wrong:") else "failed"
            self.failed = reason

    def row(self) -> dict[str, Any]:
        """The columns that ``smartmem bench --json`` promises."""
        fields = asdict(self)
        return {name: fields[name] for name in _ROW}


@dataclass
class Document:
    """Everything that one run measured; see the module."""

    settings: dict[str, Any]
    environment: dict[str, Any]
    skipped: list[dict[str, str]] = field(default_factory=list)
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete: bool = False
    schema: int = SCHEMA

    def records(self) -> list[Record]:
        """All records, in the order of measurement."""
        entries = self.models.values()
        return [Record(**record) for entry in entries for record in entry["records"]]

    def matches(self, other: Document) -> bool:
        """Whether two runs measure the same thing in the same place."""
        return self.settings == other.settings and self.environment == other.environment

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        write_text(path, json_text(self) + "\n")


def read_document(path: Path) -> Document:
    """Read a results file.

    Raises
    ------
    SmartMemError
        If it is not one, or of another schema.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["schema"] != SCHEMA:
            raise SmartMemError(
                f"results '{path}' have schema {fields['schema']}, this version reads {SCHEMA}: "
                "measure again, with another --output."
            )
        document = Document(**fields)
        document.records()
        return document
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SmartMemError(
            f"'{path}' is no results file of `smartmem bench` ({error}): it is left alone. Give "
            "another --output."
        ) from error


def geomean_ratios(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Per peer, the geometric mean of our latency over its, and of how many models."""
    ratios: dict[str, list[float]] = {}
    for record in records:
        if record.ratio is not None:
            ratios.setdefault(record.runner, []).append(record.ratio)
    return {
        runner: {"ratio": math.exp(sum(map(math.log, values)) / len(values)), "models": len(values)}
        for runner, values in ratios.items()
    }


def roofline(facts: dict[str, Any], probes: dict[str, dict[str, Any]]) -> float | None:
    """Milliseconds that a model needs at least on this machine.

    Either all its operations at the peak, or each compulsory byte moved once: what takes longer.
    """
    peak = probes.get("numpy-gemm", {}).get("rate")
    bandwidth = probes.get("copy-bandwidth", {}).get("rate")
    macs, moved = facts.get("macs_g"), facts.get("compulsory_bytes")
    if not peak or not bandwidth or macs is None or moved is None:
        return None
    return max(2e9 * macs / peak, moved / bandwidth) * 1e3
