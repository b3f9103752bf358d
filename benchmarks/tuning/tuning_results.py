"""The results file: one JSON document, written whole after every unit.

::

    {"schema": 1, "settings": {…}, "environment": {…}, "left_out": {"swin/full": {…}},
     "tasks": [{"model": "swin/full", "name": "matmul7", "key": "0f3a…", …}],
     "units": {"0f3a…/explorer/1": {"improvements": [[1, 0.0012], …], "best_s": …, "load": […]}},
     "comparisons": {"0f3a…": {"times_s": {"untuned": […], "explorer/1": […]}}},
     "summary": {…}}
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tuning_figures import summary
from tuning_pool import Entry, write

from smartmem_tvm.errors import SmartMemError

SCHEMA = 1


@dataclass
class Results:
    """What was measured.

    Attributes
    ----------
    settings : dict
        What decides which tasks are tuned and for how long.
    environment : dict
        Machine, driver and versions.
    tasks : list
        Fields of :class:`tuning_pool.Entry`.
    units : dict
        By the name of the unit.
    comparisons : dict
        By the key of the task.
    """

    settings: dict[str, Any]
    environment: dict[str, Any]
    schema: int = SCHEMA
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    units: dict[str, dict[str, Any]] = field(default_factory=dict)
    comparisons: dict[str, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    def entries(self) -> list[Entry]:
        """The tasks."""
        return [Entry(**fields) for fields in self.tasks]

    def save(self, path: Path) -> None:
        """Write it whole."""
        self.summary = summary(self.tasks, self.units, self.comparisons, self.settings["trials"])
        write(path, json.dumps(asdict(self), indent=1) + "\n")


def read_results(path: Path) -> Results:
    """Read what :meth:`Results.save` wrote; SmartMemError where it is something else."""
    try:
        found = Results(**json.loads(path.read_text(encoding="utf-8")))
        found.entries()
    except (ValueError, TypeError) as error:
        raise SmartMemError(
            f"'{path}' is no results file of the tuning bench ({error}): give another --output."
        ) from error
    except OSError as error:
        raise SmartMemError(
            f"'{path}' cannot be read ({error.strerror}): give --output."
        ) from error
    if found.schema != SCHEMA:
        raise SmartMemError(
            f"results '{path}' have schema {found.schema}, this bench reads {SCHEMA}: give another "
            "--output."
        )
    return found


def results_for(path: Path, settings: dict[str, Any], environment: dict[str, Any]) -> Results:
    """Results to go on with: those of the file, or new ones.

    Raises
    ------
    SmartMemError
        If the file has results of other settings or of another machine.
    """
    if not path.exists():
        return Results(settings, environment)
    found = read_results(path)
    ours = {"settings": settings, "environment": environment}
    for what, mine in ours.items():
        theirs = getattr(found, what)
        for name in mine.keys() | theirs.keys():
            if mine.get(name) != theirs.get(name):
                raise SmartMemError(
                    f"'{path}' has results of other {what}: {name} is {theirs.get(name)!r} there "
                    f"and {mine.get(name)!r} now. Give the same ones, or another --output."
                )
    return found
