"""What there is to tune in a model: its kernels before they are scheduled, each once.

::

    swin: 124 calls of 58 functions  →  41 tasks, "9f0c…: matmul, 12 calls", …

Functions of one structure are one task, whatever they and their buffers are called. A task's key is
a hash of that structure and stays the same from process to process, so records are found by it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import tvm
from tvm import tirx
from tvm.target import Target
from tvm_ffi import structural_hash

from ..analysis import is_host_function
from ..analysis.data_bounds import data_bounds, with_bounds
from ..analysis.kernels import count_calls
from ..pipeline import module_before
from ..schedules import ApplySchedules, RuleDeclined, own_rules
from ..schedules.base import IS_SCHEDULED
from ..schedules.space import ScheduleSpace, rules_choice

_SCHEDULING = "smartmem.ApplySchedules"


@dataclass(frozen=True)
class TuningTask:
    """A kernel to tune.

    Attributes
    ----------
    key : str
        Hash of the function's structure.
    name : str
        What its first function is called in the model.
    func : tirx.PrimFunc
        The function as the schedule rules get it, with what its callers know of its data.
    space : ScheduleSpace
        Its schedules; the first point to begin with is what the rules choose.
    calls : int
        Launches in one inference.
    """

    key: str
    name: str
    func: tirx.PrimFunc
    space: ScheduleSpace
    calls: int


@dataclass(frozen=True)
class TaskList:
    """The tasks of a model, and the functions that are none, with the reason."""

    tasks: tuple[TuningTask, ...]
    left_out: dict[str, str]


def task_key(func: tirx.PrimFunc) -> str:
    """Hash of what a function computes and where its tensors are; names and notes do not count."""
    plain = tirx.PrimFunc(func.params, func.body, func.ret_type)
    return f"{structural_hash(plain) & (2**64 - 1):016x}"


def list_tasks(
    mod: tvm.IRModule,
    target: Target,
    dtype: str = "float32",
    disable: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
) -> TaskList:
    """Tasks of a module of Relax operators, in the order in which it first calls them."""
    unscheduled = module_before(_SCHEDULING, mod, target, dtype, disable, progress)
    found: dict[str, TuningTask] = {}
    left_out: dict[str, str] = {}
    bounds = {gv.name_hint: own for gv, own in data_bounds(unscheduled).items()}
    for name, count in count_calls(unscheduled, "main").items():
        func = unscheduled[name]
        if is_host_function(func, target) or func.attrs.get(IS_SCHEDULED):
            left_out[name] = "it is not scheduled by rules: TVM has a kernel of its own for it"
            continue
        key = task_key(func)
        if key in found:
            known = found[key]
            shared = with_bounds(known.func, bounds.get(name, {}))
            found[key] = replace(known, func=shared, calls=known.calls + count)
            continue
        try:
            alone = with_bounds(func, bounds.get(name, {}))
            found[key] = TuningTask(key, name, alone, space_of(func, target), count)
        except RuleDeclined as reason:
            left_out[name] = str(reason)
    return TaskList(tuple(found.values()), left_out)


def space_of(func: tirx.PrimFunc, target: Target) -> ScheduleSpace:
    """Schedules of a function, to be searched from what the rules choose."""
    with target:
        scheduled = ApplySchedules(own_rules())(tvm.IRModule({"main": func}))["main"]
    return ScheduleSpace(func, target, rules_choice(scheduled))
