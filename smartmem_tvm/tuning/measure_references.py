"""References of tasks, each computed once, on the host, in a process that a limit ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..processes.parent import ChildEnded, ChildProcess
from .measure_slots import ENVIRONMENT, MODULE, MeasureLimits
from .reference import has_reference

_POLL_S = 0.05
_LOG = "references.log"


class NoReference(Exception):
    """A task of which nothing says what is right; the message says why."""


class References:
    """What is known of the references of tasks.

    Parameters
    ----------
    limits : MeasureLimits
        Of time and memory.
    builder : str
        As the worker takes it.
    seed : int
        Of the inputs.
    """

    def __init__(self, limits: MeasureLimits, builder: str, seed: int) -> None:
        self._limits, self._command, self._seed = limits, [MODULE, builder], seed
        self._untuned: dict[Path, str] = {}
        self._missing: dict[Path, str] = {}
        self._child: ChildProcess | None = None  # kept for the next task

    def prepare(self, folder: Path) -> dict[str, Any]:
        """Compute a task's reference where it has none; waits for it.

        Returns
        -------
        dict
            The worker's request to load the task. Its field ``untuned`` says why the device has to
            compute the reference, and is None where that is not so.

        Raises
        ------
        NoReference
            If the function cannot be compiled for the host or computes no numbers.
        """
        if not has_reference(folder) and folder not in self._untuned:
            if folder not in self._missing:
                self._compute(folder)
            if folder in self._missing:
                raise NoReference(f"no reference: {self._missing[folder]}")
        untuned = None if has_reference(folder) else self._untuned.get(folder)
        return {"do": "load", "folder": str(folder), "seed": self._seed, "untuned": untuned}

    def close(self) -> None:
        """End the process."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _compute(self, folder: Path) -> None:
        if not folder.is_dir():
            self._missing[folder] = f"'{folder}' is no folder of a task"
            return
        if self._child is None:
            self._child = ChildProcess(self._command, folder.parent / _LOG, ENVIRONMENT)
        done = False
        try:
            self._child.send({"do": "reference", "folder": str(folder), "seed": self._seed})
            line = self._answer(folder, self._child)
            done = line is not None and bool(line["ok"])
            if line is not None and not done:
                self._missing[folder] = str(line["error"])
        except ChildEnded as end:
            self._missing[folder] = str(end)
        finally:
            if not done:
                self.close()

    def _answer(self, folder: Path, child: ChildProcess) -> dict[str, Any] | None:
        """What the process says; None where it passes a limit first."""
        deadline = time.monotonic() + self._limits.reference_seconds
        while (line := child.receive(_POLL_S)) is None:
            if time.monotonic() > deadline:
                limit = f"{self._limits.reference_seconds:g} s"
            elif child.resident() > self._limits.memory:
                limit = f"{self._limits.memory / (1 << 30):.2f} GiB"
            else:
                continue
            self._untuned[folder] = f"the host passed its limit of {limit}"
            break
        return line
