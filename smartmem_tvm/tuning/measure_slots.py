"""A device slot as the tuner sees it: one worker process, what it is asked, and how it ends.

::

    down --open--> opening --> ready --give--> loading, measuring --> ready
      ^______________________________________________|  a fault ends the process

Nothing here waits: :meth:`Slot.poll` says what has happened since.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smartmem_tvm.schedules.choice import Choice

from ..errors import SmartMemError
from ..processes.parent import ChildEnded, ChildProcess

MODULE = "smartmem_tvm.tuning.measure_worker"
# Each candidate's program is compiled once: kept, it would only displace those of models.
ENVIRONMENT = {"SMARTMEM_CACHE_DIR": "off"}
OPEN_S = 60.0
_LEAVE_S = 5.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0
_GIB = 1 << 30


@dataclass(frozen=True)
class MeasureLimits:
    """What a candidate may cost.

    Attributes
    ----------
    seconds : float
        Building and measuring it.
    memory : int
        Bytes that a worker process, with what it starts, may hold.
    repeats : int
        Timed repeats, of one or more launches each.
    load_seconds : float
        Putting a task's tensors in place.
    reference_seconds : float
        Computing a task's reference on the host, once.
    """

    seconds: float = 30.0
    memory: int = 8 << 30
    repeats: int = 3
    load_seconds: float = 60.0
    reference_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("seconds", "memory", "repeats"):
            limit = getattr(self, name)
            if not 0 < limit < math.inf:
                raise SmartMemError(
                    f"candidates cannot be measured within {limit} {name}: a positive number is "
                    "expected."
                )

    @property
    def session_seconds(self) -> float:
        """How long an RPC session lasts at most: a server is free again after that in any case."""
        return self.load_seconds + 3 * self.seconds


@dataclass(frozen=True)
class Job:
    """A candidate to measure.

    Attributes
    ----------
    task : str
        Name of the task's folder.
    choice : Choice or None
        None for what the package's rules choose.
    stop_above_s : float or None
        A candidate that takes longer is timed once only, such as five times the best known.
    """

    task: str
    choice: Choice | None
    stop_above_s: float | None = None


@dataclass
class Attempt:
    """A job on its way; `drops` are the stages in which the connection broke."""

    job: Job
    drops: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fault:
    """How a worker process ended.

    Attributes
    ----------
    kind : str
        ``timeout``, ``memory``, ``crash``, ``lost`` (the connection broke) or ``error`` (it said
        what was wrong).
    text : str
        For people.
    stage : str
        ``open``, ``idle``, ``load``, ``build``, ``upload`` or ``run``.
    attempt : Attempt or None
        What it was at.
    """

    kind: str
    text: str
    stage: str
    attempt: Attempt | None


@dataclass(frozen=True)
class Answer:
    """What came of an attempt, as the worker says it."""

    fields: dict[str, Any]
    attempt: Attempt


class Slot:
    """One worker process and the device behind it.

    Parameters
    ----------
    builder : str
        ``module:function`` that builds candidates.
    opening : Mapping[str, Any]
        Fields of the worker's request ``open``.
    limits : MeasureLimits
        Passing one ends the process.
    log : Path
        File for what it prints.

    Attributes
    ----------
    ready : bool
        Whether it is open and idle.
    attempt : Attempt or None
        What it is at.
    device, driver : str
        What the device says of itself, empty until it is open.
    tries, failures : int
        How often it was opened, and how often it was left alone since it last gave an answer.
    """

    def __init__(
        self, builder: str, opening: Mapping[str, Any], limits: MeasureLimits, log: Path
    ) -> None:
        self._command, self._opening, self._limits, self._log = builder, opening, limits, log
        self._child: ChildProcess | None = None
        self._queue: list[tuple[str, float, Mapping[str, Any]]] = []
        self._stage, self._deadline, self._expires = "open", 0.0, 0.0
        self._not_before, self.failures = 0.0, 0
        self._loaded: str | None = None
        self.ready = False
        self.attempt: Attempt | None = None
        self.device = self.driver = ""
        self.tries = 0

    @property
    def may_open(self) -> bool:
        """Whether it is down, and has been left alone for long enough."""
        return self._child is None and time.monotonic() >= self._not_before

    @property
    def expired(self) -> bool:
        """Whether its session would end before the next candidate is measured."""
        left = self._expires - time.monotonic()
        needed = self._limits.seconds + (0 if self._loaded else self._limits.load_seconds)
        return self._opening["rpc"] is not None and left < needed

    def fileno(self) -> int | None:
        """Pipe on which the worker answers."""
        return None if self._child is None else self._child.fileno()

    def open(self) -> None:
        """Start the worker where there is none, and let it open its device anew."""
        if self._child is None:
            self._child = ChildProcess([MODULE, self._command], self._log, ENVIRONMENT)
        self.ready, self._loaded = False, None
        self.tries += 1
        self._expires = time.monotonic() + self._limits.session_seconds
        self._queue = [("open", OPEN_S, {"do": "open", **self._opening})]
        self._next()

    def give(self, attempt: Attempt, load: Mapping[str, Any]) -> None:
        """Let a slot that is ready measure a job; `load` is what loads its task."""
        job, limits = attempt.job, self._limits
        self.ready, self.attempt = False, attempt
        if self._loaded != job.task:
            self._loaded = None
            self._queue.append(("load", limits.load_seconds, load))
        measure = {
            "do": "measure",
            "choice": None if job.choice is None else job.choice.to_dict(),
            "repeats": limits.repeats,
            "stop_above_s": job.stop_above_s,
        }
        self._queue.append(("build", limits.seconds, measure))
        self._next()

    def poll(self) -> Answer | Fault | None:
        """What came of the attempt, or how the process ended; None while there is nothing new.

        A slot that has been opened becomes ready without further notice.
        """
        if self._child is None:
            return None
        try:
            while (line := self._child.receive(0)) is not None:
                if "stage" in line:
                    self._stage = str(line["stage"])
                elif not line.pop("ok"):
                    return self._fault(str(line["kind"]), str(line["error"]))
                elif (answer := self._answered(line)) is not None:
                    return answer
        except ChildEnded as end:
            return self._fault("crash", str(end))
        if self._child.resident() > self._limits.memory:
            limit = self._limits.memory / _GIB
            return self._fault("memory", f"the process passed its limit of {limit:.2f} GiB")
        if not self.ready and time.monotonic() > self._deadline:
            return self._fault("timeout", f"not done in time, while at stage '{self._stage}'")
        return None

    def leave_alone(self) -> None:
        """After a fault that may be the server's: open again later, and later each time."""
        wait = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**self.failures)
        self.failures += 1
        self._not_before = time.monotonic() + wait

    def restart(self) -> None:
        """End the process: memory that a wrong kernel may have changed goes with it."""
        self._end(0.0)

    def close(self) -> None:
        """End the process; one that is idle ends its session first."""
        self._end(_LEAVE_S if self.ready else 0.0)

    def _answered(self, line: dict[str, Any]) -> Answer | None:
        if self._stage == "open":
            self.device, self.driver = str(line["device"]), str(line["driver"])
        elif self._stage == "load" and self.attempt is not None:
            self._loaded = self.attempt.job.task
        if self._queue:
            self._next()
            return None
        self.ready, self._stage = True, "idle"
        attempt, self.attempt = self.attempt, None
        if attempt is None:
            return None
        self.failures = 0
        return Answer(line, attempt)

    def _next(self) -> None:
        self._stage, seconds, request = self._queue.pop(0)
        self._deadline = time.monotonic() + seconds
        if self._child is not None:
            self._child.send(request)

    def _fault(self, kind: str, text: str) -> Fault:
        attempt, stage = self.attempt, self._stage
        self._end(0.0)
        return Fault(kind, text, stage, attempt)

    def _end(self, seconds: float) -> None:
        child, self._child = self._child, None
        self.ready, self.attempt, self._loaded = False, None, None
        self._queue.clear()
        if child is not None and seconds:
            child.finish(seconds)
        elif child is not None:
            child.close()
