"""What became of every operator, and why: the record that passes write and reports print."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import tvm

ATTRIBUTE = "smartmem.decisions"


@dataclass(frozen=True)
class Decision:
    """Fate of one operator in one pass.

    Attributes
    ----------
    operator
        Name of the tensor that it makes.
    kind
        Name of its function, as the importer chose it; for people only.
    layout_class
        Its class (:mod:`.layout_class`).
    fate
        ``"eliminated"``, ``"fused"``, ``"merged"`` or ``"kept"``.
    into
        Operators in whose kernel its work is now done.
    reason
        Why, in words; for what is kept also why not otherwise.
    views
        Index maps: the raw composition and the simplified one, with divisions and modulos in each.
    """

    operator: str
    kind: str
    layout_class: str
    fate: str
    into: tuple[str, ...] = ()
    reason: str = ""
    views: tuple[dict[str, object], ...] = field(default=())


def read_decisions(mod: tvm.IRModule) -> list[Decision]:
    """Decisions recorded in a module, in the order of the passes."""
    text = mod.get_attr(ATTRIBUTE)
    if text is None:
        return []
    return [
        Decision(**{**entry, "into": tuple(entry["into"]), "views": tuple(entry["views"])})
        for entry in json.loads(str(text))
    ]


def with_decisions(mod: tvm.IRModule, decisions: Iterable[Decision]) -> tvm.IRModule:
    """Module with further decisions recorded."""
    entries = [asdict(decision) for decision in (*read_decisions(mod), *decisions)]
    if not entries:  # IRModule.get_attr cannot read a text as short as "[]"
        return mod
    return mod.with_attr(ATTRIBUTE, json.dumps(entries))
