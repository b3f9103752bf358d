"""Tune a model's kernels on a device; what is measured goes to a file of records."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SmartMemError
from . import options

if TYPE_CHECKING:
    from ..devices import DeviceProfile
    from ..tuning.session import TuningSession
    from ..tuning.tasks import TuningTask

DEFAULT_MINUTES = 10.0
# Seconds between lines where stderr is no terminal.
_SAY_EVERY_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_model(parser)
    parser.add_argument(
        "--records",
        required=True,
        metavar="FILE",
        help="file of records to write, or to go on with; `smartmem compile --records` uses it",
    )
    group = parser.add_argument_group("budget (whichever is reached first)")
    group.add_argument(
        "--trials", type=int, metavar="N", help="candidates in all, those in the file too"
    )
    group.add_argument(
        "--trials-per-task", type=int, metavar="N", help="as many candidates for every kernel"
    )
    group.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help=f"time of this session (default: {DEFAULT_MINUTES:g} where nothing else is said)",
    )
    group = parser.add_argument_group("search")
    group.add_argument(
        "--strategy",
        default=None,
        metavar="NAME",
        help="evolution (MetaSchedule's, with XGBoost), explorer (FlexTensor's) or random "
        "(default: evolution)",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of the search (default: 0)")
    group.add_argument(
        "--tasks",
        metavar="A,B",
        help="tune these kernels alone, by the names or keys that the table has",
    )
    group = parser.add_argument_group("measuring")
    group.add_argument(
        "--time-limit",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="for a candidate: to build, to run and to check it (default: 60)",
    )
    group.add_argument(
        "--memory-limit",
        type=float,
        default=4.0,
        metavar="GIB",
        help="for the process that measures (default: 4)",
    )
    group.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="times that are kept (default: 5)"
    )
    group.add_argument(
        "--servers",
        type=int,
        metavar="N",
        help="RPC servers to use at a time (default: all with the key)",
    )
    parser.add_argument("--plot", metavar="FILE.svg", help="draw best-so-far over trials")
    parser.add_argument(
        "--host",
        metavar="TRIPLE",
        help="machine that drives the device behind --rpc, such as aarch64-linux-android "
        "(default: this one)",
    )
    options.add_common(parser)
    options.add_rpc(parser)


def run(args: argparse.Namespace) -> int:
    """Tune; exit code 1 when nothing could be measured."""
    from ..linking import check_host, find_linker
    from ..tuning.measure import MeasureLimits, Measurer
    from ..tuning.records_file import RecordsFile
    from ..tuning.reference import write_task
    from ..tuning.session import TuningSession
    from ..tuning.strategies import DEFAULT, check_strategy
    from ..tuning.tasks import list_tasks

    budget = _budget(args)
    check_strategy(args.strategy or DEFAULT)
    if args.host is not None:
        check_host(args.host)
        find_linker(args.host, None)
    profile = _profile(args)
    with options.progress() as stage:
        imported = _import(args, stage)
        target = profile.target(args.host)
        found = list_tasks(imported.mod, target, args.dtype, progress=stage)
    tasks = _chosen(found.tasks, args.tasks)
    if not tasks:
        raise SmartMemError(f"'{args.model}' has no kernel that could be tuned.")
    limits = MeasureLimits(args.time_limit, int(args.memory_limit * (1 << 30)), args.repeats)
    with (
        RecordsFile(args.records) as file,
        tempfile.TemporaryDirectory(prefix="smartmem-tune-") as folder,
    ):
        for task in tasks:
            write_task(Path(folder), task.key, task.func, target)
        with (
            Measurer(
                Path(folder),
                profile,
                opencl_device=args.opencl_device,
                rpc=None if args.rpc is None else (args.rpc, args.key),
                servers=args.servers,
                limits=limits,
            ) as measurer,
            _watching(args) as watch,
        ):
            session = TuningSession(
                tasks,
                measurer,
                file.append,
                str(target.attrs["model"]),
                strategy=args.strategy or DEFAULT,
                seed=args.seed,
                budget=budget,
                known=file.earlier,
                watch=watch,
            )
            interrupted = _run(session)
    _report(args, session, found.left_out, interrupted)
    if interrupted:
        return 130
    return 0 if any(own.best_s is not None for own in session.progress) else 1


def _run(session: TuningSession) -> bool:
    """Run a session; whether it was interrupted. All outcomes until then are kept."""
    try:
        session.run()
    except KeyboardInterrupt:
        return True
    return False


def _budget(args: argparse.Namespace) -> Any:
    from ..tuning.session import Budget

    minutes = args.minutes
    if args.trials is None and args.trials_per_task is None and minutes is None:
        minutes = DEFAULT_MINUTES
    return Budget(args.trials, args.trials_per_task, None if minutes is None else 60.0 * minutes)


def _profile(args: argparse.Namespace) -> DeviceProfile:
    from ..devices import AUTO, profile_from_device, resolve_profile
    from ..errors import DeviceError

    with options.remote(args) as remote:
        if remote is not None and args.device == AUTO:
            profile = profile_from_device(remote.device_info())
        else:
            profile = resolve_profile(args.device, None if remote else args.opencl_device)
    if args.dtype == "float16" and not profile.compute.fp16:
        raise DeviceError(
            f"device '{profile.name}' ({profile.description}) has no half precision: tune with "
            "dtype float32, or for another device."
        )
    return profile


def _import(args: argparse.Namespace, stage: Callable[[str], None] | None) -> Any:
    from ..frontend import import_model

    if stage is not None:
        stage("import")
    return import_model(args.model, shapes=options.shapes(args))


def _chosen(tasks: tuple[TuningTask, ...], names: str | None) -> list[TuningTask]:
    """Tasks of some names or keys; all without names."""
    if names is None:
        return [*tasks]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {name: task for task in tasks for name in (task.key, task.name)}
    for name in wanted:
        if name not in known:
            listed = ", ".join(task.name for task in tasks)
            raise SmartMemError(f"--tasks: there is no kernel '{name}'; there are {listed}.")
    return list({known[name].key: known[name] for name in wanted}.values())


@contextmanager
def _watching(args: argparse.Namespace) -> Iterator[Callable[[TuningSession], None]]:
    """Show progress on stderr: a bar on a terminal, lines elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            shown = bar.add_task("starting", total=1.0)

            def update(session: TuningSession) -> None:
                bar.update(shown, completed=_part(session), description=_line(session))

            yield update
        return
    last = [time.monotonic()]

    def say(session: TuningSession) -> None:
        now = time.monotonic()
        if now - last[0] >= _SAY_EVERY_S:
            last[0] = now
            print(_line(session), file=sys.stderr, flush=True)

    yield say


def _part(session: TuningSession) -> float:
    """How much of the budget is spent."""
    parts = []
    left = session.left_trials
    if left is not None:
        parts.append(session.trials / max(session.trials + left, 1))
    if session.budget.seconds is not None:
        parts.append(session.elapsed_s / session.budget.seconds)
    return min(1.0, max(parts))


def _line(session: TuningSession) -> str:
    """One line about a session."""
    before, best = session.seconds(best=False), session.seconds()
    text = f"{session.trials} trials"
    if best is not None and before is not None:
        text += f", kernels {1e3 * best:.3f} ms, {before / best:.3f} times faster than untuned"
    part = _part(session)
    if part > 0:
        minutes, seconds = divmod(round(session.elapsed_s * (1 - part) / part), 60)
        text += f", {minutes}:{seconds:02d} left"
    return text


def _report(
    args: argparse.Namespace,
    session: TuningSession,
    left_out: dict[str, str],
    interrupted: bool,
) -> None:
    from .. import report
    from ..tuning.records_file import read_records

    before, best = session.seconds(best=False), session.seconds()
    if args.plot is not None:
        report.plot_tuning(Path(args.plot), session, read_records(args.records))
    if args.json:
        options.show_json(
            {
                "model": args.model,
                "records": str(args.records),
                "strategy": session.strategy,
                "seed": session.seed,
                "trials": session.trials,
                "seconds": round(session.elapsed_s, 1),
                "interrupted": interrupted,
                "kernels_ms": {
                    "untuned": None if before is None else 1e3 * before,
                    "tuned": None if best is None else 1e3 * best,
                },
                "tasks": [report.task_row(own) for own in session.progress],
                "left_out": left_out,
            }
        )
        return
    lines = [f"left alone: {name}: {reason}" for name, reason in left_out.items()]
    total = (
        ""
        if best is None or before is None
        else (
            f"kernels of an inference: {1e3 * before:.3f} ms untuned, {1e3 * best:.3f} ms tuned "
            f"({before / best:.3f} times faster); records: {args.records}"
        )
    )
    options.show(report.tuning_table(session.progress), *lines, total)
    if interrupted:
        print("interrupted: what was measured is in the records", file=sys.stderr)
