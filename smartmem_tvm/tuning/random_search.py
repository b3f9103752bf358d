"""Points drawn blindly: what every other search has to beat."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from .strategy import Point, SearchSpace

# A space of up to so many raw points is gone through in a random order, each once, until none is
# left. From a larger one points are drawn with repetition, as a search measures thousands at most;
# so many in a row that are illegal or seen end a proposal.
_LISTED = 1 << 16


class RandomSearch:
    """Random points without repetition, after the first point of `space.start`.

    Parameters
    ----------
    space : SearchSpace
        What is searched.
    seed : int
        The same seed draws the same points.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._start = space.start[0]
        self._stream = RandomPoints(space, np.random.default_rng(seed))
        self._seen: set[Point] = set()

    def propose(self, count: int) -> list[Point]:
        """Return canonical points to measure, none of them proposed or learnt of before.

        Fewer than `count` in a space that is exhausted, or so sparse that no more were met.
        """
        found: list[Point] = []
        if count > 0 and self._start not in self._seen:
            found.append(self._start)
            self._seen.add(self._start)
        while len(found) < count:
            point = self._stream.draw(self._seen)
            if point is None:
                break
            found.append(point)
            self._seen.add(point)
        return found

    def learn(self, points: Sequence[Point], seconds: Sequence[float | None]) -> None:
        """Remember not to propose `points` again; times teach nothing here."""
        self._seen.update(points)


class RandomPoints:
    """Canonical points of a space.

    In a small space all are equally likely. In a large one every value of a knob is, illegal points
    apart: a point that many others mean comes more often, and a search takes it once. To pass over
    whatever is not its own stand-in would take 10^5 tries a point where a few knobs have no effect,
    as has the size of a tile along no axis.

    Parameters
    ----------
    space : SearchSpace
        Where to draw.
    generator : numpy.random.Generator
        Draws.
    """

    def __init__(self, space: SearchSpace, generator: np.random.Generator) -> None:
        self._space = space
        self._listed = math.prod(space.sizes) <= _LISTED
        self._raw = _raw_points(space.sizes, generator)

    def draw(self, seen: set[Point]) -> Point | None:
        """Return a point that is not in `seen`, None where none is left or none was met.

        A point that was passed over because it was seen does not come again in a small space.
        """
        for _ in range(_LISTED):
            raw = next(self._raw, None)
            if raw is None:
                return None
            point = self._space.canonical(raw)
            stands_in = point is not None and (point == raw or not self._listed)
            if stands_in and point not in seen:
                return point
        return None


def _raw_points(sizes: tuple[int, ...], generator: np.random.Generator) -> Iterator[Point]:
    total = math.prod(sizes)
    if total <= _LISTED:
        for index in generator.permutation(total):
            yield tuple(int(i) for i in np.unravel_index(index, sizes))
    else:
        while True:
            yield tuple(int(i) for i in generator.integers(sizes))
