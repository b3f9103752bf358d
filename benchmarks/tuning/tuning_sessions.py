"""One unit: a session of one of our strategies on one task, as ``smartmem tune`` would hold it.

The session's own machinery searches, measures and keeps records; one that was killed goes on from
its records. What comes back is read off them. The untuned schedule and the best are measured again
at the end: that is no trial, and all times of a schedule count together, as the session has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smartmem_tvm.devices import resolve_profile
from smartmem_tvm.tuning.measure import MeasureLimits, Measurer
from smartmem_tvm.tuning.records import Record, typical
from smartmem_tvm.tuning.records_file import RecordsFile, read_records
from smartmem_tvm.tuning.reference import read_task
from smartmem_tvm.tuning.session import Budget, TuningSession
from smartmem_tvm.tuning.tasks import TuningTask, space_of


def run_session(
    tasks: str,
    entry: dict[str, Any],
    strategy: str,
    seed: int,
    trials: int,
    device: str,
    opencl_device: str | None,
    records: str,
    limits: dict[str, Any],
) -> dict[str, Any]:
    """Tune a task of the folder `tasks`.

    Returns
    -------
    dict
        ``trials``, ``earlier`` (those of them that an interrupted session made), ``statuses``,
        ``untuned_s``, ``best_s``, ``choice`` (the best), ``exhausted`` (whether the search found
        no more), ``seconds`` (of this session) and ``improvements`` (:func:`improvements`).
    """
    profile = resolve_profile(device)
    func, target = read_task(Path(tasks) / entry["key"])
    space = space_of(func, target)
    task = TuningTask(entry["key"], entry["name"], func, space, entry["calls"])
    Path(records).parent.mkdir(parents=True, exist_ok=True)
    with (
        RecordsFile(records) as file,
        Measurer(
            Path(tasks), profile, opencl_device=opencl_device, limits=MeasureLimits(**limits)
        ) as measurer,
    ):
        session = TuningSession(
            [task],
            measurer,
            file.append,
            str(target.attrs["model"]),
            strategy=strategy,
            seed=seed,
            budget=Budget(per_task=trials),
            known=file.earlier,
        )
        earlier = session.trials
        session.run()
    (own,) = session.progress
    ranking = own.ranking()
    return {
        "trials": own.trials,
        "earlier": earlier,
        "statuses": dict(own.statuses),
        "untuned_s": own.start_s,
        "best_s": own.best_s,
        "choice": space.choice(ranking[0][1]).to_dict() if ranking else None,
        "exhausted": own.exhausted,
        "seconds": session.elapsed_s,
        "improvements": improvements(trial_seconds(read_records(records).records)),
    }


def trial_seconds(records: Iterable[Record]) -> list[float | None]:
    """Seconds of each trial's schedule, in order; None where it ever failed."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.choice_text, []).append(record)
    return [
        typical([second for record in own for second in record.seconds])
        if all(record.seconds for record in own)
        else None
        for own in found.values()
    ]


def improvements(seconds: Iterable[float | None]) -> list[list[float]]:
    """A learning curve: ``[trial, best seconds so far]`` of every trial, from 1, that is better."""
    found: list[list[float]] = []
    for trial, value in enumerate(seconds, start=1):
        if value is not None and (not found or value < found[-1][1]):
            found.append([trial, value])
    return found
