"""One unit of the peer: MetaSchedule with its default space and strategy on the same function.

::

    FOLDER/database_*.json    MetaSchedule's own
    FOLDER/trials.jsonl       {"seconds": [0.0012, …], "error": null} of every trial, in order
    FOLDER/best.json          the best schedule: an IRModule

For OpenCL's target MetaSchedule takes its rules for GPUs, and their limits from the target, which
is the profile's. Everything else is as ``tune_tir`` has it, but for four things. Blocks that share
a name get names of their own, without which it refuses the function. Between rounds of 16 trials
instead of 64 it learns, since one round of a session would teach its model nothing. Candidates are
timed as ours are. And those with wrong outputs have failed: MetaSchedule alone never looks at
outputs, and fills tensors of indices with random numbers.
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import tvm
from tuning_pool import write
from tuning_sessions import improvements
from tvm import s_tir, tirx
from tvm.ir.utils import derived_object
from tvm.s_tir import SBlock
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock
from tvm_ffi import structural_map

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.processes.child import die_with
from smartmem_tvm.tuning import load_runtime
from smartmem_tvm.tuning.candidate import ENTRY
from smartmem_tvm.tuning.measure_device import LoadedTask, Place, time_candidate
from smartmem_tvm.tuning.records import typical
from smartmem_tvm.tuning.reference import largest_error, read_reference, read_task

BATCH = 16
TRIALS, BEST = "trials.jsonl", "best.json"
# What MetaSchedule keeps as the time of a candidate that failed is 1e10.
_LONGEST_S = 1e6
_WRONG = "wrong outputs"
# Of a process that measures candidates: its task, loaded at the first one.
_LOADED: dict[str, Any] = {}


def tune(
    task: str,
    folder: str,
    trials: int,
    seed: int,
    opencl_device: str | None,
    candidate_seconds: float,
    repeats: int,
) -> dict[str, Any]:
    """Tune the function of a task's folder; each step of a candidate has so many seconds."""
    func, target = read_task(Path(task))
    evaluate = functools.partial(
        measure_candidate, task=task, opencl_device=opencl_device, repeats=repeats
    )
    initializer = functools.partial(begin, os.getpid())
    log = Path(folder) / TRIALS
    log.touch()
    ms.tune_tir(
        with_own_names(func).with_attr("global_symbol", ENTRY),
        target,
        folder,
        trials,
        num_trials_per_iter=min(BATCH, trials),
        builder=ms.builder.LocalBuilder(
            timeout_sec=candidate_seconds, initializer=initializer, f_build=build
        ),
        runner=ms.runner.LocalRunner(
            timeout_sec=candidate_seconds,
            initializer=initializer,
            f_alloc_argument=no_arguments,
            f_run_evaluator=evaluate,
        ),
        measure_callbacks=[*ms.measure_callback.MeasureCallback.create("default"), _Log(str(log))],
        seed=seed + 1,  # 0 is a seed by chance
    )
    return {}


def collect(folder: str) -> dict[str, Any]:
    """What a session found, whether it ended or was ended; writes its best schedule.

    Returns
    -------
    dict
        ``trials``, ``statuses``, ``reasons`` (of failures, each once), ``best_s`` and
        ``improvements``, as our sessions have them.
    """
    path = Path(folder) / TRIALS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    times = [typical(trial["seconds"] or ()) for trial in found]
    reasons = Counter(_reason(trial["error"]) for trial in found if trial["error"])
    database = ms.database.JSONDatabase(work_dir=folder)
    records = [
        (typical([*map(float, record.run_secs)]), record)
        for record in database.get_all_tuning_records()
        if record.run_secs and max(map(float, record.run_secs)) < _LONGEST_S
    ]
    best_s, best = min(records, key=lambda pair: pair[0], default=(None, None))
    if best is not None:
        schedule = s_tir.Schedule(best.workload.mod)
        best.trace.apply_to_schedule(schedule, remove_postproc=False)
        write(Path(folder) / BEST, tvm.ir.save_json(schedule.mod))
    return {
        "trials": len(found),
        "statuses": dict(Counter("ok" if t["seconds"] else _status(t["error"]) for t in found)),
        "reasons": dict(reasons.most_common(5)),
        "best_s": best_s,
        "improvements": improvements(times),
    }


def with_own_names(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Function whose blocks have a name each: ``matmul, matmul`` → ``matmul, matmul_1``."""
    taken: set[str] = set()

    def renamed(block: SBlock) -> SBlock:
        name, number = block.name_hint, 0
        while name in taken:
            number += 1
            name = f"{block.name_hint}_{number}"
        taken.add(name)
        return SBlock(
            block.iter_vars,
            block.reads,
            block.writes,
            name,
            block.body,
            block.init,
            block.alloc_buffers,
            block.match_buffers,
            block.annotations,
        )

    body = structural_map(func.body, (SBlock, renamed))
    return tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)


def begin(parent: int) -> None:
    """What a process of MetaSchedule's does first."""
    die_with(parent)
    load_runtime()


def build(mod: tvm.IRModule, target: Any, _params: Any) -> Any:
    """Build a candidate as MetaSchedule does.

    Its own function first makes the intrinsics of tensor cores known, which takes tens of seconds
    in every new process; no rule for OpenCL uses them.
    """
    mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(mod)
    return tvm.tirx.build(mod, target=target)


def no_arguments(_device: Any, _shapes: Any, _repeats: int) -> list[Any]:
    """Arguments as MetaSchedule would draw them: none, the task has its own."""
    return []


def measure_candidate(
    module: Any,
    _device: Any,
    _config: Any,
    _arguments: Any,
    *,
    task: str,
    opencl_device: str | None,
    repeats: int,
) -> list[float]:
    """Seconds of a candidate that computes what it should; runs in a process of MetaSchedule's."""
    if task not in _LOADED:
        func, _ = read_task(Path(task))
        reference = read_reference(Path(task))
        place = Place(opencl_device)
        _LOADED[task] = func, reference, LoadedTask(func, reference.inputs(func), place)
    func, reference, loaded = _LOADED[task]
    loaded.launch(module)
    _, wrong = largest_error(func, loaded.outputs(), reference)
    if wrong is None:
        seconds = time_candidate(loaded, module, repeats, None)
        if loaded.in_place:
            loaded.launch(module)
        _, wrong = largest_error(func, loaded.outputs(), reference)
        if wrong is None:
            return seconds
    _LOADED.clear()  # it may have written where it should not
    raise SmartMemError(f"{_WRONG}: {wrong}")


@derived_object
class _Log(ms.measure_callback.PyMeasureCallback):  # type: ignore[misc]
    """Keeps what came of every trial."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def apply(
        self,
        task_scheduler: Any,
        task_id: int,
        measure_candidates: Any,
        builder_results: Any,
        runner_results: Any,
    ) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            for built, ran in zip(builder_results, runner_results, strict=True):
                error = built.error_msg or ran.error_msg
                seconds = None if error else [float(value) for value in ran.run_secs]
                line = {"seconds": seconds, "error": None if error is None else str(error)}
                file.write(json.dumps(line) + "\n")


def _status(error: str) -> str:
    texts = {_WRONG: "wrong", "Timeout": "timeout", "Subprocess terminated": "crash"}
    return next((status for text, status in texts.items() if text in error), "error")


def _reason(error: str) -> str:
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"
