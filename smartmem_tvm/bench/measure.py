"""Measures one model on its runners, which take turns: A, B, C, A, B, C and so on.

Every runner is in a worker process that stays alive between its turns, so that all of them see the
same drifts of the machine. Where memory does not allow all at once, ours stays and the peers come
in groups; one that does not fit beside ours is measured alone and gets no ratio.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checking import TOLERANCE, output_errors
from ..errors import SmartMemError
from .arrays import read_arrays
from .prepare import ENTRY as PREPARE
from .prepare import REFERENCE
from .process import Worker, WorkerFailure
from .results import Record
from .runners import OURS, Choice

if TYPE_CHECKING:
    import numpy as np

    from .harness import Model, Settings, Watcher

SLOW_MS = 20_000.0
SLOW_REPEATS = 3
_QUICK_MS = 100.0
_PROBE_REPEATS = 15
_MIB = 1 << 20


def measure_model(
    model: Model, choices: list[Choice], settings: Settings, folder: Path, watcher: Watcher
) -> dict[str, Any]:
    """Measure a model on all runners; failures are records like any other.

    Returns
    -------
    dict
        ``date``, ``load_average`` (the system's afterwards), ``facts`` (the model's figures) and
        ``records``.
    """
    rounds = _Rounds(model, choices, settings, folder, watcher)
    facts: dict[str, Any] = {}
    watcher.stage("reference")
    try:
        facts = rounds.prepare()
    except WorkerFailure as failure:
        for record in rounds.records.values():
            record.fail(f"{failure.kind}: no reference: {failure}")
    else:
        try:
            rounds.measure()
        finally:
            rounds.close(rounds.workers.copy())
    return {
        "load_average": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "facts": facts,
        "records": [asdict(record) for record in rounds.records.values()],
    }


def measure_probe(choice: Choice, settings: Settings, folder: Path) -> dict[str, Any]:
    """Measure a probe: ``rate`` (work per second at best), ``latency_ms``, ``failed``."""
    worker = Worker(
        choice.entry,
        folder / f"{choice.name}.log",
        settings.time_limit_s,
        lambda: settings.memory_limit,
        settings.threads,
    )
    try:
        loaded = worker.request(do="load", case=_case(choice, "", settings, folder))
        worker.request(do="outputs", file=str(folder / f"{choice.name}.npz"))
        times = [worker.request(do="run")["ms"] for _ in range(_PROBE_REPEATS)]
    except WorkerFailure as failure:
        return {"rate": None, "latency_ms": None, "failed": str(failure), "details": {}}
    finally:
        worker.close()
    return {
        "rate": loaded["work"] / min(times) * 1e3,
        "latency_ms": _latency(times),
        "failed": None,
        "details": loaded["details"],
    }


class _Rounds:
    """The runners of one model, their workers and records."""

    def __init__(
        self,
        model: Model,
        choices: list[Choice],
        settings: Settings,
        folder: Path,
        watcher: Watcher,
    ) -> None:
        self.records = {c.label: Record(model.name, model.size, c.label) for c in choices}
        self.workers: dict[str, Worker] = {}
        self._warm_ms: dict[str, float] = {}
        self._reference: dict[str, np.ndarray] = {}
        self._model = model
        self._choices = choices
        self._settings = settings
        self._folder = folder
        self._watcher = watcher

    def prepare(self) -> dict[str, Any]:
        """Write the model's files, read the reference, return the model's figures."""
        worker = self._start("reference", PREPARE)
        try:
            case = _case(None, self._model.source, self._settings, self._folder)
            facts = worker.request(do="load", case=case)["details"]
        finally:
            self.close(["reference"])
        self._reference = read_arrays(self._folder / REFERENCE)
        return facts

    def measure(self) -> None:
        """Load and time all runners, in as few groups as memory allows."""
        pending, alone = self._choices, []
        while pending:
            later = []
            for choice in pending:
                peers = self.workers.keys() - {OURS, choice.label}
                try:
                    self._load(choice)
                except WorkerFailure as failure:
                    if failure.kind != "memory" or not self.workers:
                        self.records[choice.label].fail(str(failure))
                    elif peers:
                        later.append(choice)
                    else:
                        alone.append(choice)
            self._take_turns()
            self.close(self.workers.keys() - {OURS})
            pending = later
        self.close(list(self.workers))
        for choice in alone:
            try:
                self._load(choice)
            except WorkerFailure as failure:
                self.records[choice.label].fail(str(failure))
            self._take_turns()
            self.close(list(self.workers))

    def close(self, labels: Iterable[str]) -> None:
        """End workers; their figures go to the records."""
        for label in list(labels):
            worker = self.workers.pop(label, None)
            if worker is not None:
                self._note_memory(label, worker)
                worker.close()

    def _start(self, label: str, entry: str) -> Worker:
        def limit() -> int:
            others = (other.memory for name, other in self.workers.items() if name != label)
            return self._settings.memory_limit - sum(others)

        log = self._folder / f"{label.replace(':', '-')}.log"
        settings = self._settings
        worker = Worker(entry, log, settings.time_limit_s, limit, settings.threads)
        self.workers[label] = worker
        return worker

    def _load(self, choice: Choice) -> None:
        """Load, compare the first outputs, warm up."""
        label, record = choice.label, self.records[choice.label]
        self._watcher.stage(f"{label}: loading")
        worker = self._start(label, choice.entry)
        try:
            case = _case(choice, self._model.source, self._settings, self._folder)
            loaded = worker.request(do="load", case=case)
            record.load_s = round(worker.seconds, 3)
            record.kernels = loaded["kernels"]
            record.layout_kernels = loaded["layout_kernels"]
            record.details = loaded["details"]
            file = self._folder / f"{label.replace(':', '-')}.npz"
            ms = worker.request(do="outputs", file=str(file))["ms"]
            self._compare(choice, read_arrays(file))
            file.unlink()
            if ms < SLOW_MS:
                ms = worker.request(do="run")["ms"]
            self._warm_ms[label] = ms
        except WorkerFailure:
            self.close([label])
            raise

    def _compare(self, choice: Choice, outputs: dict[str, np.ndarray]) -> None:
        record = self.records[choice.label]
        tolerance = TOLERANCE[choice.runner.dtype(self._settings.dtype, choice.options)]
        try:
            record.max_rel_error = max(output_errors(outputs, self._reference).values())
        except SmartMemError as error:
            record.fail(f"wrong: {error}")
            return
        if record.max_rel_error > tolerance:
            record.fail(
                f"wrong: relative error {record.max_rel_error:.2g} is above {tolerance:.0e}"
            )

    def _take_turns(self) -> None:
        """Time the loaded runners in alternation."""
        times: dict[str, list[float]] = {label: [] for label in self.workers}
        for turn in range(self._settings.repeats):
            self._watcher.stage(f"round {turn + 1} of {self._settings.repeats}")
            for label in list(self.workers):
                warm_ms = self._warm_ms[label]
                # By what was timed, not by the warm-up, which may have compiled or paged in.
                if turn >= SLOW_REPEATS and statistics.median(times[label]) > SLOW_MS:
                    continue
                # A short inference is mostly caches and threads waking up unless one goes before.
                untimed = 1 if warm_ms < _QUICK_MS else 0
                try:
                    reply = self.workers[label].request(do="run", untimed=untimed)
                except WorkerFailure as failure:
                    self.records[label].fail(str(failure))
                    self.close([label])
                    continue
                times[label].append(reply["ms"])
        self._conclude(times)

    def _conclude(self, times: dict[str, list[float]]) -> None:
        ours = self.records.get(OURS)
        for label, values in times.items():
            record = self.records[label]
            if record.status == "failed" or not values:
                continue
            if record.latency_ms is None:
                record.times_ms = [round(value, 4) for value in values]
                record.latency_ms = _latency(values)
            valid = record.status == "ok" and ours is not None and ours.status == "ok"
            if label != OURS and valid and times.get(OURS):
                record.ratio = statistics.median(times[OURS]) / statistics.median(values)

    def _note_memory(self, label: str, worker: Worker) -> None:
        if label in self.records:
            self.records[label].peak_memory_mib = round(worker.peak_memory / _MIB, 1)


def _case(choice: Choice | None, source: str, settings: Settings, folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "source": source,
        "threads": settings.threads,
        "device": settings.device,
        "opencl_device": settings.opencl_device,
        "dtype": settings.dtype,
        "options": dict(choice.options) if choice is not None else {},
    }


def _latency(times: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(times),
        "min": min(times),
        "max": max(times),
        "n": len(times),
    }
