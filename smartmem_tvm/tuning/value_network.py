"""A small network that says what each direction from a point is worth.

::

    features [batch, inputs] ─► ReLU [64] ─► ReLU [64] ─► values [batch, directions]

Trained on one direction of each row at a time: a search has measured where that one led to and
knows nothing of the others. NumPy alone, as a few hundred rows take milliseconds.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HIDDEN = (64, 64)
# Adam's own defaults (Kingma and Ba, 2015).
_DECAY_MEAN, _DECAY_SQUARE, _TINY = 0.9, 0.999, 1e-8


class ValueNetwork:
    """A feed-forward network with ReLU between its layers, trained by Adam on squared errors.

    Parameters
    ----------
    inputs, outputs : int
        Figures of a row, and directions.
    generator : numpy.random.Generator
        Draws the first weights.
    learning_rate : float
        Step of Adam.

    Attributes
    ----------
    parameters : list[NDArray]
        A matrix [from, to] and a bias [to] for each layer, alternating; trained in place.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        generator: np.random.Generator,
        learning_rate: float = 3e-3,
    ) -> None:
        self.parameters: list[NDArray[Any]] = []
        for fan_in, fan_out in pairwise((inputs, *_HIDDEN, outputs)):
            self.parameters.append(generator.normal(0, np.sqrt(2 / fan_in), (fan_in, fan_out)))
            self.parameters.append(np.zeros(fan_out))
        # A direction that nothing is known of is worth nothing, not a random figure.
        self.parameters[-2] *= 0
        self._learning_rate = learning_rate
        self._means = [np.zeros_like(p) for p in self.parameters]
        self._squares = [np.zeros_like(p) for p in self.parameters]
        self._steps = 0

    def values(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Value of every direction, [batch, outputs], from `rows`, [batch, inputs]."""
        return self._layers(rows)[-1]

    def gradients(
        self, rows: NDArray[Any], chosen: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[float, list[NDArray[Any]]]:
        """The loss and its derivative by each parameter.

        Parameters
        ----------
        rows : NDArray
            Features, [batch, inputs].
        chosen : NDArray
            The direction that each row is about, [batch].
        targets : NDArray
            What it should be worth, [batch].

        Returns
        -------
        tuple[float, list[NDArray]]
            Mean squared error over the batch; arrays shaped like :attr:`parameters`.
        """
        layers = self._layers(rows)
        each = np.arange(len(rows))
        error = layers[-1][each, chosen] - targets
        slope = np.zeros_like(layers[-1])
        slope[each, chosen] = 2 * error / len(rows)
        found: list[NDArray[Any]] = []
        for at in range(len(layers) - 2, -1, -1):
            found = [layers[at].T @ slope, slope.sum(axis=0), *found]
            slope = (slope @ self.parameters[2 * at].T) * (layers[at] > 0)
        return float(np.mean(error**2)), found

    def train(self, rows: NDArray[Any], chosen: NDArray[Any], targets: NDArray[Any]) -> float:
        """Take one step of Adam towards `targets`; the loss before it.

        Parameters are those of :meth:`gradients`.
        """
        loss, gradients = self.gradients(rows, chosen, targets)
        self._steps += 1
        rate = self._learning_rate * np.sqrt(1 - _DECAY_SQUARE**self._steps)
        rate /= 1 - _DECAY_MEAN**self._steps
        for parameter, gradient, mean, square in zip(
            self.parameters, gradients, self._means, self._squares, strict=True
        ):
            mean += (1 - _DECAY_MEAN) * (gradient - mean)
            square += (1 - _DECAY_SQUARE) * (gradient**2 - square)
            parameter -= rate * mean / (np.sqrt(square) + _TINY)
        return loss

    def copy_from(self, other: ValueNetwork) -> None:
        """Take the parameters that `other` has now; it must have the same shape."""
        for mine, its in zip(self.parameters, other.parameters, strict=True):
            mine[:] = its

    def _layers(self, rows: NDArray[Any]) -> list[NDArray[Any]]:
        """The rows and what each layer makes of them."""
        found = [rows]
        last = len(self.parameters) // 2 - 1
        for at in range(last + 1):
            rows = rows @ self.parameters[2 * at] + self.parameters[2 * at + 1]
            if at < last:
                rows = np.maximum(rows, 0)
            found.append(rows)
        return found
