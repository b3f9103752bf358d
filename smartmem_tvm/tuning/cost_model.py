"""A model of XGBoost that says which points are likely to be fast.

It learns the reward of :func:`smartmem_tvm.tuning.strategy.scaled` from the features of a space.
Before it has seen enough it says nothing, and the search is left to chance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xgboost
from numpy.typing import NDArray

from .strategy import Point, SearchSpace, scaled

ROUNDS = 80
_SETTINGS = {
    "objective": "reg:squarederror",
    "eta": 0.15,
    "max_depth": 5,
    "min_child_weight": 1.0,
    "subsample": 0.9,
    "colsample_bytree": 0.7,
    "nthread": 1,
    "verbosity": 0,
}


class CostModel:
    """Predicts rewards of a space's points.

    Parameters
    ----------
    space : SearchSpace
        Whose features it learns from.
    seed : int
        Of the model's sampling.
    warm_up : int
        Points that it needs before it predicts.
    """

    def __init__(self, space: SearchSpace, seed: int, warm_up: int = 12) -> None:
        self._space, self._seed, self._warm_up = space, seed, warm_up
        self._features: dict[Point, NDArray[np.float32]] = {}
        self._seconds: dict[Point, float | None] = {}
        self._booster: xgboost.Booster | None = None

    def learn(self, points: Sequence[Point], seconds: Sequence[float | None]) -> None:
        """Take what was measured and train anew."""
        self._seconds |= dict(zip(points, seconds, strict=True))
        times = [s for s in self._seconds.values() if s is not None]
        if len(self._seconds) < self._warm_up or not times:
            return
        rewards = scaled([*self._seconds.values()], min(times))
        data = xgboost.DMatrix(self._rows([*self._seconds]), rewards)
        settings = {**_SETTINGS, "seed": self._seed}
        self._booster = xgboost.train(settings, data, ROUNDS)

    @property
    def is_trained(self) -> bool:
        """Whether it has seen enough to predict."""
        return self._booster is not None

    def predict(self, points: Sequence[Point]) -> NDArray[np.float64] | None:
        """Predicted rewards; None while too little is known."""
        if self._booster is None or not points:
            return None
        return self._booster.predict(xgboost.DMatrix(self._rows(points))).astype("float64")

    def _rows(self, points: Sequence[Point]) -> NDArray[np.float32]:
        missing = [point for point in dict.fromkeys(points) if point not in self._features]
        for point, row in zip(missing, self._space.features(missing), strict=True):
            self._features[point] = row
        return np.stack([self._features[point] for point in points])
