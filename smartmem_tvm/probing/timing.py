"""Times of kernels, and figures made of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm

from ..errors import DeviceError
from .device import ProbedDevice

NOISY = 0.3
_REPEATS = 7
_FEWEST = 3
_REPEAT_S = 0.02
_MOST_LAUNCHES = 100


@dataclass(frozen=True)
class Figure:
    """A measured rate or time.

    Attributes
    ----------
    value : float
        Median of the repeats, in ``unit``.
    spread : float
        Largest minus smallest repeat, over the median.
    best : float
        The largest repeat, for comparing rates: whatever else the device does only slows.
    how : str
        What was measured, for people.
    """

    name: str
    value: float
    unit: str
    spread: float
    repeats: int
    best: float
    how: str

    @property
    def noisy(self) -> bool:
        """Whether the repeats differ by more than 30 %."""
        return self.spread > NOISY

    @property
    def text(self) -> str:
        """How it was measured, for the sources of a profile."""
        noisy = "NOISY: " if self.noisy else ""
        return (
            f"{self.how}: {self.value:.4g} {self.unit}, {noisy}median of {self.repeats} repeats "
            f"that differ by {self.spread * 100:.0f} %"
        )


class Budget:
    """Seconds that are left of a whole measurement."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left, none or less when it is used up."""
        return self._end - time.monotonic()


def figure(
    name: str, samples: Sequence[float], unit: str, how: str, value: Callable[[float], float]
) -> Figure:
    """Make a figure of times in seconds; ``value`` turns one into the figure's unit."""
    values = sorted(value(seconds) for seconds in samples)
    median = statistics.median(values)
    return Figure(
        name, median, unit, (values[-1] - values[0]) / median, len(values), values[-1], how
    )


def time_kernel(
    probed: ProbedDevice,
    module: tvm.runtime.Module,
    name: str,
    arguments: Sequence[Any],
    *,
    limit_s: float = 1.0,
) -> list[float]:
    """Seconds of one launch, several times over, by the device's own timer where it has one.

    Short kernels are launched several times a repeat; a repeat is their mean. Takes about
    ``limit_s`` seconds of the device, more only where three launches do.

    Raises
    ------
    DeviceError
        If the kernel cannot be built or launched, or the timer says that no time passes.
    """
    once = _evaluate(probed, module, name, arguments, 1, 1)[0]
    if once <= 0:
        # Shorter than the timer's step: many together are not.
        once = _evaluate(probed, module, name, arguments, _MOST_LAUNCHES, 1)[0]
    if once <= 0:
        raise DeviceError(
            f"kernel '{name}': the device's timer says that it takes no time. Choose another "
            "device, or report it to the driver's vendor."
        )
    number = max(1, min(_MOST_LAUNCHES, round(_REPEAT_S / once)))
    repeat = max(_FEWEST, min(_REPEATS, int(limit_s / (number * once))))
    samples = _evaluate(probed, module, name, arguments, number, repeat)
    return [max(seconds, 1e-9) for seconds in samples]


def _evaluate(
    probed: ProbedDevice,
    module: tvm.runtime.Module,
    name: str,
    arguments: Sequence[Any],
    number: int,
    repeat: int,
) -> list[float]:
    with probed.errors():
        evaluator = module.time_evaluator(name, probed.device, number=number, repeat=repeat)
        return [float(seconds) for seconds in evaluator(*arguments).results]
