"""SmartMem's genetic search, by MetaSchedule's evolutionary strategy and its model of XGBoost.

::

    a design space    one sample_categorical for each knob, kept as an annotation of the root
    a mutation        another value of one knob, mostly one beside it; or a few of them anew
    a postprocessor   refuses points that are illegal, or known
    the features      those of the space: counts apart by memory, strides through views

MetaSchedule's traces stand for points here: what a candidate's schedule is made of is the space's
affair. Schedules themselves are made when candidates are measured.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import s_tir, te
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from ..upstream import without_tensor_intrinsics
from .cost_model import CostModel
from .random_search import RandomSearch
from .strategy import Point, SearchSpace

_ANNOTATION = "smartmem.knob_"
_SAMPLE = "SampleCategorical"
# Rounds in which nothing new comes before chance helps out.
_PATIENCE = 2
# MetaSchedule asks for a time at once.
LATER_S = 1.0
# Chances of a mutation to change a knob by one step, and to change a second one.
STEP, SECOND = 0.6, 0.3
# Before the model knows anything: how many of the candidates lie near the fastest known, the most
# mutations between, and how many those are. Times of points in the middle of nowhere
# differ by orders of magnitude from theirs, and teach the model only to stay away.
_NEAR = 0.75
_MUTATIONS = 3
_FASTEST = 2


def _nothing() -> tvm.IRModule:
    """A module whose root takes annotations."""
    a = te.placeholder((1,))
    return tvm.IRModule({"main": te.create_prim_func([a, te.compute((1,), lambda i: a[i])])})


class Evolution:
    """Evolutionary search with a learned cost model.

    Parameters
    ----------
    space : SearchSpace
        What to search.
    seed : int
        Of all that is random; the same seed and results give the same search.
    population, generations : int
        Points that a round evolves with the cost model, and how often.
    batch : int
        Candidates that MetaSchedule makes at a time.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        population: int = 128,
        generations: int = 3,
        batch: int = 16,
        warm_up: int = 12,
    ) -> None:
        self._space, self._batch = space, batch
        self._rng = np.random.default_rng(seed)
        self._proposed: set[Point] = set()
        self._times: dict[Point, float] = {}
        self._waiting: list[Point] = []
        self._first = [*space.start]
        logger = logging.getLogger(f"{__name__}.metaschedule")
        logger.setLevel(logging.WARNING)
        self._mod = _nothing()
        self._model = CostModel(space, seed, warm_up)
        self._chance = RandomSearch(space, seed)
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(self._mod)
        with without_tensor_intrinsics():
            self._context = ms.TuneContext(
                self._mod,
                target=tvm.target.Target("opencl"),
                space_generator=ms.space_generator.ScheduleFn(
                    self._sample,
                    sch_rules=[],
                    postprocs=[_Legal(space)],
                    mutator_probs={_Mutation(space, self._rng): 1.0},
                ),
                search_strategy=ms.search_strategy.EvolutionarySearch(
                    population_size=population,
                    init_min_unmeasured=population // 4,
                    genetic_num_iters=generations,
                    eps_greedy=0.1,
                ),
                task_name="task",
                rand_state=seed + 1,
                num_threads=1,  # the callbacks are in Python
                logger=logger,
            )
        self._started = False

    def propose(self, count: int) -> list[Point]:
        """Points to measure: those to begin with, some near the fastest, what evolution finds."""
        found: list[Point] = []
        fruitless = 0
        while len(found) < count and fruitless < _PATIENCE:
            if self._first:
                self._take([self._first.pop(0)], found)
            elif not self._model.is_trained and self._rng.random() < _NEAR:
                fruitless += not self._take(self._near(), found)
            elif self._waiting:
                self._take([self._waiting.pop(0)], found)
            else:
                self._waiting = self._evolve()
                fresh = any(point not in self._proposed for point in self._waiting)
                fruitless = 0 if fresh else fruitless + 1
        if len(found) < count:
            self._take(self._chance.propose(count - len(found)), found)
        return found

    def learn(self, points: Sequence[Point], seconds: Sequence[float | None]) -> None:
        """Take what was measured into the database and the cost model."""
        self._chance.learn(points, seconds)
        self._model.learn(points, seconds)
        for point, time in zip(points, seconds, strict=True):
            self._proposed.add(point)
            if time is not None:
                self._times[point] = time
                record = ms.database.TuningRecord(
                    self._schedule(point).trace, self._workload, [time], self._context.target, []
                )
                self._database.commit_tuning_record(record)

    def _take(self, points: list[Point], found: list[Point]) -> bool:
        """Propose those that are new; whether any is."""
        fresh = [point for point in dict.fromkeys(points) if point not in self._proposed]
        self._proposed.update(fresh)
        found += fresh
        return bool(fresh)

    def _near(self) -> list[Point]:
        """A point a few mutations from one of the fastest, or of those to begin with."""
        origins = sorted(self._times, key=self._times.__getitem__)[:_FASTEST] or self._space.start
        point = origins[int(self._rng.integers(len(origins)))]
        for _ in range(int(self._rng.integers(1, _MUTATIONS + 1))):
            point = self._space.canonical(_moved(point, self._space.sizes, self._rng)) or point
        return [point]

    def _evolve(self) -> list[Point]:
        """Canonical points of the next candidates of MetaSchedule."""
        if not self._started:
            # More trials than anyone measures: the caller's budget ends the search.
            self._context.pre_tuning(
                1 << 20,
                self._batch,
                database=self._database,
                cost_model=_Predictions(self._space, self._model, self._rng),
            )
            self._started = True
        candidates = self._context.generate_measure_candidates()
        if candidates is None:
            return []
        # It counts trials only; the model and the database learn when times are there.
        later = ms.runner.RunnerResult([LATER_S], None)
        self._context.notify_runner_results(candidates, [later] * len(candidates))
        points = [self._space.canonical(_point(candidate.sch.trace)) for candidate in candidates]
        return [point for point in points if point is not None]

    def _sample(self, schedule: s_tir.Schedule) -> s_tir.Schedule:
        return _annotated(schedule, self._space.sizes, None)

    def _schedule(self, point: Point) -> s_tir.Schedule:
        return _annotated(s_tir.Schedule(self._mod), self._space.sizes, point)


def _annotated(
    schedule: s_tir.Schedule, sizes: Sequence[int], point: Point | None
) -> s_tir.Schedule:
    """Schedule whose trace samples every knob; at a point if there is one."""
    root = schedule.get_sblock("root")
    for number, size in enumerate(sizes):
        decision = None if point is None else point[number]
        value = schedule.sample_categorical([*range(size)], [1.0 / size] * size, decision)
        schedule.annotate(root, f"{_ANNOTATION}{number}", value)
    return schedule


def _samples(trace: Any) -> list[Any]:
    return [inst for inst in trace.insts if str(inst.kind.name) == _SAMPLE]


def _point(trace: Any) -> Point:
    return tuple(int(trace.decisions[inst]) for inst in _samples(trace))


@derived_object
class _Legal(ms.postproc.PyPostproc):  # type: ignore[misc]
    """Refuses points that no schedule is made from."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space

    def _initialize_with_tune_context(self, context: Any) -> None:
        pass

    def apply(self, sch: s_tir.Schedule) -> bool:
        return self.space.canonical(_point(sch.trace)) is not None

    def clone(self) -> Any:
        return _Legal(self.space)


@derived_object
class _Mutation(ms.mutator.PyMutator):  # type: ignore[misc]
    """Moves one knob or two; the point stays legal."""

    def __init__(self, space: SearchSpace, rng: np.random.Generator) -> None:
        super().__init__()
        self.space, self.rng = space, rng

    def _initialize_with_tune_context(self, context: Any) -> None:
        pass

    def apply(self, trace: Any, _: Any) -> Any:
        point, samples = _point(trace), _samples(trace)
        other = _moved(point, self.space.sizes, self.rng)
        if self.space.canonical(other) in (None, self.space.canonical(point)):
            return None
        for number, inst in enumerate(samples):
            if other[number] != point[number]:
                trace = trace.with_decision(inst, other[number], False)
        return trace

    def clone(self) -> Any:
        return _Mutation(self.space, self.rng)


def _moved(point: Point, sizes: Sequence[int], rng: np.random.Generator) -> Point:
    """Point with one knob changed, or two."""
    open_knobs = [number for number, size in enumerate(sizes) if size > 1]
    if not open_knobs:
        return point
    count = 2 if len(open_knobs) > 1 and rng.random() < SECOND else 1
    moved = [*point]
    for number in rng.choice(open_knobs, count, replace=False):
        if rng.random() < STEP:
            step = moved[number] + (1 if rng.random() < 0.5 else -1)
            moved[number] = min(max(step, 0), sizes[number] - 1)
        else:
            moved[number] = int(rng.integers(sizes[number]))
    return tuple(map(int, moved))


@derived_object
class _Predictions(ms.cost_model.PyCostModel):  # type: ignore[misc]
    """The cost model as MetaSchedule asks for it; chance while it knows too little."""

    def __init__(self, space: SearchSpace, model: CostModel, rng: np.random.Generator) -> None:
        super().__init__()
        self.space, self.model, self.rng = space, model, rng

    def load(self, path: str) -> None:
        """Nothing is kept beside the records."""

    def save(self, path: str) -> None:
        """Nothing is kept beside the records."""

    def update(self, context: Any, candidates: list[Any], results: list[Any]) -> None:
        """The search tells the model itself."""

    def predict(self, context: Any, candidates: list[Any]) -> Any:
        points = [self.space.canonical(_point(candidate.sch.trace)) for candidate in candidates]
        # Candidates have passed the postprocessor, and what is measured is legal.
        found = self.model.predict([point for point in points if point is not None])
        return self.rng.random(len(candidates)) if found is None else found
