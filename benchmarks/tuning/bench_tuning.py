"""How much does tuning give, which search learns fastest, and is MetaSchedule better?  The zoo.

::

    python benchmarks/tuning/bench_tuning.py --draw-only      # reads the models, once
    python benchmarks/tuning/bench_tuning.py                  # all sessions, and the comparison
    python benchmarks/tuning/bench_tuning.py --strategies random --seeds 1,2     # a part of them

Draws tasks of the zoo's models (:mod:`tuning_drawing`), holds a session of each strategy with each
seed on each task, and MetaSchedule's own (:mod:`tuning_units`), and times the best schedules of a
task in turns (:mod:`tuning_comparing`). What is done is kept: a run that was ended goes on, and
parts add up.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "kernels"))

from rich.console import Console
from tuning_bench import METASCHEDULE, Bench, Limits, Unit
from tuning_comparing import ROUNDS, compare, digests, versions_of
from tuning_drawing import draw_tasks
from tuning_pool import Entry
from tuning_results import Results, read_results, results_for
from tuning_tables import print_results
from tuning_units import run_unit

from smartmem_tvm import zoo
from smartmem_tvm.bench.machine import environment
from smartmem_tvm.bench.settings import choose_models
from smartmem_tvm.bench.work import work_folder
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.tuning.strategies import STRATEGIES

OUTPUT = Path(__file__).resolve().parents[1] / "results" / "tuning.json"
GIB = 1 << 30


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", help="A,B: whose tasks (all of the zoo)")
    parser.add_argument("--size", default="full")
    parser.add_argument("--draw", type=int, default=12, metavar="N", help="tasks (12)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw (1)")
    parser.add_argument("--least", type=float, default=20.0, help="microseconds of a task (20)")
    parser.add_argument("--trials", type=int, default=64, help="of every session (64)")
    parser.add_argument("--device", default="cpu", help="device profile (cpu)")
    parser.add_argument("--opencl-device", help="OpenCL device to run on (the first)")
    parser.add_argument("--repeats", type=int, default=5, help="times kept of a candidate (5)")
    parser.add_argument("--time-limit", type=float, default=60.0, help="s of a candidate (60)")
    parser.add_argument("--unit-minutes", type=float, default=60.0, help="of a session (60)")
    parser.add_argument("--memory-limit", type=float, default=8.0, help="GiB of a process (8)")
    parser.add_argument("--work", type=Path, help="folder of what is prepared; beside the output")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    group = parser.add_argument_group("parts")
    names = [*STRATEGIES, METASCHEDULE]
    group.add_argument("--strategies", default=",".join(names), help=f"of {', '.join(names)} (all)")
    group.add_argument("--seeds", default="0,1,2", help="of the searches (0,1,2)")
    group.add_argument("--metaschedule-seeds", default="0", help="of MetaSchedule's (0)")
    group.add_argument("--tasks", help="A,B: these of the drawn tasks, by key, name or number")
    group.add_argument("--draw-only", action="store_true", help="draw, and tune nothing")
    group.add_argument("--no-compare", action="store_true", help="tune, and compare nothing")
    group.add_argument("--compare-only", action="store_true", help="compare anew what there is")
    group.add_argument("--redraw", action="store_true", help="read the models anew")
    group.add_argument("--retry", action="store_true", help="sessions that failed, again")
    group = parser.add_argument_group("results")
    group.add_argument("--table", action="store_true", help="print the results that there are")
    group.add_argument("--plot", action="store_true", help="draw the curves that there are")
    return parser.parse_args()


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def bench_of(options: argparse.Namespace) -> Bench:
    names = _list(options.models) or [str(model["name"]) for model in zoo.list_models()]
    return Bench(
        choose_models(names, options.size),
        options.draw,
        options.seed,
        options.least * 1e-6,
        options.trials,
        options.device,
        options.opencl_device,
        (options.work or options.output.with_suffix(".work")).resolve(),
        Limits(
            options.time_limit,
            int(options.memory_limit * GIB),
            60.0 * options.unit_minutes,
            options.repeats,
        ),
    )


def _list(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _seeds(text: str) -> list[int]:
    found = _list(text)
    for part in found:
        if not part.isdecimal():
            raise SmartMemError(f"'{part}' is no seed: give whole numbers, such as 0,1,2.")
    return [int(part) for part in found]


def units_of(options: argparse.Namespace, entries: list[Entry]) -> list[Unit]:
    """Sessions that are asked for: all of the first seeds before any of the next."""
    strategies = _list(options.strategies)
    for name in strategies:
        if name not in (*STRATEGIES, METASCHEDULE):
            known = ", ".join([*STRATEGIES, METASCHEDULE])
            raise SmartMemError(f"--strategies: there is no '{name}'; there are {known}.")
    seeds = {name: _seeds(options.seeds) for name in strategies}
    if METASCHEDULE in seeds:
        seeds[METASCHEDULE] = _seeds(options.metaschedule_seeds)
    found = [
        Unit(entry.key, name, seed)
        for name, own in seeds.items()
        for seed in own
        for entry in entries
    ]
    return sorted(found, key=lambda unit: seeds[unit.strategy].index(unit.seed))


def chosen(entries: list[Entry], text: str | None) -> list[Entry]:
    """Tasks by key, name or number from 1; all without any."""
    if text is None:
        return entries
    found: dict[str, Entry] = {}
    for name in _list(text):
        own = [
            entry
            for number, entry in enumerate(entries, start=1)
            if name in (entry.key, entry.name, f"{entry.model} {entry.name}", str(number))
        ]
        if not own:
            known = ", ".join(f"{entry.model} {entry.name}" for entry in entries)
            raise SmartMemError(f"--tasks: no drawn task is '{name}'; drawn are {known}.")
        found.update({entry.key: entry for entry in own})
    return list(found.values())


def run(options: argparse.Namespace) -> Results:
    bench = bench_of(options)
    bench.folder.parent.mkdir(parents=True, exist_ok=True)
    with work_folder(bench.folder, fresh=False):
        results = results_for(options.output, bench.settings(), environment(options.opencl_device))
        if not results.tasks or options.redraw:
            if results.units:
                raise SmartMemError(
                    f"'{options.output}' has sessions of the tasks that were drawn: to draw anew, "
                    "give another --output."
                )
            results.tasks = [vars(entry) for entry in draw_tasks(bench, note, options.redraw)]
            results.left_out = bench.left_out
            results.save(options.output)
        entries = chosen(results.entries(), options.tasks)
        if not entries:
            raise SmartMemError("no task was drawn: give more --models, or a smaller --least.")
        if not (options.draw_only or options.compare_only):
            tune(options, bench, entries, results)
        if not (options.draw_only or options.no_compare):
            compare_all(options, bench, entries, results)
    return results


def tune(options: argparse.Namespace, bench: Bench, entries: list[Entry], results: Results) -> None:
    """Hold the sessions that are asked for and have not been."""
    by_key = {entry.key: entry for entry in entries}
    units = units_of(options, entries)
    for number, unit in enumerate(units, start=1):
        known = results.units.get(unit.name)
        if known is not None and not (options.retry and known["failed"] is not None):
            continue
        entry = by_key[unit.task]
        note(f"session {number} of {len(units)}: {entry.title}, {unit.version}")
        found = run_unit(bench, entry, unit)
        if found["failed"] is not None:
            note(f"it failed: {found['failed']}")
        results.units[unit.name] = found
        results.save(options.output)


def compare_all(
    options: argparse.Namespace, bench: Bench, entries: list[Entry], results: Results
) -> None:
    """Time tasks whose schedules are others than those that were compared, or all if asked to."""
    for number, entry in enumerate(entries, start=1):
        versions = versions_of(bench, entry, results.units)
        known = results.comparisons.get(entry.key, {}).get("versions")
        if len(versions) == 1 or (known == digests(versions) and not options.compare_only):
            continue
        note(f"comparing {number} of {len(entries)}: {entry.title}, {len(versions)} schedules")
        results.comparisons[entry.key] = compare(bench, entry, versions, ROUNDS, note)
        results.save(options.output)


def draw_plot(results: Results, path: Path) -> None:
    try:
        from tuning_plot import draw_curves
    except ImportError as error:
        raise SmartMemError(
            "a plot needs matplotlib: pip install 'smartmem-tvm[bench]'."
        ) from error
    draw_curves(results, path)
    note(f"drawn: {path}")


def main() -> int:
    options = parse_arguments()
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        if options.table or options.plot:
            results = read_results(options.output)
        else:
            results = run(options)
        if options.plot:
            draw_plot(results, options.output.with_suffix(".svg"))
        if options.table or not options.plot:
            print_results(results, console)
    except SmartMemError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
