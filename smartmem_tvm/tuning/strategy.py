"""What searches and the spaces that they search know of each other.

::

    space: sizes (3, 8, 5)      strategy.propose(16)  →  16 points, such as (0, 7, 2)
                                strategy.learn(points, seconds)

A strategy knows nothing of kernels, devices or measuring; whoever drives it measures the points
that it proposes and tells it what came out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, ...]
KINDS = ("split", "reorder", "fuse", "unroll")


class SearchSpace(Protocol):
    """A space of points: one of `sizes[i]` values for each knob `i`.

    Attributes
    ----------
    sizes : tuple[int, ...]
        Values of each knob; values beside each other are alike.
    kinds : tuple[str, ...]
        What each knob decides: one of :data:`KINDS`.
    start : tuple[Point, ...]
        Points to begin with, the best known first; canonical. There is at least one.
    """

    sizes: tuple[int, ...]
    kinds: tuple[str, ...]
    start: tuple[Point, ...]

    def canonical(self, point: Point) -> Point | None:
        """The point that stands for all that mean the same; None where a point is illegal."""

    def features(self, points: Sequence[Point]) -> NDArray[np.float32]:
        """What a cost model knows of canonical points: one row of figures each."""


class Strategy(Protocol):
    """A search."""

    def propose(self, count: int) -> list[Point]:
        """Return canonical points to measure, none of them proposed before.

        Fewer than `count` where it finds no more, none where the space is exhausted.
        """

    def learn(self, points: Sequence[Point], seconds: Sequence[float | None]) -> None:
        """Take what was measured: seconds of each point, None where it failed.

        Points need not be this strategy's own: those of an earlier run come first.
        """


def scaled(seconds: Sequence[float | None], best: float) -> NDArray[Any]:
    """Reward of each point: the best time over its own, in (0, 1]; 0 where it failed.

    Seconds themselves differ by orders of magnitude between kernels, and nothing learns from them.
    """
    return np.array([0.0 if s is None else best / max(s, best) for s in seconds], dtype="float32")
