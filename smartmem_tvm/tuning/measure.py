"""Measuring candidates in processes of their own, on this machine or on all servers of a tracker.

::

    jobs --> slot 0 (a worker process, a session with a server) --> done(job, outcome)
         --> slot 1                                             -->

A candidate that hangs, crashes or is wrong costs one trial and its worker process. What is the
network's or a server's fault costs nothing but time: the job goes to any slot again. A server
cannot be told from a candidate that crashes it, but by trying: a candidate with which the
connection breaks at every attempt while its kernel runs has crashed.

Outcomes of different devices are told apart by ``device`` and ``driver``; no slot's times are
corrected by another's.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..devices import DeviceProfile
from ..errors import DeviceError
from .measure_references import NoReference, References
from .measure_servers import count_servers
from .measure_slots import Answer, Attempt, Fault, Job, MeasureLimits, Slot
from .reference import write_task

__all__ = ["Job", "MeasureLimits", "Measurer", "Outcome", "write_task"]

BUILDER = "smartmem_tvm.tuning.candidate:build_candidate"
# A job that was lost is tried so many times more.
RETRIES = 2
_POLL_S = 0.05
_CONNECT_S = 10.0


@dataclass(frozen=True)
class Outcome:
    """What came of a candidate.

    Attributes
    ----------
    status : str
        ``ok``; ``wrong`` (other results than the reference); ``timeout``, ``crash``, ``error``
        (it could not be built or launched); ``illegal`` (it does not fit the kernel or the
        device); ``lost`` (the connection broke at every attempt).
    seconds : tuple[float, ...]
        Of a launch, for each repeat; empty unless ``ok``.
    error : float or None
        The largest relative error of the outputs; None where it was never launched.
    reason : str or None
        Why it is not ``ok``.
    device, driver : str
        Where it was measured.
    facts : dict[str, Any]
        Of the candidate (:class:`smartmem_tvm.tuning.candidate.Candidate`) and of its reference
        (:class:`smartmem_tvm.tuning.reference.Reference`): ``reference`` is ``untuned`` where the
        host did not get done with it.
    """

    status: str
    seconds: tuple[float, ...] = ()
    error: float | None = None
    reason: str | None = None
    device: str = ""
    driver: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


Done = Callable[[Job, Outcome], None]


class Measurer:
    """Slots that measure candidates; a context manager that ends them.

    Parameters
    ----------
    tasks_folder : Path
        Tasks, each in a folder of its name (:func:`smartmem_tvm.tuning.reference.write_task`).
        References and logs are written there.
    profile : DeviceProfile
        The one that made the targets of the tasks.
    opencl_device : str, optional
        The device, as :func:`smartmem_tvm.runtime.device` takes it; behind RPC its index.
    rpc : (str, str), optional
        ``HOST:PORT`` of a tracker, and the key of the servers to use; without it, this machine.
    servers : int, optional
        Slots behind RPC; as many as the tracker has servers with that key when None.
    limits : MeasureLimits
        What a candidate may cost.
    builder : str
        ``module:function`` that makes a candidate of (function, target, choice).
    patience_s : float
        How long no server may be usable before :meth:`measure` gives up.
    seed : int
        Of the inputs.

    Notes
    -----
    Workers end with the thread that started them: use it from the main thread.
    """

    def __init__(
        self,
        tasks_folder: Path,
        profile: DeviceProfile,
        *,
        opencl_device: str | None = None,
        rpc: tuple[str, str] | None = None,
        servers: int | None = None,
        limits: MeasureLimits | None = None,
        builder: str = BUILDER,
        patience_s: float = 60.0,
        seed: int = 0,
    ) -> None:
        self._folder, self._limits, self._rpc = tasks_folder, limits or MeasureLimits(), rpc
        self._servers, self._builder, self._patience_s = servers, builder, patience_s
        self._opening: dict[str, Any] = {
            "profile": profile.to_dict(),
            "opencl_device": opencl_device,
            "rpc": None,
        }
        if rpc is not None:
            limit = self._limits.session_seconds
            connection = {"timeout": _CONNECT_S, "session_limit": limit}
            self._opening["rpc"] = {"tracker": rpc[0], "key": rpc[1], **connection}
        self._slots: list[Slot] = []
        self._references = References(self._limits, builder, seed)
        self._last_fault = "none was tried"
        self._usable_at = 0.0

    def measure(self, jobs: Iterable[Job], done: Done) -> None:
        """Measure jobs; `done` is called in this thread with each outcome, as they come.

        Jobs are taken from the iterable when a slot is free, so that it may look at what came
        before. Whatever ends this early, a signal or an exception of `done`, ends all workers.

        Raises
        ------
        DeviceError
            If this machine's device cannot be used, or no server could be for the patience.
        """
        try:
            self._usable_at = time.monotonic()
            if not self._slots:
                self._slots = self._make_slots()
            queue = _Queue(iter(jobs))
            while any(slot.attempt for slot in self._slots) or queue.any():
                for slot in self._slots:
                    self._advance(slot, queue, done)
                if any(slot.ready or slot.attempt for slot in self._slots):
                    self._usable_at = max(time.monotonic(), self._usable_at)
                pipes = [pipe for slot in self._slots if (pipe := slot.fileno()) is not None]
                select.select(pipes, [], [], _POLL_S)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all workers and sessions."""
        slots, self._slots = self._slots, []
        self._references.close()
        for slot in slots:
            slot.close()

    def __enter__(self) -> Measurer:
        """Nothing starts yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all workers and sessions."""
        self.close()

    def _make_slots(self) -> list[Slot]:
        count = 1
        if self._rpc is not None:
            count = self._servers or count_servers(*self._rpc, self._patience_s)
        logs = [self._folder / f"worker-{number}.log" for number in range(count)]
        return [Slot(self._builder, self._opening, self._limits, log) for log in logs]

    def _advance(self, slot: Slot, queue: _Queue, done: Done) -> None:
        event = slot.poll()
        if isinstance(event, Answer):
            self._deliver(slot, event, done)
        elif isinstance(event, Fault):
            self._judge(slot, event, queue, done)
        if not (slot.may_open or slot.ready) or not queue.any():
            return
        if slot.may_open or (slot.ready and slot.expired):
            slot.open()
        elif slot.ready:
            attempt = queue.take()
            folder = self._folder / attempt.job.task
            try:
                slot.give(attempt, self._references.prepare(folder))
            except NoReference as reason:
                done(attempt.job, Outcome("error", reason=str(reason), **_of(slot)))

    def _deliver(self, slot: Slot, answer: Answer, done: Done) -> None:
        fields = {"seconds": (), **answer.fields}
        fields["seconds"] = tuple(fields["seconds"])
        outcome = Outcome(**fields, **_of(slot))
        if outcome.status == "wrong":
            slot.restart()
        done(answer.attempt.job, outcome)

    def _judge(self, slot: Slot, fault: Fault, queue: _Queue, done: Done) -> None:
        """Tell whose fault a fault is: the candidate's, the server's or the connection's."""
        remote, attempt = self._rpc is not None, fault.attempt
        self._last_fault = fault.text
        if attempt is None:
            hopeless = fault.kind in ("error", "memory") or slot.failures >= RETRIES
            if not remote and fault.stage == "open" and hopeless:
                raise DeviceError(f"candidates cannot be measured: {fault.text}")
            slot.leave_alone()
            self._check_patience()
            return
        dropped = fault.kind == "lost"
        if fault.kind in ("crash", "timeout"):
            dropped = fault.stage == "load" or (remote and fault.stage == "upload")
            dropped |= remote and fault.stage == "run" and fault.kind == "crash"
        if not dropped:
            if remote and fault.kind == "timeout":  # the server may be at it until the session ends
                self._usable_at = time.monotonic() + self._limits.session_seconds
            status = "error" if fault.kind == "memory" else fault.kind
            done(attempt.job, Outcome(status, reason=fault.text, **_of(slot)))
            return
        slot.leave_alone()
        attempt.drops.append(fault.stage)
        if len(attempt.drops) <= RETRIES:
            queue.put_back(attempt)
            return
        times = f"at each of {len(attempt.drops)} attempts: {fault.text}"
        status = "crash" if set(attempt.drops) == {"run"} else "lost"
        done(attempt.job, Outcome(status, reason=times, **_of(slot)))

    def _check_patience(self) -> None:
        """After a connection could not be made; raises DeviceError."""
        if self._rpc is not None and time.monotonic() > self._usable_at + self._patience_s:
            tries = sum(slot.tries for slot in self._slots)
            tracker, key = self._rpc
            raise DeviceError(
                f"no server with key '{key}' of RPC tracker {tracker} could be used for "
                f"{self._patience_s:g} s: {tries} connections were tried, the last one: "
                f"{self._last_fault}. What was measured until now is kept. Look at the servers, "
                "and start again."
            )


class _Queue:
    """Jobs to do: those put back first, then what the caller has."""

    def __init__(self, jobs: Iterator[Job]) -> None:
        self._jobs = jobs
        self._waiting: deque[Attempt] = deque()

    def any(self) -> bool:
        """Whether there is a job."""
        if not self._waiting:
            self._waiting.extend(Attempt(job) for job in [next(self._jobs, None)] if job)
        return bool(self._waiting)

    def take(self) -> Attempt:
        """The next one."""
        return self._waiting.popleft()

    def put_back(self, attempt: Attempt) -> None:
        """Do it again, after what another slot may have been given already."""
        self._waiting.append(attempt)


def _of(slot: Slot) -> dict[str, Any]:
    return {"device": slot.device, "driver": slot.driver}
