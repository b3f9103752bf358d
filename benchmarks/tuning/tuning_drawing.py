"""Which tasks are tuned: by seed, spread over classes and models, none too short to be timed.

::

    contraction   swin matmul7, vit matmul2, …        one after the other is measured untuned, once;
    convolution   regnet conv2d5, yolov8 conv2d9, …   one that takes less than --least is passed
    …                                                 over; classes take turns until all are drawn

A class with too few tasks leaves the rest to the others. Times are kept in the work folder, so the
same draw is made again wherever that is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from kernel_classes import CLASSES
from tuning_bench import Bench, Note
from tuning_pool import LISTING, OTHER, Entry, read_pool, write
from tuning_workers import BenchWorker

from smartmem_tvm.bench.process import WorkerFailure
from smartmem_tvm.bench.settings import Model
from smartmem_tvm.devices import resolve_profile
from smartmem_tvm.tuning.measure import Job, MeasureLimits, Measurer, Outcome
from smartmem_tvm.tuning.records import typical

_REPEATS = 3


def draw_tasks(bench: Bench, note: Note, redraw: bool = False) -> list[Entry]:
    """Tasks with their untuned times; fewer than asked for where the models have no more."""
    fused = {model.key: _pool(bench, model, True, note, redraw) for model in bench.models}
    found: dict[str, Entry] = {}
    with _Untuned(bench, note) as untuned:

        def queue(kind: str) -> Iterator[Entry]:
            rng = random.Random(f"{bench.seed} {kind}")

            def of_kind(model: Model) -> list[Entry]:
                return [entry for entry in fused[model.key] if entry.kind == kind]

            yield from _in_turns(bench.models, of_kind, untuned, found, rng)
            if kind == OTHER:

                def unfused(model: Model) -> list[Entry]:
                    return _pool(bench, model, False, note, redraw)

                yield from _in_turns(bench.models, unfused, untuned, found, rng)

        queues = {kind: queue(kind) for kind in CLASSES}
        while queues and len(found) < bench.draw:
            for kind in [*queues]:
                if len(found) == bench.draw:
                    break
                entry = next(queues[kind], None)
                if entry is None:
                    del queues[kind]
                else:
                    found[entry.key] = entry
    return list(found.values())


def _in_turns(
    models: Sequence[Model],
    tasks_of: Callable[[Model], list[Entry]],
    untuned: _Untuned,
    found: Mapping[str, Entry],
    rng: random.Random,
) -> Iterator[Entry]:
    """A random task of each model after the other, of those that take long enough.

    A model is asked for its tasks when it is its turn.
    """
    waiting: dict[str, list[Entry]] = {}
    left = list(models)
    while left:
        for model in rng.sample(left, len(left)):
            if model.key not in waiting:
                tasks = tasks_of(model)
                waiting[model.key] = rng.sample(tasks, len(tasks))
            entry = _next(waiting[model.key], untuned, found)
            if entry is None:
                left.remove(model)
            else:
                yield entry


def _next(tasks: list[Entry], untuned: _Untuned, found: Mapping[str, Entry]) -> Entry | None:
    """Take the next task that takes long enough off the list."""
    while tasks:
        entry = tasks.pop()
        seconds = None if entry.key in found else untuned.seconds(entry)
        if seconds is not None:
            return replace(entry, untuned_s=seconds)
    return None


def _pool(bench: Bench, model: Model, fused: bool, note: Note, redraw: bool) -> list[Entry]:
    """Tasks of a model; none where it cannot be read, and the reason is kept."""
    folder = bench.pool(model.key, fused)
    title = model.key if fused else f"{model.key} without fusion"
    if redraw or not (folder / LISTING).exists():
        note(f"reading {title}")
        try:
            with BenchWorker(folder.with_suffix(".log"), bench.limits.memory) as worker:
                worker.request(
                    bench.limits.unit_seconds,
                    "read",
                    source=model.source,
                    model=model.key,
                    folder=str(folder),
                    device=bench.device,
                    fused=fused,
                )
        except WorkerFailure as failure:
            note(f"{title} is left out: {failure}")
            bench.left_out[title] = {str(failure): 1}
            return []
    entries, bench.left_out[title] = read_pool(folder)
    return entries


class _Untuned:
    """Times of tasks as the rules schedule them, each measured once."""

    def __init__(self, bench: Bench, note: Note) -> None:
        self._bench, self._note = bench, note
        self._path = bench.folder / "untuned.json"
        self._known: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            self._known = json.loads(self._path.read_text(encoding="utf-8"))
        bench.tasks.mkdir(parents=True, exist_ok=True)
        limits = MeasureLimits(bench.limits.seconds, bench.limits.memory, _REPEATS)
        profile = resolve_profile(bench.device)
        self._measurer = Measurer(
            bench.tasks, profile, opencl_device=bench.opencl_device, limits=limits
        )

    def seconds(self, entry: Entry) -> float | None:
        """Seconds of a task that takes long enough; None for the others."""
        if entry.key not in self._known:
            self._note(f"measuring untuned: {entry.title}")
            pool = self._bench.pool(entry.model, entry.fused)
            function = "function.json"
            text = (pool / entry.key / function).read_text(encoding="utf-8")
            write(self._bench.tasks / entry.key / function, text)
            self._measurer.measure([Job(entry.key, None)], self._keep)
        found = self._known[entry.key]["seconds"]
        return None if found is None or found < self._bench.least_s else float(found)

    def _keep(self, job: Job, outcome: Outcome) -> None:
        self._known[job.task] = {
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": typical(outcome.seconds),
        }
        if outcome.status != "ok":
            self._note(f"task {job.task} is passed over: {outcome.status}: {outcome.reason}")
        write(self._path, json.dumps(self._known, indent=1))

    def __enter__(self) -> _Untuned:
        self._measurer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._measurer.__exit__(kind, error, trace)
