"""Schedules of one task in one process, on the same tensors, checked and timed in turns."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

import tvm

from smartmem_tvm.devices import resolve_profile
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.schedules.choice import Choice
from smartmem_tvm.tuning.candidate import ENTRY, Candidate, build_candidate
from smartmem_tvm.tuning.measure_device import LoadedTask, Place
from smartmem_tvm.tuning.reference import Reference, largest_error, read_reference, read_task

# A time is that of as many launches as take this long together.
REPEAT_S = 0.02
MOST_LAUNCHES = 1000


class Versions:
    """The schedules of a task, by name."""

    def __init__(self) -> None:
        # None until a task is loaded.
        self._place: Any = None
        self._func: Any = None
        self._target: Any = None
        self._task: Any = None
        self._reference = Reference({})
        self._modules: dict[str, tuple[Any, int]] = {}

    def load(self, task: str, device: str, opencl_device: str | None) -> dict[str, Any]:
        """Load a task's tensors."""
        resolve_profile(device).target()  # that of the task's target is registered
        self._place = Place(opencl_device)
        self._func, self._target = read_task(Path(task))
        self._reference = read_reference(Path(task))
        self._task = LoadedTask(self._func, self._reference.inputs(self._func), self._place)
        return {"opencl_device": self._place.name, "driver": self._place.driver}

    def add(
        self, name: str, choice: dict[str, Any] | None = None, module: str | None = None
    ) -> dict[str, Any]:
        """Build a schedule: a choice of ours, the file of a scheduled module, or what rules say."""
        if module is None:
            chosen = None if choice is None else Choice.from_dict(choice)
            candidate = build_candidate(self._func, self._target, chosen)
        else:
            mod = tvm.ir.load_json(Path(module).read_text(encoding="utf-8"))
            # As MetaSchedule's builder has it: TVM's own way to lower, not ours.
            candidate = Candidate(tvm.compile(_with_entry(mod), target=self._target))
        loaded = self._place.load(candidate, None)
        self._task.launch(loaded)
        error, wrong = largest_error(self._func, self._task.outputs(), self._reference)
        if wrong is not None:
            raise SmartMemError(f"wrong: {wrong}")
        first = min(self._task.seconds(loaded, 1, 2))
        launches = min(MOST_LAUNCHES, max(1, ceil(REPEAT_S / first)))
        self._modules[name] = loaded, launches
        return {"error": error, "seconds": first}

    def time(self, name: str) -> dict[str, Any]:
        """Seconds of a launch."""
        module, launches = self._modules[name]
        (seconds,) = self._task.seconds(module, launches, 1)
        return {"seconds": seconds}


def _with_entry(mod: tvm.IRModule) -> tvm.IRModule:
    (func,) = mod.functions.values()
    return tvm.IRModule({ENTRY: func.with_attr("global_symbol", ENTRY)})
