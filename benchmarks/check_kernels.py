"""Checks every kernel of the zoo's models without running it: ``make check-kernels``.

::

    python benchmarks/check_kernels.py                                     micro, every profile
    python benchmarks/check_kernels.py --sizes full --profiles cpu         minutes for each model
    python benchmarks/check_kernels.py --models swin,vit --sizes small --dtype float16

For each model, size and profile, in a process of its own: work-groups are legal on the strictest
built-in profile, every access to device memory is inside of a launch, indices are 32 bits wide
where NarrowIndices states no reason (``wide`` in the JSON), no barrier is in a branch of some
work-items, a kernel's OpenCL C has fewer than 64 KiB, arguments are within the strictest
profile's limit, images too, and local memory within the profile's. Where there is a clang on PATH
(``clang``, else ``clang-NN``), it has to accept each kernel's source as the runtime compiles it, as
OpenCL C 1.2 and 2.0, with half precision where the profile has it; where there is none, the column
``clang`` says ``skipped``. Prints a table and the largest sources, writes JSON, and ends with
status 1 if a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from limited_process import GIB, Limits, ending, last_line, run
from rich.console import Console
from rich.table import Table

OUTPUT = Path(__file__).parent / "results" / "kernel_checks.json"
LISTED = 10  # of the largest sources


def measure(model: str, profile_name: str, dtype: str) -> dict[str, Any]:
    """One row."""
    from kernel_checks import check_module

    from smartmem_tvm.devices import load_profile
    from smartmem_tvm.frontend import import_model
    from smartmem_tvm.pipeline import module_before

    profile = load_profile(profile_name)  # a name or a file
    mod = module_before("lower", import_model(f"zoo:{model}").mod, profile.target(), dtype=dtype)
    found = check_module(mod, profile)
    found["sources"] = found["sources"][:LISTED]
    return {"model": model, "profile": profile_name, "dtype": dtype, **found}


def largest_sources(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest kernels of all rows."""
    every = [
        {"bytes": size, "kernel": name, "model": row["model"], "profile": row["profile"]}
        for row in rows
        for size, name in row["sources"]
    ]
    return sorted(every, key=lambda entry: -entry["bytes"])[:LISTED]


def show(rows: list[dict[str, Any]]) -> None:
    """Print tables of rows and of the largest sources, and what breaks a limit."""
    console = Console(width=max(Console().width, 120))
    numbers = ("largest_program", "kernels", "largest_group", "most_arguments", "most_images")
    table = Table("model", "profile", "dtype")
    titles = ("source", "program", "kernels", "group", "arguments", "images", "local", "clang")
    for title in (*titles, "broken"):
        table.add_column(title, justify="right")
    for row in rows:
        size = row["sources"][0][0] if row["sources"] else 0
        accepted = row["clang"].get("accepted", "skipped")
        cells = [size, *(row[name] for name in numbers), row["most_local_bytes"], accepted]
        cells.append(len(row["violations"]))
        table.add_row(row["model"], row["profile"], row["dtype"], *map(str, cells))
    largest = Table("bytes", "kernel", "model", "profile", title="largest sources")
    for entry in largest_sources(rows):
        largest.add_row(*(str(value) for value in entry.values()))
    console.print(table, largest)
    for reason in sorted({row["clang"].get("skipped", "") for row in rows} - {""}):
        print(f"clang: skipped, {reason}")
    for row in rows:
        for line in row["violations"]:
            print(f"{row['model']} for {row['profile']}: {line}")


def main(arguments: list[str] | None = None) -> int:
    """Check what is asked for, keep the rest of the file, print the tables."""
    options = _parse(arguments)
    if options.worker:
        model, profile = options.worker
        print(json.dumps(measure(model, profile, options.dtype)))
        return 0
    rows, failed = {}, []
    if options.output.exists():
        kept = json.loads(options.output.read_text(encoding="utf-8"))["rows"]
        rows = {_key(row["model"], row["profile"], row["dtype"]): row for row in kept}
    limits = Limits(options.time_limit, int(options.memory_limit * GIB))
    wanted = [(m, p) for m in options.models for p in options.profiles]
    for number, (model, profile) in enumerate(wanted, 1):
        command = [sys.executable, __file__, "--dtype", options.dtype, "--worker", model, profile]
        outcome = run(command, {}, limits)
        key = _key(model, profile, options.dtype)
        rows.pop(key, None)
        if outcome.code or outcome.passed_limit:
            why = outcome.passed_limit or f"{ending(outcome.code)}, {last_line(outcome.stderr)}"
            failed.append(f"{key}: {why}")
        else:
            rows[key] = json.loads(outcome.stdout.splitlines()[-1])
            rows[key]["seconds"] = round(outcome.seconds, 1)
            _store(options.output, rows)
        print(f"{number} of {len(wanted)}: {key}", file=sys.stderr, flush=True)
    asked = {_key(model, profile, options.dtype) for model, profile in wanted}
    shown = [rows[key] for key in sorted(rows) if key in asked]
    show(shown)
    for line in failed:
        print(f"FAILED {line}")
    return 1 if failed or any(row["violations"] for row in shown) else 0


def _key(model: str, profile: str, dtype: str) -> str:
    return f"{model} {profile} {dtype}"


def _store(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Write the results whole."""
    from smartmem_tvm.whole_files import write_json

    ordered = [rows[key] for key in sorted(rows)]
    write_json(path, {"rows": ordered, "largest_sources": largest_sources(ordered)})


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    from smartmem_tvm import zoo
    from smartmem_tvm.devices import list_profiles

    names = [str(model["name"]) for model in zoo.list_models()]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=lambda text: text.split(","), default=names)
    parser.add_argument("--sizes", type=lambda text: text.split(","), default=["micro"])
    parser.add_argument("--profiles", type=lambda text: text.split(","), default=list_profiles())
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--time-limit", type=float, default=1_800, help="seconds for each")
    parser.add_argument("--memory-limit", type=float, default=12, help="GiB for each")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="results (%(default)s)")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.models = [f"{name}/{size}" for name in options.models for size in options.sizes]
    return options


if __name__ == "__main__":
    sys.exit(main())
