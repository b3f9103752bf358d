"""What a run of the bench tunes and measures, and where it keeps what it prepared.

::

    WORK/cpu/pool/swin-full/            tasks of a model (:mod:`tuning_pool`)
    WORK/cpu/tasks/0f3a…/               function and reference of a task that was measured
    WORK/cpu/records/0f3a…-random-1.jsonl
    WORK/cpu/metaschedule/0f3a…-0/      MetaSchedule's database, log of trials and best schedule
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smartmem_tvm.bench.settings import Model

# Its unit stands beside those of our strategies, and is run by other code.
METASCHEDULE = "metaschedule"

Note = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """What may be spent.

    Attributes
    ----------
    seconds : float
        Of a candidate: to build, run and check it.
    memory : int
        Bytes of a process with what it starts.
    unit_seconds : float
        Of a session, of MetaSchedule's, and of reading a model.
    repeats : int
        Times that are kept of a candidate.
    """

    seconds: float
    memory: int
    unit_seconds: float
    repeats: int = 5


@dataclass(frozen=True)
class Bench:
    """What is drawn and tuned.

    Attributes
    ----------
    models : tuple of Model
        Whose tasks.
    draw, seed : int
        Tasks, and seed of the draw.
    least_s : float
        Tasks that take less untuned are passed over.
    trials : int
        Of every session.
    device : str
        Device profile.
    opencl_device : str or None
        OpenCL device; the first one when None.
    work : Path
        Folder of what is prepared.
    limits : Limits
        Of processes.
    """

    models: tuple[Model, ...]
    draw: int
    seed: int
    least_s: float
    trials: int
    device: str
    opencl_device: str | None
    work: Path
    limits: Limits
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """What is prepared for the device."""
        return self.work / Path(self.device).stem

    @property
    def tasks(self) -> Path:
        """Folder of the tasks that were measured."""
        return self.folder / "tasks"

    def pool(self, model: str, fused: bool) -> Path:
        """Folder of a model's tasks."""
        return self.folder / "pool" / f"{model.replace('/', '-')}{'' if fused else '-unfused'}"

    def settings(self) -> dict[str, Any]:
        """What decides which tasks are tuned and for how long; results of other settings differ."""
        return {
            "models": [model.key for model in self.models],
            "draw": self.draw,
            "seed": self.seed,
            "least_us": self.least_s * 1e6,
            "trials": self.trials,
            "device": self.device,
            "opencl_device": self.opencl_device,
            "repeats": self.limits.repeats,
            "candidate_seconds": self.limits.seconds,
        }


@dataclass(frozen=True)
class Unit:
    """A session: of a task, by a strategy, with a seed."""

    task: str
    strategy: str
    seed: int

    @property
    def version(self) -> str:
        """What the comparison calls its best schedule."""
        return f"{self.strategy}/{self.seed}"

    @property
    def name(self) -> str:
        """Its key in the results."""
        return f"{self.task}/{self.version}"

    def records(self, bench: Bench) -> Path:
        """File of records of one of our strategies."""
        return bench.folder / "records" / f"{self.task}-{self.strategy}-{self.seed}.jsonl"

    def database(self, bench: Bench) -> Path:
        """Folder of MetaSchedule's database."""
        return bench.folder / METASCHEDULE / f"{self.task}-{self.seed}"
