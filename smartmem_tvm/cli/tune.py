"""Tune a model's kernels on a device; what is measured goes to a file of records."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options

if TYPE_CHECKING:
    from ..tuning.session import TuningSession

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
    from ..tuning.measure import MeasureLimits
    from ..tuning.strategies import DEFAULT
    from ..tuning.tune import open_session

    options.at_least(args, time_limit=1, memory_limit=0.1, repeats=1, servers=1)
    budget = _budget(args)
    with ExitStack() as opened:
        with options.progress() as stage:
            session = opened.enter_context(
                open_session(
                    args.model,
                    args.device,
                    records=args.records,
                    budget=budget,
                    strategy=args.strategy or DEFAULT,
                    seed=args.seed,
                    tasks=_names(args.tasks),
                    dtype=args.dtype,
                    shapes=options.shapes(args),
                    host=args.host,
                    opencl_device=args.opencl_device,
                    rpc=options.tracker(args),
                    rpc_timeout=args.rpc_timeout,
                    servers=args.servers,
                    limits=MeasureLimits(
                        args.time_limit, int(args.memory_limit * (1 << 30)), args.repeats
                    ),
                    progress=stage,
                )
            )
        watch = opened.enter_context(_watching())
        interrupted = _run(session, watch)
    _report(args, session, interrupted)
    if interrupted:
        return 130
    return 0 if any(own.best_s is not None for own in session.progress) else 1


def _run(session: TuningSession, watch: Callable[[TuningSession], None]) -> bool:
    """Run a session; whether it was interrupted. All outcomes until then are kept."""
    try:
        session.run(watch)
    except KeyboardInterrupt:
        return True
    return False


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _budget(args: argparse.Namespace) -> Any:
    from ..tuning.session import Budget

    minutes = args.minutes
    if args.trials is None and args.trials_per_task is None and minutes is None:
        minutes = DEFAULT_MINUTES
    return Budget(args.trials, args.trials_per_task, None if minutes is None else 60.0 * minutes)


@contextmanager
def _watching() -> Iterator[Callable[[TuningSession], None]]:
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


def _report(args: argparse.Namespace, session: TuningSession, interrupted: bool) -> None:
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
                "left_out": session.left_out,
            }
        )
        return
    lines = [f"left alone: {name}: {reason}" for name, reason in session.left_out.items()]
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
