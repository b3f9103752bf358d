"""Sessions, each in a process of its own; what one cannot do costs itself alone."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from typing import Any

from tuning_bench import METASCHEDULE, Bench, Unit
from tuning_pool import Entry
from tuning_workers import BenchWorker

from smartmem_tvm.bench.machine import commit
from smartmem_tvm.bench.process import WorkerFailure

_COLLECT_S = 120.0


def run_unit(bench: Bench, entry: Entry, unit: Unit) -> dict[str, Any]:
    """Hold a session.

    Returns
    -------
    dict
        The unit's fields, ``failed`` (why there is nothing, or None), ``stopped`` (why it ended
        early), ``load`` (averages before and after), ``commit``, and what :func:`run_session` or
        :func:`collect` returned.
    """
    load = [os.getloadavg()[0]]
    tuned = _metaschedule if unit.strategy == METASCHEDULE else _session
    found: dict[str, Any] = {"failed": None, "stopped": None}
    try:
        found |= tuned(bench, entry, unit)
    except WorkerFailure as failure:
        found["failed"] = str(failure)
    if found["failed"] is None and found["best_s"] is None:
        reasons = "; ".join(found.get("reasons", ())) or str(found["statuses"])
        said = [f"no candidate was right: {reasons}" if found["trials"] else "no trial"]
        found["failed"] = "; ".join([*said, *filter(None, [found["stopped"]])])
    return {**asdict(unit), **found, "load": [*load, os.getloadavg()[0]], "commit": commit()}


def _session(bench: Bench, entry: Entry, unit: Unit) -> dict[str, Any]:
    limits = bench.limits
    records = unit.records(bench)
    with BenchWorker(records.with_suffix(".log"), limits.memory) as worker:
        return worker.request(
            limits.unit_seconds,
            "session",
            tasks=str(bench.tasks),
            entry=asdict(entry),
            strategy=unit.strategy,
            seed=unit.seed,
            trials=bench.trials,
            device=bench.device,
            opencl_device=bench.opencl_device,
            records=str(records),
            limits={
                "seconds": limits.seconds,
                "memory": limits.memory,
                "repeats": limits.repeats,
            },
        )


def _metaschedule(bench: Bench, entry: Entry, unit: Unit) -> dict[str, Any]:
    """A session of MetaSchedule's, from the start: its search cannot go on from its database."""
    limits, folder = bench.limits, unit.database(bench)
    shutil.rmtree(folder, ignore_errors=True)
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    environment = {"TMPDIR": str(temporary)}  # what processes that were killed leave there
    stopped = None
    try:
        with BenchWorker(folder / "tune.log", limits.memory, environment) as worker:
            worker.request(
                limits.unit_seconds,
                "metaschedule",
                task=str(bench.tasks / entry.key),
                folder=str(folder),
                trials=bench.trials,
                seed=unit.seed,
                opencl_device=bench.opencl_device,
                candidate_seconds=limits.seconds,
                repeats=limits.repeats,
            )
    except WorkerFailure as failure:
        stopped = str(failure)  # what it found until then counts
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    with BenchWorker(folder / "collect.log", limits.memory) as worker:
        return {**worker.request(_COLLECT_S, "collect", folder=str(folder)), "stopped": stopped}
