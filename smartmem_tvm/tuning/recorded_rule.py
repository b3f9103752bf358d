"""The schedule rule that knows what tuning found.

A record that does not fit its function any more, because the package's schedules have changed, is
passed over: the rules that follow choose, and the function keeps the reason with other refusals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.target import Target

from ..errors import SmartMemError
from ..schedules import RuleDeclined, refusals, rule_of
from ..schedules.choice import Choice, choice_of, schedule_by
from .records import Records
from .records_file import read_records
from .tasks import task_key

TASK = "smartmem.tuned_task"


class Recorded:
    """Schedule a function as the best record of it says.

    Parameters
    ----------
    choose : Callable[[str, str], Choice or None]
        The schedule of a task's key for a profile, as the target has it for its model; None where
        there is none.
    """

    name = "Recorded"

    def __init__(self, choose: Callable[[str, str], Choice | None]) -> None:
        self._choose = choose

    @classmethod
    def best_of(cls, records: Records, device: tuple[str, str] | None = None) -> Recorded:
        """The fastest schedules of some records, of those of a device and driver if said."""

        def choose(task: str, profile: str) -> Choice | None:
            best = records.best(task, profile, device=device)
            return None if best is None else Choice.from_dict(best.choice)

        return cls(choose)

    def apply(self, func: tirx.PrimFunc, target: Target, _tunable: bool) -> s_tir.Schedule | None:
        """Return the recorded schedule; None without a record, RuleDeclined where it fits not."""
        key = task_key(func)
        try:
            choice = self._choose(key, str(target.attrs.get("model")))
        except SmartMemError as error:
            raise RuleDeclined(f"the record of task {key} cannot be used: {error}") from error
        if choice is None:
            return None
        func = schedule_by(func, choice).mod["main"]
        return s_tir.Schedule(func.with_attr(TASK, key))


def tuned_functions(mod: tvm.IRModule) -> dict[str, str]:
    """Functions of a module that have a recorded schedule, with their tasks' keys."""
    return {
        gv.name_hint: str(func.attrs[TASK])
        for gv, func in mod.functions.items()
        if isinstance(func, tirx.PrimFunc) and TASK in func.attrs
    }


def schedules_of(mod: tvm.IRModule) -> dict[str, dict[str, Any]]:
    """What each scheduled function was scheduled by.

    ``rule``: which rule; ``choice``: what it chose, None for rules of TVM; ``task``: the key of the
    record that it is from, None where a rule chose; ``refusals``: why earlier rules did not fit.
    """
    found = {}
    for gv, func in mod.functions.items():
        rule = rule_of(func) if isinstance(func, tirx.PrimFunc) else None
        if rule is not None:
            choice, task = choice_of(func), func.attrs.get(TASK)
            found[gv.name_hint] = {
                "rule": rule,
                "choice": None if choice is None else choice.to_dict(),
                "task": None if task is None else str(task),
                "refusals": refusals(func),
            }
    return found


@dataclass(frozen=True)
class Tuned:
    """What a compilation takes from records.

    Attributes
    ----------
    rules : tuple[Recorded, ...]
        The rule to ask first; none without records.
    digest : str
        Identifies the records; empty without.
    """

    rules: tuple[Recorded, ...] = ()
    digest: str = ""

    @classmethod
    def read(cls, records: str | PathLike[str] | Records | None) -> Tuned:
        """From a file's path, from records, or from none."""
        if records is None:
            return cls()
        if not isinstance(records, Records):
            records = read_records(records)
        return cls((Recorded.best_of(records),), records.digest)
