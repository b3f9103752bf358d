"""One device slot in a process of its own.

It is started as ``python -m smartmem_tvm.tuning.measure_worker BUILDER PARENT``. Requests
and replies are lines of JSON on stdin and stdout::

    {"do": "open", "profile": {…}, "rpc": null, …}      {"ok": true, "device": …, "driver": …}
    {"do": "load", "folder": PATH, "untuned": null}     {"ok": true, "reference": {…}}
    {"do": "measure", "choice": {…}, "repeats": 3, …}   {"stage": "build"} {"stage": "run"}
                                                        {"ok": true, "status": "ok", "seconds": […]}
    {"do": "reference", "folder": PATH, "seed": 0}      {"ok": true}

The last one needs no device. A request that fails answers ``{"ok": false, "kind": KIND, "error":
TEXT}`` and ends the process; KIND is ``lost`` where the connection to a server broke, else
``error``. The end of stdin is the order to leave.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tvm import tirx

from smartmem_tvm.schedules.choice import Choice

from ..devices import profile_from_dict, register_profile
from ..errors import SmartMemError
from ..processes.child import die_with, one_line, private_stdout, reply
from .candidate import Candidate, IllegalCandidate, build_candidate
from .measure_device import ConnectionBroke, LoadedTask, Place, RemotePlace, time_candidate
from .measure_inputs import Arrays
from .reference import (
    UNTUNED,
    Outputs,
    Reference,
    has_reference,
    host_reference,
    largest_error,
    make_reference,
    read_reference,
    read_task,
    save_reference,
)

BUILDER = f"{build_candidate.__module__}:{build_candidate.__qualname__}"


def main(builder: str, parent: int) -> int:
    """Serve requests until their end, or until the parent is gone."""
    die_with(parent)
    requests, replies = sys.stdin, private_stdout()
    sys.excepthook = lambda kind, error, trace: _answer_error(replies, error)
    worker = _Worker(_function(builder), lambda stage: reply(replies, {"stage": stage}))
    for line in requests:
        request = json.loads(line)
        serve = worker.requests[request.pop("do")]
        reply(replies, {"ok": True, **serve(**request)})
    worker.close()
    return 0


class _Worker:
    def __init__(self, build: Callable[..., Candidate], notify: Callable[[str], None]) -> None:
        self.requests: dict[str, Callable[..., dict[str, Any]]] = {
            "open": self._open,
            "load": self._load,
            "measure": self._measure,
            "reference": _save_host_reference,
        }
        self._build, self._notify = build, notify
        # None until they are opened and loaded, in that order.
        self._place: Any = None
        self._target: Any = None
        self._func: Any = None
        self._reference: Any = None
        self._task: Any = None

    def close(self) -> None:
        """Leave the device."""
        self._task = None
        if self._place is not None:
            self._place.close()
            self._place = None

    def _open(
        self,
        profile: dict[str, Any],
        opencl_device: str | None,
        rpc: dict[str, Any] | None,
    ) -> dict[str, Any]:
        self.close()
        register_profile(profile_from_dict(profile, "of the tuner"))  # that of the tasks' targets
        if rpc is None:
            self._place = Place(opencl_device)
        else:
            self._place = RemotePlace(opencl_device=opencl_device, **rpc)
        return {"device": self._place.name, "driver": self._place.driver}

    def _load(self, folder: str, seed: int, untuned: str | None) -> dict[str, Any]:
        self._task = None  # its memory is free now
        func, self._target = read_task(Path(folder))
        if not has_reference(Path(folder)):
            if untuned is None:
                raise SmartMemError(f"'{folder}' has no reference: it is computed first.")
            save_reference(Path(folder), self._untuned_reference(func, seed, untuned))
        self._func, self._reference = func, read_reference(Path(folder))
        self._task = LoadedTask(func, self._reference.inputs(func), self._place)
        return {"reference": self._reference.facts}

    def _untuned_reference(self, func: tirx.PrimFunc, seed: int, why: str) -> Reference:
        module = self._loaded(build_candidate(func, self._target, None))

        def run(arrays: Arrays) -> Outputs:
            task = LoadedTask(func, arrays, self._place)
            task.launch(module)
            return task.outputs()

        return make_reference(func, seed, run, {"reference": UNTUNED, "why": why})

    def _measure(
        self, choice: dict[str, Any] | None, repeats: int, stop_above_s: float | None
    ) -> dict[str, Any]:
        task, facts = self._task, dict(self._reference.facts)
        self._notify("build")
        try:
            chosen = None if choice is None else Choice.from_dict(choice)
            candidate = self._build(self._func, self._target, chosen)
        except SmartMemError as refused:
            status = "illegal" if isinstance(refused, IllegalCandidate) else "error"
            return {"status": status, "reason": str(refused), "facts": facts}
        facts.update(candidate.facts)
        self._notify("upload")
        module = self._loaded(candidate)
        self._notify("run")
        task.launch(module)
        error, wrong = self._error()
        if wrong is None:
            seconds = time_candidate(task, module, repeats, stop_above_s)
            if task.in_place:
                task.launch(module)  # what was timed went on from its own results
            again, wrong = self._error()
            error = max(error, again)
            if wrong is None:
                return {"status": "ok", "seconds": seconds, "error": error, "facts": facts}
            wrong += ", after it was right at the first launch"
        return {"status": "wrong", "error": error, "reason": wrong, "facts": facts}

    def _loaded(self, candidate: Candidate) -> Any:
        host = self._target.host.attrs.get("mtriple")
        return self._place.load(candidate, None if host is None else str(host))

    def _error(self) -> tuple[float, str | None]:
        return largest_error(self._func, self._task.outputs(), self._reference)


def _save_host_reference(folder: str, seed: int) -> dict[str, Any]:
    save_reference(Path(folder), host_reference(read_task(Path(folder))[0], seed))
    return {}


def _function(entry: str) -> Callable[..., Candidate]:
    module, _, name = entry.partition(":")
    found: Callable[..., Candidate] = getattr(importlib.import_module(module), name)
    return found


def _answer_error(stream: IO[str], error: BaseException) -> None:
    traceback.print_exception(error)
    kind = "lost" if isinstance(error, ConnectionBroke) else "error"
    reply(stream, {"ok": False, "kind": kind, "error": one_line(error)})
    sys.stderr.flush()
    os._exit(1)  # tensors of a broken session cannot be freed in order


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
