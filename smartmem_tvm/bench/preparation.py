"""The first phase: everything that needs no quiet machine.

Writes a model's files, compiles it for every runner, warms the caches of compiled kernels, counts
launches and traffic, and compares outputs with the reference. What is prepared already is left as
it is (:mod:`.work`), so an interrupted run goes on with the runner it was at.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checking import TOLERANCE, output_errors
from ..errors import SmartMemError
from .arrays import read_arrays
from .machine import code_digest
from .prepare import ENTRY, REFERENCE, Prepare
from .process import Worker, WorkerFailure
from .runners import Choice
from .work import Failure, Prepared, empty_folder, read_prepared, write_prepared

if TYPE_CHECKING:
    import numpy as np

    from .harness import Watcher
    from .settings import Model, Settings

_MIB = 1 << 20
SLOW_MS = 20_000.0


class PreparedModel:
    """A model's folder and what it and its runners' folders hold.

    Attributes
    ----------
    folder : Path
        With the model's own files.
    own : Prepared
        The model's figures, or why it has no reference.
    runners : dict[str, Prepared]
        By label.
    """

    def __init__(self, folder: Path, own: Prepared) -> None:
        self.folder = folder
        self.own = own
        self.runners: dict[str, Prepared] = {}


def runner_folder(folder: Path, label: str) -> Path:
    """Folder of a runner below the model's."""
    return folder / label.replace(":", "-").replace("/", "-")


def prepare_model(
    model: Model,
    choices: list[Choice],
    settings: Settings,
    environment: dict[str, Any],
    watcher: Watcher,
) -> PreparedModel:
    """Prepare a model for all runners; what fails is a failure on record like any other."""
    folder = settings.work / model.key.replace("/", "-")
    key = {"graph": model.digest(), "code": code_digest(Prepare.PARTS)}
    own = _reusable(folder, key, settings)
    if own is None:
        watcher.stage("reference")
        own = _prepare_files(model, key, settings, empty_folder(folder))
    prepared = PreparedModel(folder, own)
    for choice in choices:
        if own.failure is not None:
            kind = own.failure.kind
            reason = own.failure.text.removeprefix(f"{kind}: ")
            failure = Failure(kind, f"{kind}: no reference: {reason}")
            prepared.runners[choice.label] = Prepared({}, {}, failure)
            continue
        key_here = {**key, **_runner_key(choice, settings, environment)}
        target = runner_folder(folder, choice.label)
        found = _reusable(target, key_here, settings)
        if found is None:
            watcher.stage(f"{choice.label}: preparing")
            found = _prepare_runner(model, choice, key_here, settings, folder)
        prepared.runners[choice.label] = found
    return prepared


def _reusable(folder: Path, key: dict[str, Any], settings: Settings) -> Prepared | None:
    found = read_prepared(folder)
    if found is None or found.key != key:
        return None
    limits = (settings.time_limit_s, settings.memory_limit)
    return None if found.is_worth_a_retry(*limits) else found


def _runner_key(choice: Choice, settings: Settings, environment: dict[str, Any]) -> dict[str, Any]:
    runner = choice.runner
    return {
        "runner": choice.label,
        "entry": choice.entry,
        "code": code_digest((*Prepare.PARTS, runner.__module__.partition(".")[2], *runner.PARTS)),
        **runner.made_from(choice.options),
        **settings.compilation(),
        "versions": environment["versions"],
        "opencl": environment["opencl_device"],
    }


def _prepare_files(model: Model, key: dict[str, Any], settings: Settings, folder: Path) -> Prepared:
    prepared = Prepared(key)
    worker = _start(ENTRY, folder / "reference.log", settings)
    try:
        case = settings.case(None, model.source, folder, folder)
        prepared.facts = worker.request(do="prepare", case=case)["details"]
    except WorkerFailure as failure:
        prepared.failure = _failure(failure, settings)
    finally:
        worker.close()
    write_prepared(folder, prepared)
    return prepared


def _prepare_runner(
    model: Model, choice: Choice, key: dict[str, Any], settings: Settings, folder: Path
) -> Prepared:
    prepared = Prepared(key)
    target = empty_folder(runner_folder(folder, choice.label))
    worker = _start(choice.entry, target / "prepare.log", settings)
    file = target / "outputs.npz"
    try:
        case = settings.case(choice, model.source, folder, target)
        facts = worker.request(do="prepare", case=case)
        seconds = worker.seconds
        merge_facts(facts, worker.request(do="load", case=case))
        ms = worker.request(do="outputs", file=str(file))["ms"]
        reference = read_arrays(folder / REFERENCE)
        error, wrong = compare(choice, settings.dtype, read_arrays(file), reference)
        if ms < SLOW_MS:
            ms = worker.request(do="run")["ms"]
        prepared.facts = {
            **facts,
            "max_rel_error": error,
            "wrong": wrong,
            "warm_ms": ms,
            "prepare_s": round(seconds, 3),
            "prepare_memory_mib": round(worker.peak_memory / _MIB, 1),
        }
    except WorkerFailure as failure:
        prepared.failure = _failure(failure, settings)
    finally:
        worker.close()
        file.unlink(missing_ok=True)
    write_prepared(target, prepared)
    return prepared


def merge_facts(facts: dict[str, Any], more: dict[str, Any]) -> None:
    """Add what loading says to what preparing said."""
    details = {**facts["details"], **more.pop("details")}
    facts.update({name: value for name, value in more.items() if value is not None})
    facts["details"] = details


def compare(
    choice: Choice,
    dtype: str,
    outputs: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
) -> tuple[float | None, str | None]:
    """Largest relative error, and why the outputs are wrong; None where they are right."""
    tolerance = TOLERANCE[choice.runner.dtype(dtype, choice.options)]
    try:
        error = max(output_errors(outputs, reference).values())
    except SmartMemError as difference:
        return None, f"wrong: {difference}"
    if error > tolerance:
        return error, f"wrong: relative error {error:.2g} is above {tolerance:.0e}"
    return error, None


def _start(entry: str, log: Path, settings: Settings) -> Worker:
    limit = settings.memory_limit
    return Worker(entry, log, settings.time_limit_s, lambda: limit, settings.threads)


def _failure(failure: WorkerFailure, settings: Settings) -> Failure:
    limits = {"time": settings.time_limit_s, "memory": float(settings.memory_limit)}
    return Failure(failure.kind, str(failure), limits.get(failure.kind, 0.0))
