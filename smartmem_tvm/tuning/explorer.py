"""FlexTensor's exploration: annealing says where to start, Q-learning which way to go.

::

    pool of measured points ── annealing ──► point p ── Q-learning ──► direction d ──► p + d
       ▲                                                                                │
       └──────────────────────────────── measured: learn ◄──────────────────────────────┘

A direction is one knob some values up or down. Points of the pool are started from with a chance
that falls with their distance to the best, exp(-gamma (E* - E) / E*), where E is performance, the
reciprocal of time. What directions are worth comes from a network that has seen what they led to
elsewhere. Each starting point walks to one new point per round, so that a round is a batch.

From "FlexTensor: An Automatic Schedule Exploration and Optimization Framework for Tensor
Computation on Heterogeneous System" (Zheng et al., ASPLOS 2020). Unlike there, every
pair of measured neighbours is a lesson, whichever way the search came to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .random_search import RandomPoints
from .strategy import Point, SearchSpace, scaled
from .value_network import ValueNetwork

# Knobs of at least so many values have directions of a longer step, a quarter of the values.
_LARGE = 6
# Chance of a random new point while nothing is measured.
_FRESH_AT_FIRST = 0.5
# Measured points that a walk may pass through, and walks that may fail before a point is drawn.
_HOPS = 2
_WALKS = 4
# Measured points between two trainings; how often the target network is renewed in one, the steps
# between, and the lessons of a step.
_TRAIN_EVERY = 8
_RENEWALS = 3
_STEPS = 15
_BATCH = 64


@dataclass(frozen=True)
class Settings:
    """How a search divides its trials.

    Attributes
    ----------
    gamma : float
        How much annealing prefers the best points as starting points.
    epsilon : float
        Chance of a random direction.
    fresh : float
        Chance of a random new point instead of a walk.
    discount : float
        What a reward is worth one step later.
    learning : bool
        Whether the network chooses directions; all are random otherwise.
    """

    gamma: float = 24.0
    epsilon: float = 0.2
    fresh: float = 0.2
    discount: float = 0.2
    learning: bool = True


class Explorer:
    """Search by annealing and Q-learning.

    Parameters
    ----------
    space : SearchSpace
        What is searched.
    seed : int
        The same seed and the same measurements give the same proposals.
    settings : Settings, optional
        How trials are divided.
    """

    def __init__(self, space: SearchSpace, seed: int, settings: Settings | None = None) -> None:
        self._space = space
        self._settings = settings or Settings()
        self._generator = np.random.default_rng(seed)
        self._random = RandomPoints(space, self._generator)
        self._directions = _directions(space.sizes)
        shape = len(space.sizes), len(self._directions)
        self._network = ValueNetwork(*shape, self._generator)
        self._target = ValueNetwork(*shape, self._generator)
        self._target.copy_from(self._network)
        self._neighbours: dict[Point, list[Point | None]] = {}
        self._seen: set[Point] = set()
        self._measured: dict[Point, float | None] = {}
        self._reward: dict[Point, float] = {}
        self._untrained = 0

    def propose(self, count: int) -> list[Point]:
        """Return canonical points to measure, none of them proposed or learnt of before.

        Fewer than `count` in a space that is exhausted, or so sparse that no more were met.
        """
        found: list[Point] = []
        begin = [point for point in dict.fromkeys(self._space.start) if point not in self._seen]
        while len(found) < count:
            point = begin.pop(0) if begin else self._next()
            if point is None:
                break
            found.append(point)
            self._seen.add(point)
        return found

    def learn(self, points: Sequence[Point], seconds: Sequence[float | None]) -> None:
        """Take seconds of each point, None where it failed; train when enough are new."""
        self._measured.update(zip(points, seconds, strict=True))
        self._seen.update(points)
        times = [s for s in self._measured.values() if s is not None]
        if times:
            rewards = scaled(list(self._measured.values()), min(times))
            self._reward = dict(zip(self._measured, rewards.tolist(), strict=True))
        self._untrained += len(points)
        if self._settings.learning and self._untrained >= _TRAIN_EVERY:
            self._untrained = 0
            self._train()

    def _next(self) -> Point | None:
        """A point that was not seen: at the end of a walk or drawn; the other where one fails."""
        # Walks of the first batch all start from the same few points.
        fresh = self._settings.fresh if self._reward else _FRESH_AT_FIRST
        if self._generator.random() < fresh:
            return self._random.draw(self._seen) or self._walks()
        return self._walks() or self._random.draw(self._seen)

    def _walks(self) -> Point | None:
        for _ in range(_WALKS):
            point = self._walk(self._starting_point())
            if point is not None:
                return point
        return None

    def _starting_point(self) -> Point:
        """A point of the pool by annealing; of the space's own before any has been measured."""
        pool = [point for point, reward in self._reward.items() if reward > 0]
        if not pool:
            return self._space.start[int(self._generator.integers(len(self._space.start)))]
        rewards = np.array([self._reward[point] for point in pool])
        chances = np.exp(-self._settings.gamma * (1 - rewards))
        return pool[int(self._generator.choice(len(pool), p=chances / chances.sum()))]

    def _walk(self, point: Point) -> Point | None:
        """The first point that was not seen, a few hops from a measured one."""
        walked = {point}
        for _ in range(_HOPS + 1):
            ahead = {
                direction: neighbour
                for direction, neighbour in enumerate(self._around(point))
                if neighbour is not None and neighbour not in walked and self._open(neighbour)
            }
            if not ahead:
                return None
            point = ahead[self._choose(point, list(ahead))]
            if point not in self._seen:
                return point
            walked.add(point)
        return None

    def _open(self, point: Point) -> bool:
        """Whether a walk may go there: it is new, or was measured and did not fail."""
        return point not in self._seen or self._reward.get(point, 0.0) > 0

    def _choose(self, point: Point, directions: list[int]) -> int:
        if not self._settings.learning or self._generator.random() < self._settings.epsilon:
            return directions[int(self._generator.integers(len(directions)))]
        values = self._network.values(self._rows([point]))[0]
        return max(directions, key=lambda direction: float(values[direction]))

    def _train(self) -> None:
        """Fit the network to every step between two measured points."""
        stood = [point for point, reward in self._reward.items() if reward > 0]
        at = {point: index for index, point in enumerate(stood)}
        lessons = [
            (at[point], direction, at.get(neighbour, -1), self._gain(point, neighbour))
            for point in stood
            for direction, neighbour in enumerate(self._around(point))
            if neighbour in self._reward
        ]
        if not lessons:
            return
        origin, chosen, end, gain = (np.array(column) for column in zip(*lessons, strict=True))
        rows = self._rows(stood)
        legal = np.array([[n is not None for n in self._around(point)] for point in stood])
        for _ in range(_RENEWALS):
            self._target.copy_from(self._network)
            # A walk may stop where it stands, so nothing ahead is worth less than 0; the last
            # entry is for those that failed, where walks end.
            ahead = np.where(legal, self._target.values(rows), 0).max(axis=1, initial=0)
            wanted = gain + self._settings.discount * np.append(ahead, 0)[end]
            for _ in range(_STEPS):
                batch = self._generator.integers(len(lessons), size=_BATCH)
                self._network.train(rows[origin[batch]], chosen[batch], wanted[batch])

    def _gain(self, point: Point, neighbour: Point) -> float:
        """Reward of a step: the relative change of performance, at most doubled; -1 for failing."""
        return min(self._reward[neighbour] / self._reward[point] - 1, 1.0)

    def _rows(self, points: list[Point]) -> NDArray[Any]:
        """What the network is told of points: each knob's value in [0, 1]."""
        return np.array(points) / np.maximum(np.array(self._space.sizes) - 1, 1)

    def _around(self, point: Point) -> list[Point | None]:
        """Where each direction leads; None where that is illegal or means the same point."""
        if point not in self._neighbours:
            self._neighbours[point] = [self._step(point, *d) for d in self._directions]
        return self._neighbours[point]

    def _step(self, point: Point, knob: int, step: int) -> Point | None:
        value = point[knob] + step
        if not 0 <= value < self._space.sizes[knob]:
            return None
        found = self._space.canonical((*point[:knob], value, *point[knob + 1 :]))
        return None if found == point else found


def _directions(sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """Pairs of a knob and a step."""
    found = []
    for knob, size in enumerate(sizes):
        steps = (1, size // 4 + 1) if size >= _LARGE else (1,)
        found += [(knob, sign * step) for step in steps for sign in (1, -1) if step < size]
    return found
