"""The tasks of a model, on disk: read once, drawn from often.

::

    POOL/swin-full/tasks.json             an Entry for each task, and what was left out, and why
    POOL/swin-full/0f3a…/function.json    the function as it reaches the schedule rules

Elimination and fusion leave next to no kernel that only computes element by element or moves data.
Those that a model has without these two are read into a pool of their own, where they are needed.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernel_classes import class_of

from smartmem_tvm.analysis.fused_kernel import read_kernel
from smartmem_tvm.analysis.texels import is_texture
from smartmem_tvm.devices import resolve_profile
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.frontend import import_model
from smartmem_tvm.tuning.measure_inputs import parameters
from smartmem_tvm.tuning.reference import write_task
from smartmem_tvm.tuning.tasks import list_tasks
from smartmem_tvm.whole_files import write_text

LISTING = "tasks.json"
UNFUSED = ("eliminate", "fuse")
OTHER = "elementwise"


@dataclass(frozen=True)
class Entry:
    """A task of a model.

    Attributes
    ----------
    model, name : str
        Whose kernel, and what it is called there.
    key : str
        The task's.
    kind : str
        One of :data:`kernel_classes.CLASSES`.
    calls : int
        Launches in one inference.
    fused : bool
        False for a task of the model without elimination and fusion.
    untuned_s : float or None
        Seconds as the rules schedule it, measured once when it was drawn.
    """

    model: str
    name: str
    key: str
    kind: str
    calls: int
    fused: bool = True
    untuned_s: float | None = None

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.model} {self.name}{'' if self.fused else ' (unfused)'}"


def read_tasks(source: str, model: str, folder: str, device: str, fused: bool) -> dict[str, Any]:
    """Write the pool of a model; without fusion only elementwise tasks are kept."""
    target = resolve_profile(device).target()
    found = list_tasks(import_model(source).mod, target, disable=() if fused else UNFUSED)
    left_out = Counter(found.left_out.values())
    entries: list[Entry] = []
    for task in found.tasks:
        try:
            parameters(task.func)
        except SmartMemError:
            left_out["a parameter is no tensor of static shape"] += 1
            continue
        if any(is_texture(param) for param in task.func.params):
            left_out["it has images: only buffers are compared"] += 1
            continue
        kind = class_of(read_kernel(task.func))
        if fused or kind == OTHER:
            write_task(Path(folder), task.key, task.func, target)
            entries.append(Entry(model, task.name, task.key, kind, task.calls, fused))
    document = {"left_out": left_out, "tasks": [asdict(entry) for entry in entries]}
    write(Path(folder) / LISTING, json.dumps(document, indent=1))
    return {"tasks": len(entries)}


def read_pool(folder: Path) -> tuple[list[Entry], dict[str, int]]:
    """Entries that :func:`read_tasks` wrote, and how many functions it left out, by reason."""
    document = json.loads((folder / LISTING).read_text(encoding="utf-8"))
    return [Entry(**fields) for fields in document["tasks"]], document["left_out"]


def write(path: Path, text: str) -> None:
    """Write a file whole, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
