"""The second phase: times one model on its runners, which take turns: A, B, C, A, B, C and so on.

Every runner is in a worker process that stays alive between its turns, so that all of them see the
same drifts of the machine. Where memory, or the number of RPC servers, does not allow all at once,
ours stays and the peers come in groups; one that does not fit beside ours is measured alone and
gets no ratio.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arrays import read_arrays
from .preparation import SLOW_MS, PreparedModel, compare, runner_folder
from .prepare import REFERENCE
from .process import Worker, WorkerFailure
from .results import Record
from .runners import OURS, Choice

if TYPE_CHECKING:
    import numpy as np

    from .harness import Watcher
    from .settings import Model, Settings

SLOW_REPEATS = 3
_QUICK_MS = 100.0
_PROBE_REPEATS = 15
_MIB = 1 << 20
_NO_ROOM = "busy"


def describe_model(model: Model, choices: list[Choice], prepared: PreparedModel) -> dict[str, Any]:
    """Entry of a model that is prepared and not measured: all but latencies.

    Returns
    -------
    dict
        ``measured``, ``date``, ``load_average`` (the system's afterwards), ``facts`` (the model's
        figures) and ``records``.
    """
    records = _records(model, choices, prepared)
    return _entry(prepared, records.values(), measured=False)


def measure_model(
    model: Model,
    choices: list[Choice],
    prepared: PreparedModel,
    settings: Settings,
    watcher: Watcher,
) -> dict[str, Any]:
    """Measure a prepared model on all runners; failures are records like any other."""
    rounds = _Rounds(model, choices, prepared, settings, watcher)
    if prepared.own.failure is None:
        try:
            rounds.measure()
        finally:
            rounds.close(rounds.workers.copy())
    return _entry(prepared, rounds.records.values(), measured=True)


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
        loaded = worker.request(do="load", case=settings.case(choice, "", folder, folder))
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


def _records(model: Model, choices: Iterable[Choice], prepared: PreparedModel) -> dict[str, Record]:
    """What is known before anything is timed."""
    records = {}
    for choice in choices:
        found = prepared.runners[choice.label]
        record = Record(model.name, model.size, choice.label)
        records[choice.label] = record
        for name in ("kernels", "layout_kernels", "footprint_bytes", "max_rel_error", "prepare_s"):
            setattr(record, name, found.facts.get(name))
        record.details = found.facts.get("details", {})
        if found.failure is not None:
            record.fail(found.failure.text)
        elif found.facts["wrong"] is not None:
            record.fail(found.facts["wrong"])
    return records


def _entry(prepared: PreparedModel, records: Iterable[Record], *, measured: bool) -> dict[str, Any]:
    return {
        "measured": measured,
        "load_average": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "facts": prepared.own.facts,
        "records": [asdict(record) for record in records],
    }


class _Rounds:
    """The runners of one model, their workers and records."""

    def __init__(
        self,
        model: Model,
        choices: list[Choice],
        prepared: PreparedModel,
        settings: Settings,
        watcher: Watcher,
    ) -> None:
        self.records = _records(model, choices, prepared)
        self.workers: dict[str, Worker] = {}
        self._warm_ms: dict[str, float] = {}
        self._reference: dict[str, np.ndarray] = {}
        self._model = model
        self._choices = [c for c in choices if self.records[c.label].status != "failed"]
        self._prepared = prepared
        self._settings = settings
        self._watcher = watcher

    def measure(self) -> None:
        """Load and time all runners, in as few groups as memory and servers allow."""
        self._reference = read_arrays(self._prepared.folder / REFERENCE)
        pending, alone = self._choices, []
        while pending:
            later = []
            for choice in pending:
                peers = self.workers.keys() - {OURS, choice.label}
                try:
                    if self._servers_are_busy():
                        raise WorkerFailure(_NO_ROOM, "every RPC server has a session")
                    self._load(choice)
                except WorkerFailure as failure:
                    if failure.kind not in ("memory", _NO_ROOM) or not self.workers:
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
                self.records[label].peak_memory_mib = round(worker.peak_memory / _MIB, 1)
                worker.close()

    def _servers_are_busy(self) -> bool:
        servers = self._settings.servers
        return servers is not None and len(self.workers) >= servers

    def _start(self, label: str, entry: str) -> Worker:
        def limit() -> int:
            others = (other.memory for name, other in self.workers.items() if name != label)
            return self._settings.memory_limit - sum(others)

        log = runner_folder(self._prepared.folder, label) / "measure.log"
        settings = self._settings
        worker = Worker(entry, log, settings.time_limit_s, limit, settings.threads)
        self.workers[label] = worker
        return worker

    def _load(self, choice: Choice) -> None:
        """Load, compare the first outputs, warm up."""
        label, record = choice.label, self.records[choice.label]
        self._watcher.stage(f"{label}: loading")
        folder = runner_folder(self._prepared.folder, label)
        file = folder / "outputs.npz"
        worker = self._start(label, choice.entry)
        try:
            case = self._settings.case(choice, self._model.source, self._prepared.folder, folder)
            worker.request(do="load", case=case)
            record.load_s = round(worker.seconds, 3)
            ms = worker.request(do="outputs", file=str(file))["ms"]
            self._compare(choice, read_arrays(file))
            if ms < SLOW_MS:
                ms = worker.request(do="run")["ms"]
            self._warm_ms[label] = ms
        except WorkerFailure:
            self.close([label])
            raise
        finally:
            file.unlink(missing_ok=True)

    def _compare(self, choice: Choice, outputs: dict[str, np.ndarray]) -> None:
        """Outputs have to be right in this process too, not only where they were prepared."""
        record = self.records[choice.label]
        error, wrong = compare(choice, self._settings.dtype, outputs, self._reference)
        if error is not None:
            record.max_rel_error = max(error, record.max_rel_error or 0.0)
        if wrong is not None:
            record.fail(wrong)

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


def _latency(times: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(times),
        "min": min(times),
        "max": max(times),
        "n": len(times),
    }
