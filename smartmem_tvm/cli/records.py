"""Show what a file of tuning records holds, or merge several into one."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from . import options

if TYPE_CHECKING:
    from rich.table import Table

    from ..tuning.records import Record, Records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="trials, failures, best time and speedup of each task")
    show.add_argument("file", metavar="FILE", help="file of records")
    merge = actions.add_parser(
        "merge", help="write the records of several files into one, duplicates once"
    )
    merge.add_argument("files", nargs="+", metavar="FILE", help="files of records")
    merge.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="file to write; may be an input"
    )
    for command, action in ((show, _show), (merge, _merge)):
        command.add_argument(
            "--json", action="store_true", help="print JSON, and nothing else, to stdout"
        )
        command.set_defaults(action=action)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    return args.action(args)


def _show(args: argparse.Namespace) -> int:
    from ..tuning.records_file import read_records

    records = read_records(args.file)
    rows = task_rows(records)
    if args.json:
        document = {
            "file": args.file,
            "package": records.header.package,
            "tvm": records.header.tvm,
            "records": len(records.records),
            "torn_bytes": records.torn,
            "digest": records.digest,
            "tasks": rows,
        }
        options.show_json(document)
        return 0
    torn = [f"The last line is torn ({records.torn} bytes) and does not count."]
    options.show(_table(records, rows), *(torn if records.torn else []))
    return 0


def _merge(args: argparse.Namespace) -> int:
    from ..tuning.records_file import merge

    records = merge(args.files, args.output)
    count = len(records.records)
    if args.json:
        options.show_json({"output": args.output, "inputs": args.files, "records": count})
    else:
        from rich.markup import escape

        options.show(f"wrote {escape(args.output)}: {count} records of {len(args.files)} files")
    return 0


def task_rows(records: Records) -> list[dict[str, Any]]:
    """What became of each task on each device, sorted by task, profile, device and driver.

    ``best_ms`` is that of :meth:`Records.best`. ``first_ms`` is that of the earliest trial 0's
    schedule, None where it failed; both are of all times of a schedule together. ``speedup`` is the
    first over the best.
    """
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in records.records:
        key = (record.task, record.profile, record.device, record.driver)
        groups.setdefault(key, []).append(record)
    return [_row(records, *key, groups[key]) for key in sorted(groups)]


def _row(
    records: Records, task: str, profile: str, device: str, driver: str, group: list[Record]
) -> dict[str, Any]:
    best = records.best(task, profile, (device, driver))
    first = min((r for r in group if r.trial == 0), key=lambda record: record.order, default=None)
    again = [r for r in group if first is not None and r.choice_text == first.choice_text]
    best_ms = _milliseconds([] if best is None else [best])
    first_ms = _milliseconds(again if first is not None and first.seconds else [])
    return {
        "task": task,
        "name": ", ".join(sorted({record.name for record in group})),
        "profile": profile,
        "device": device,
        "driver": driver,
        "trials": len(group),
        "status": dict(sorted(Counter(record.status for record in group).items())),
        "best_ms": best_ms,
        "first_ms": first_ms,
        "speedup": None if best_ms is None or first_ms is None else first_ms / best_ms,
    }


def _milliseconds(records: list[Record]) -> float | None:
    from ..tuning.records import typical

    seconds = typical([second for record in records for second in record.seconds])
    return None if seconds is None else 1e3 * seconds


def _table(records: Records, rows: list[dict[str, Any]]) -> Table:
    from rich.markup import escape

    from ..report.tables import plain_table

    header = records.header
    title = f"{records.path}: smartmem-tvm {header.package}, TVM {header.tvm}"
    texts = ("task", "name", "profile", "device", "driver")
    figures = ("trials", "ok", "failed", "best ms", "first ms", "speedup")
    table = plain_table(
        escape(title), [(n, "left") for n in texts] + [(n, "right") for n in figures]
    )
    for row in rows:
        failures = {name: count for name, count in row["status"].items() if name != "ok"}
        table.add_row(
            *(escape(row[name]) for name in texts),
            str(row["trials"]),
            str(row["status"].get("ok", 0)),
            ", ".join(f"{count} {name}" for name, count in failures.items()),
            *("–" if row[n] is None else f"{row[n]:.4g}" for n in ("best_ms", "first_ms")),
            "–" if row["speedup"] is None else f"{row['speedup']:.2f}×",
        )
    return table
