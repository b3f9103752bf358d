"""A tuning session: which kernel is searched next, what is measured, and what is kept of it.

Every kernel is measured first as the rules schedule it. Rounds of candidates then go to the kernel
whose launches take most of an inference's time for the rounds it has had: with shares of 60, 30
and 10 percent, about six, three and one of ten rounds. Every outcome is a record that is on disk
before the search hears of it, so that a session that is killed loses nothing and the next one goes
on from there.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import SmartMemError
from ..schedules.choice import Choice
from .measure import Job, Outcome
from .records import Record, Records, typical, utc_now
from .strategies import make_strategy
from .strategy import Point
from .tasks import TuningTask

# A candidate this many times slower than the best is not timed to the end.
HOPELESS = 5.0
# Candidates of a round. A search learns between rounds; servers share the work of one.
BATCH = 8
# Schedules of a task that are measured again at the end, beside what the rules chose; how often.
FINALISTS = 3
CONFIRMATIONS = 3


class Measuring(Protocol):
    """What a session asks of :class:`smartmem_tvm.tuning.measure.Measurer`."""

    def measure(self, jobs: Iterable[Job], done: Callable[[Job, Outcome], None]) -> None:
        """Measure jobs and say what came out, in any order."""


@dataclass(frozen=True)
class Budget:
    """When a session ends: whichever limit is reached first; trials of earlier sessions count.

    Attributes
    ----------
    trials : int or None
        Candidates of all tasks together.
    per_task : int or None
        Candidates of each task; all tasks then get as many.
    seconds : float or None
        Time of this session.
    """

    trials: int | None = None
    per_task: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = {"trials": self.trials, "trials per task": self.per_task, "time": self.seconds}
        for name, limit in given.items():
            if limit is not None and not 0 < limit < math.inf:
                raise SmartMemError(
                    f"a budget of {limit} {name} is none: a positive number is expected."
                )
        if all(limit is None for limit in given.values()):
            raise SmartMemError("a tuning session needs a budget: of trials or of time.")


@dataclass
class TaskProgress:
    """What is known of one task.

    Attributes
    ----------
    task : TuningTask
        The task.
    times : dict[Point, list[float]]
        Seconds of every repeat of what was measured.
    statuses : Counter
        Candidates by status.
    failed, wrong : set[Point]
        Those that failed, and those whose results were wrong, at whatever measurement.
    rounds : int
        Rounds of candidates so far.
    exhausted : bool
        Whether the search finds nothing new.
    """

    task: TuningTask
    times: dict[Point, list[float]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    failed: set[Point] = field(default_factory=set)
    wrong: set[Point] = field(default_factory=set)
    rounds: int = 0
    exhausted: bool = False

    def take(self, point: Point | None, record: Record) -> None:
        """Count an outcome; one of a point that is known already is no trial of its own."""
        again = point is not None and (point in self.times or point in self.failed)
        if not again:
            self.statuses[record.status] += 1
        if point is None:
            return
        if record.seconds:
            self.times.setdefault(point, []).extend(record.seconds)
        else:
            self.failed.add(point)
        if record.status == "wrong":
            self.wrong.add(point)

    @property
    def trials(self) -> int:
        """Candidates so far, those of earlier sessions too."""
        return sum(self.statuses.values())

    def ranking(self) -> list[tuple[float, Point]]:
        """Seconds and points of what was never wrong, the fastest first."""
        good = {p: times for p, times in self.times.items() if p not in self.wrong}
        return sorted((typical(times) or 0.0, point) for point, times in good.items())

    @property
    def start_s(self) -> float | None:
        """Seconds as the rules schedule it."""
        times = self.times.get(self.task.space.start[0], [])
        return typical(times)

    @property
    def best_s(self) -> float | None:
        """Seconds of the best schedule."""
        return next((seconds for seconds, _ in self.ranking()), None)

    @property
    def weight(self) -> float:
        """Seconds of an inference that the task takes now."""
        return self.task.calls * (self.best_s or 0.0)


class TuningSession:
    """One run of the tuner.

    Parameters
    ----------
    tasks : Sequence[TuningTask]
        What to tune.
    measurer : Measuring
        Measures candidates.
    keep : Callable[[Record], None]
        Stores a record for good; what it raises ends the session.
    profile : str
        What the records have as profile.
    strategy, seed : str, int
        Of the searches (:mod:`.strategies`).
    budget : Budget
        When to end.
    known : Records, optional
        Of earlier sessions.
    left_out : Mapping[str, str], optional
        Functions of the model that are no tasks, with the reason.
    """

    def __init__(
        self,
        tasks: Sequence[TuningTask],
        measurer: Measuring,
        keep: Callable[[Record], None],
        profile: str,
        *,
        strategy: str,
        seed: int,
        budget: Budget,
        known: Records | None = None,
        batch: int = BATCH,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self.budget, self.strategy, self.seed = budget, strategy, seed
        self.progress = [TaskProgress(task) for task in tasks]
        self._by_key = {own.task.key: own for own in self.progress}
        self._measurer, self._keep, self.profile = measurer, keep, profile
        self._batch, self.left_out = batch, dict(left_out or {})
        self._watch: Callable[[TuningSession], None] | None = None
        self._searches = {
            own.task.key: make_strategy(strategy, own.task.space, seed) for own in self.progress
        }
        self._begun, self._measured = time.monotonic(), 0
        if known is not None:
            for own in self.progress:
                self._resume(own, known)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self._begun

    @property
    def trials(self) -> int:
        """Candidates of all tasks, those of earlier sessions too."""
        return sum(own.trials for own in self.progress)

    @property
    def left_trials(self) -> int | None:
        """Candidates that the budget leaves; None where it has no such limit."""
        left = []
        if self.budget.trials is not None:
            left.append(max(0, self.budget.trials - self.trials))
        if self.budget.per_task is not None:
            each = (max(0, self.budget.per_task - own.trials) for own in self.progress)
            left.append(sum(each))
        return min(left, default=None)

    def seconds(self, best: bool = True) -> float | None:
        """Seconds of all launches of an inference, as tuned or as the rules schedule them."""
        total = 0.0
        for own in self.progress:
            each = own.best_s if best else own.start_s
            if each is None:
                return None
            total += own.task.calls * each
        return total

    def run(self, watch: Callable[[TuningSession], None] | None = None) -> None:
        """Search until the budget is spent or nothing is left to find.

        Parameters
        ----------
        watch : Callable[[TuningSession], None], optional
            Called after every outcome, to show progress.
        """
        self._begun, self._watch = time.monotonic(), watch
        fresh = [own for own in self.progress if not own.trials]
        self._round([(own, own.task.space.start[:1]) for own in fresh[: self._room(len(fresh))]])
        while (own := self._next()) is not None:
            room = self._room(self._batch, own)
            points = self._searches[own.task.key].propose(room)
            own.rounds += 1
            own.exhausted = not points
            if points:
                self._round([(own, points)])
        self._confirm()

    def _confirm(self) -> None:
        """Measure the best again, in turns with what the rules chose.

        The least of many noisy times is too good. Records of a schedule count together, so that
        the best is decided, and said to be faster, by times of one and the same while. One that was
        lucky falls behind, and the next is measured again in its place.
        """
        if self._measured:
            for _ in range(CONFIRMATIONS):
                self._round([(own, points) for own, points in self._finalists() if len(points) > 1])

    def _finalists(self) -> list[tuple[TaskProgress, list[Point]]]:
        """Of each task the rules' schedule and the best."""
        found = []
        for own in self.progress:
            if own.start_s is not None:
                best = [point for _, point in own.ranking()[:FINALISTS]]
                found.append((own, list(dict.fromkeys([own.task.space.start[0], *best]))))
        return found

    def _is_late(self) -> bool:
        """Whether the time left is what confirming takes."""
        if self.budget.seconds is None:
            return False
        each = self.elapsed_s / max(self._measured, 1)
        again = sum(len(points) for _, points in self._finalists() if len(points) > 1)
        return self.elapsed_s + each * again * CONFIRMATIONS >= self.budget.seconds

    def _next(self) -> TaskProgress | None:
        """The task to give the next round to."""
        if self._is_late():
            return None
        open_tasks = [own for own in self.progress if not own.exhausted and self._room(1, own) > 0]
        if self.budget.per_task is not None:
            return min(open_tasks, key=lambda own: own.trials, default=None)
        return max(open_tasks, key=lambda own: own.weight / (1 + own.rounds), default=None)

    def _room(self, wanted: int, own: TaskProgress | None = None) -> int:
        """How many candidates the budget still allows."""
        left = [wanted]
        if self.budget.trials is not None:
            left.append(self.budget.trials - self.trials)
        if self.budget.per_task is not None and own is not None:
            left.append(self.budget.per_task - own.trials)
        return max(0, min(left))

    def _round(self, proposed: Sequence[tuple[TaskProgress, Sequence[Point]]]) -> None:
        """Measure points of tasks, keep what comes out, and let the searches learn."""
        jobs: list[Job] = []
        points: dict[str, Point] = {}
        for own, some in proposed:
            for point in some:
                stop = None if own.best_s is None else HOPELESS * own.best_s
                job = Job(own.task.key, own.task.space.choice(point), stop)
                jobs.append(job)
                points[_name(job)] = point
        measured: dict[str, list[tuple[Point, float | None]]] = {}

        def done(job: Job, outcome: Outcome) -> None:
            own, point = self._by_key[job.task], points[_name(job)]
            record = self._record(own, job, outcome)
            self._keep(record)
            self._measured += 1
            own.take(point, record)
            measured.setdefault(job.task, []).append((point, record.typical))
            if self._watch is not None:
                self._watch(self)

        self._measurer.measure(jobs, done)
        for key, found in measured.items():
            # In an order that does not depend on which server was faster.
            found.sort(key=lambda pair: pair[0])
            self._searches[key].learn(*zip(*found, strict=True))

    def _record(self, own: TaskProgress, job: Job, outcome: Outcome) -> Record:
        return Record(
            task=own.task.key,
            name=own.task.name,
            profile=self.profile,
            device=outcome.device or "unknown",
            driver=outcome.driver,
            choice={} if job.choice is None else job.choice.to_dict(),
            status=outcome.status,
            seconds=tuple(outcome.seconds),
            error=outcome.error,
            reason=outcome.reason,
            strategy=self.strategy,
            seed=self.seed,
            trial=own.trials,
            when=utc_now(),
        )

    def _resume(self, own: TaskProgress, known: Records) -> None:
        """Take what earlier sessions measured on the device that they mostly used."""
        space = own.task.space
        place = known.main_device(own.task.key, self.profile)
        points, seconds = [], []
        for record in known.records:
            mine = (record.task, record.profile) == (own.task.key, self.profile)
            if not mine or (record.device, record.driver) != place:
                continue
            try:
                point = space.point(Choice.from_dict(record.choice))
            except SmartMemError:  # of a version with other schedules: it counts as a trial only
                point = None
            own.take(point, record)
            if point is not None:
                points.append(point)
                seconds.append(record.typical)
        if points:
            own.rounds = own.trials // self._batch
            self._searches[own.task.key].learn(points, seconds)


def _name(job: Job) -> str:
    return f"{job.task} {job.choice}"
