"""The last word on a task: all its best schedules in one process, in turns."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tuning_bench import METASCHEDULE, Bench, Note, Unit
from tuning_metaschedule import BEST
from tuning_pool import Entry
from tuning_workers import BenchWorker

from smartmem_tvm.bench.process import WorkerFailure

UNTUNED = "untuned"
ROUNDS = 9
# What takes longer is timed in fewer rounds: seconds, and rounds.
_SLOW = ((5.0, 1), (1.0, 3))

Version = dict[str, Any]


def versions_of(bench: Bench, entry: Entry, units: dict[str, Any]) -> dict[str, Version]:
    """Schedules of a task that there are, by name: the untuned one and the best of each unit."""
    found: dict[str, Version] = {UNTUNED: {"choice": None}}
    for fields in units.values():
        unit = Unit(fields["task"], fields["strategy"], fields["seed"])
        if unit.task != entry.key or fields.get("best_s") is None:
            continue
        if unit.strategy == METASCHEDULE:
            found[unit.version] = {"module": str(unit.database(bench) / BEST)}
        else:
            found[unit.version] = {"choice": fields["choice"]}
    return found


def digests(versions: dict[str, Version]) -> dict[str, str]:
    """What tells schedules of the same name apart."""
    found = {}
    for name, version in versions.items():
        path = Path(version["module"]) if "module" in version else None
        if path is not None:
            text = path.read_bytes() if path.exists() else b""
        else:
            text = json.dumps(version, sort_keys=True).encode()
        found[name] = hashlib.sha256(text).hexdigest()[:16]
    return found


def compare(
    bench: Bench, entry: Entry, versions: dict[str, Version], rounds: int, note: Note
) -> dict[str, Any]:
    """Time schedules of a task in turns.

    Returns
    -------
    dict
        ``times_s`` by version, ``failed`` (why a version has none), ``errors`` (relative),
        ``versions`` (:func:`digests`) and ``load`` (averages before and after).
    """
    failed: dict[str, str] = {}
    load = [os.getloadavg()[0]]
    while True:
        left = {name: version for name, version in versions.items() if name not in failed}
        culprit = _Culprit()
        try:
            times, errors = _rounds(bench, entry, left, rounds, culprit)
            break
        except WorkerFailure as failure:
            # Without whoever ended the process the others are timed anew.
            if culprit.name is None or culprit.name == UNTUNED:
                times, errors = {}, {}
                failed.update(dict.fromkeys(left, str(failure)))
                break
            note(f"{entry.title}: {culprit.name} is left out: {failure}")
            failed[culprit.name] = str(failure)
    return {
        "times_s": times,
        "failed": failed,
        "errors": errors,
        "versions": digests(versions),
        "load": [*load, os.getloadavg()[0]],
    }


class _Culprit:
    """Which version the process is at."""

    name: str | None = None


def _rounds(
    bench: Bench, entry: Entry, versions: dict[str, Version], rounds: int, culprit: _Culprit
) -> tuple[dict[str, list[float]], dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in versions}
    errors, first = {}, {}
    limits = bench.limits
    with BenchWorker(bench.folder / "compare.log", limits.memory) as worker:
        worker.request(
            limits.unit_seconds,
            "load",
            task=str(bench.tasks / entry.key),
            device=bench.device,
            opencl_device=bench.opencl_device,
        )
        for name, version in versions.items():
            culprit.name = name
            reply = worker.request(limits.seconds, "add", name=name, **version)
            errors[name], first[name] = reply["error"], reply["seconds"]
        most = {
            name: next((few for limit, few in _SLOW if seconds > limit), rounds)
            for name, seconds in first.items()
        }
        names = list(versions)
        for number in range(rounds):
            # Each round begins with another one, so that none is always after the same.
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if number < most[name]:
                    culprit.name = name
                    reply = worker.request(limits.seconds, "time", name=name)
                    times[name].append(reply["seconds"])
    return times, errors
