"""Measure models on this package and its peers, in turns, and keep the results in a file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from . import options

if TYPE_CHECKING:
    from ..bench.harness import Watcher
    from ..bench.results import Document, Record
    from ..bench.runners import RpcAddress
    from ..bench.settings import Settings

_GIB = 1 << 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--models",
        metavar="A,B",
        help="models of the zoo, as NAME or NAME/SIZE, or ONNX files (default: all of the size)",
    )
    parser.add_argument("--size", default="full", help="size of the models (default: full)")
    parser.add_argument(
        "--against",
        default="",
        metavar="A,B",
        help="runners to compare with, as NAME[:key=value…]: smartmem, which is always in, tvm, "
        "tvm-adreno, onnxruntime, mnn, openvino, numpy-gemm, copy-bandwidth",
    )
    parser.add_argument(
        "--ablate",
        default="",
        metavar="A,B",
        help="also measure this package without a part of it: A makes the runner smartmem-no-A, "
        "A+B one without both; an unknown name lists those that exist",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        metavar="N",
        help="inferences to time (default: 5; at most 3 where one takes over 20 s)",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="results file, written after every model; an interrupted run with the same settings "
        "goes on from it (default: smartmem-bench-SIZE.json)",
    )
    parser.add_argument(
        "--prepare-only",
        action="store_true",
        help="compile, count and compare, and measure nothing: the same command without this "
        "option then only measures, on a machine that should be idle",
    )
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        help="folder for what is compiled, kept for later runs (default: the results file's name "
        "with .work)",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="do not go on from an interrupted run and compile everything again",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--time-limit",
        type=float,
        default=900.0,
        metavar="SECONDS",
        help="for one model on one runner, loading included (default: 900)",
    )
    limits.add_argument(
        "--memory-limit",
        type=float,
        metavar="GIB",
        help="for all processes of a model together (default: 80 %% of what is free)",
    )
    limits.add_argument(
        "--threads", type=int, default=2, help="processors for each runner (default: 2)"
    )
    options.add_host(parser)
    options.add_common(parser)
    options.add_rpc(parser)


def run(args: argparse.Namespace) -> int:
    """Measure; exit code 1 when this package failed or was wrong on a model."""
    from ..bench.harness import run as measure
    from ..bench.runners import ABLATED, OURS, parse_choices
    from ..bench.settings import Settings, choose_models

    options.at_least(args, repeats=1, threads=1, time_limit=1, memory_limit=0.01)
    models = choose_models(_names(args.models or ""), args.size)
    ablated = [f"{ABLATED}{name}" for name in _names(args.ablate)]
    choices = parse_choices([*_names(args.against), *ablated])
    output = Path(args.output or f"smartmem-bench-{args.size}.json")
    rpc, servers = _rpc(args)
    settings = Settings(
        models=models,
        choices=tuple(choices),
        work=Path(args.work or output.with_suffix(".work")).absolute(),
        repeats=args.repeats,
        device=args.device,
        opencl_device=args.opencl_device,
        dtype=args.dtype,
        host=args.host,
        linker=args.linker,
        rpc=rpc,
        servers=servers,
        threads=min(args.threads, os.cpu_count() or 1),
        time_limit_s=args.time_limit,
        memory_limit=int((args.memory_limit or 0) * _GIB),
    )
    with _watcher() as watcher:
        document = measure(
            settings,
            args.size,
            output.absolute(),
            watcher,
            fresh=args.fresh,
            prepare_only=args.prepare_only,
        )
    asked = {(model.name, model.size) for model in models}
    records = [each for each in document.records() if (each.model, each.size) in asked]
    _show(args, document, records, settings, output)
    ours = [record for record in records if record.runner == OURS]
    return 0 if all(record.status == "ok" for record in ours) else 1


def _show(
    args: argparse.Namespace,
    document: Document,
    records: list[Record],
    settings: Settings,
    output: Path,
) -> None:
    from ..bench.results import geomean_ratios
    from ..bench.tables import result_tables

    if not args.json:
        options.show(*result_tables(document, records), f"results: {output}")
        return
    rows = [record.row() for record in records]
    for choice in settings.choices:
        if choice.is_probe and choice.name in document.probes:
            probe = document.probes[choice.name]
            rows.append(
                {
                    "model": "machine",
                    "size": "",
                    "runner": choice.label,
                    "latency_ms": probe["latency_ms"],
                    "kernels": None,
                    "max_rel_error": None,
                    "failed": probe["failed"],
                }
            )
    options.show_json(
        {
            "rows": rows,
            "records": records,
            "skipped": document.skipped,
            "geomean_ratio": geomean_ratios(records),
            "probes": document.probes,
            "environment": document.environment,
            "results": str(output),
        }
    )


def _rpc(args: argparse.Namespace) -> tuple[RpcAddress | None, int | None]:
    """Address of ``--rpc`` and ``--key`` and the number of its servers; None without them."""
    # The session is closed again: each runner opens one from its own process.
    with options.remote(args) as remote:
        if remote is None:
            return None, None
    from ..bench.remote import count_servers
    from ..bench.runners import RpcAddress

    address = RpcAddress(args.rpc, args.key, args.rpc_timeout)
    return address, count_servers(address)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@contextmanager
def _watcher() -> Iterator[Watcher]:
    """Progress bar on a terminal, a line per model elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(progress)


class _Lines:
    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def model(self, name: str, index: int, total: int) -> None:
        self.note(f"[{index + 1}/{total}] {name}")

    def stage(self, text: str) -> None:
        pass

    def measured(self, records: list[Record]) -> None:
        self.note("  " + ", ".join(map(_brief, records)))


class _Bar:
    def __init__(self, progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None)
        self._model = ""

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def model(self, name: str, index: int, total: int) -> None:
        self._model = name
        self._progress.update(self._task, completed=index, total=total, description=name)

    def stage(self, text: str) -> None:
        self._progress.update(self._task, description=f"{self._model}  {text}")

    def measured(self, records: list[Record]) -> None:
        self._progress.advance(self._task)
        self.note(f"{self._model}: {', '.join(map(_brief, records))}")


def _brief(record: Record) -> str:
    if record.failed is not None:
        return f"{record.runner} {record.failed.partition(':')[0]}"
    if record.latency_ms is None:
        return f"{record.runner} prepared"
    return f"{record.runner} {record.latency_ms['median']:.2f} ms"
