"""What was stored as float16 and what was not, and why: the record of ``CastToHalf``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import tvm

ATTRIBUTE = "smartmem.half"


@dataclass(frozen=True, order=True)
class Choice:
    """Storage of the results of operators of one kind.

    Attributes
    ----------
    operator
        Name of the operator, without ``relax.``.
    reads
        ``"float16"`` or ``"float32"``; it computes in float32 either way, unless it only moves.
    stored
        ``"float16"``, ``"float32"``, or ``"register"`` for what goes to an operator that fusion
        joins with this one.
    reason
        Why so.
    count
        How many operators.
    """

    operator: str
    reads: str
    stored: str
    reason: str
    count: int = 1


def read_choices(mod: tvm.IRModule) -> tuple[Choice, ...]:
    """Choices recorded in a module, by operator."""
    text = mod.get_attr(ATTRIBUTE)
    return () if text is None else tuple(Choice(**entry) for entry in json.loads(str(text)))


def with_choices(mod: tvm.IRModule, choices: Iterable[Choice]) -> tvm.IRModule:
    """Module with choices recorded; equal ones are counted together."""
    counts: Counter[tuple[str, str, str, str]] = Counter()
    for choice in choices:
        counts[choice.operator, choice.reads, choice.stored, choice.reason] += choice.count
    entries = [asdict(Choice(*key, count)) for key, count in sorted(counts.items())]
    if not entries:  # IRModule.get_attr cannot read a text as short as "[]"
        return mod
    return mod.with_attr(ATTRIBUTE, json.dumps(entries))
