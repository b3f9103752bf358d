"""Whether every schedule of the spaces is legal: ``candidates.json``.

Random points of the spaces of the zoo's kernels are scheduled and built, and held against the
limits of the profile: source, work-group, local memory, arguments. Nothing is run. A point that a
space calls legal and that cannot be built is a fault. Goes on where it was interrupted.

    python benchmarks/check_candidates.py                       10,000 of each built-in profile
    python benchmarks/check_candidates.py --profiles cpu --count 200 --seed 7
    python benchmarks/check_candidates.py --table               what there is
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tvm.target import Target

from smartmem_tvm import zoo
from smartmem_tvm.devices import list_profiles, load_profile
from smartmem_tvm.frontend import import_model
from smartmem_tvm.tuning.candidate import IllegalCandidate, build_candidate
from smartmem_tvm.tuning.tasks import TuningTask, list_tasks
from smartmem_tvm.whole_files import write_json

OUTPUT = Path(__file__).with_name("results") / "candidates.json"
SCHEMA = 1
SIZE = "micro"
# Points of a task at a time; the next tasks then have their turn.
TURN = 10
_SHOWN = 300


def check(profile: str, count: int, seed: int, done: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Check points until there are `count`; the figures of a profile after every turn."""
    target = load_profile(profile).target()
    row = {"profile": profile, "seed": seed, "checked": 0, "turns": 0, "faults": []} | done
    tasks: list[TuningTask] = []
    for entry in zoo.list_models():
        tasks += list_tasks(import_model(f"zoo:{entry['name']}/{SIZE}").mod, target).tasks
    tasks = list({task.key: task for task in tasks}.values())
    while row["checked"] < count:
        turn = row["turns"]
        task = tasks[turn % len(tasks)]
        rng = np.random.default_rng([seed, turn])
        for point in _points(task, min(TURN, count - row["checked"]), rng):
            fault = _fault(task, point, target)
            if fault is not None:
                row["faults"].append(fault)
            row["checked"] += 1
        row |= {"turns": turn + 1, "tasks": len(tasks)}
        yield row


def _points(task: TuningTask, count: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    found = 0
    while found < count:
        raw = tuple(int(rng.integers(size)) for size in task.space.sizes)
        point = task.space.canonical(raw)
        if point is not None:
            found += 1
            yield point


def _fault(task: TuningTask, point: tuple[int, ...], target: Target) -> dict[str, Any] | None:
    choice = task.space.choice(point)
    try:
        build_candidate(task.func, target, choice)
    except IllegalCandidate as reason:
        return {
            "task": task.key,
            "name": task.name,
            "choice": choice.to_dict(),
            "reason": str(reason)[:_SHOWN],
        }
    return None


def write(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Write all rows, whole."""
    write_json(path, {"schema": SCHEMA, "rows": [rows[name] for name in sorted(rows)]})


def table(rows: dict[str, dict[str, Any]]) -> Table:
    """Points and faults of each profile."""
    shown = Table(title="Random schedules of the zoo's kernels, built")
    for heading in ("profile", "kernels", "schedules", "illegal"):
        shown.add_column(heading, justify="left" if heading == "profile" else "right")
    for name, row in sorted(rows.items()):
        figures = (row["tasks"], row["checked"], len(row["faults"]))
        shown.add_row(name, *map(str, figures))
    return shown


def main() -> int:
    """Check; status 1 when a point was illegal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profiles", default=",".join(list_profiles()))
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    if args.output.exists():
        document = json.loads(args.output.read_text(encoding="utf-8"))
        rows = {row["profile"]: row for row in document["rows"]}
    if not args.table:
        with Progress(console=Console(stderr=True)) as progress:
            for name in args.profiles.split(","):
                done = rows.get(name, {})
                done = done if done.get("seed") == args.seed else {}
                shown = progress.add_task(name, total=args.count, completed=done.get("checked", 0))
                for row in check(name, args.count, args.seed, done):
                    rows[name] = row
                    write(args.output, rows)
                    progress.update(shown, completed=row["checked"])
    Console().print(table(rows))
    return 1 if any(row["faults"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
