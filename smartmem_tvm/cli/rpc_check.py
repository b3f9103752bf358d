"""Check the way to a device behind RPC step by step, and say what to do where it ends."""

from __future__ import annotations

import argparse

from ..errors import SmartMemError
from . import options

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_rpc(parser)
    parser.add_argument(
        "--opencl-device",
        metavar="INDEX",
        default="0",
        help="which OpenCL device of the server (default: 0)",
    )
    options.add_host(parser)
    parser.add_argument(
        "--json", action="store_true", help="print JSON, and nothing else, to stdout"
    )


def run(args: argparse.Namespace) -> int:
    """Walk the steps; exit code 1 when one failed."""
    if args.rpc is None or args.key is None:
        raise SmartMemError("--rpc HOST:PORT and --key KEY are needed: they say what to check.")
    if not args.opencl_device.isdecimal():
        raise SmartMemError(
            f"--opencl-device '{args.opencl_device}': behind --rpc a device is chosen by its index."
        )
    if not 0 < args.rpc_timeout <= 3600:
        raise SmartMemError(
            f"--rpc-timeout {args.rpc_timeout:g}: a number of seconds from 0 to 3600 is expected."
        )
    from ..rpc.check import STEPS, check

    with options.progress() as progress:
        report = check(
            args.rpc,
            args.key,
            device=int(args.opencl_device),
            timeout=args.rpc_timeout,
            host=args.host,
            linker=args.linker,
            progress=None if progress is None else lambda name: progress(STEPS[name]),
        )
    if args.json:
        options.show_json({"steps": report.steps, "ok": report.ok})
        return 0 if report.ok else 1
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{escape(args.rpc)} key '{escape(args.key)}'", title_justify="left")
    for column in ("step", "", "found", "s"):
        table.add_column(column, overflow="fold", justify="right" if column == "s" else "left")
    for step in report.steps:
        text = escape(step.found)
        if step.remedy:
            text += f"\n[bold]What to do:[/bold] {escape(step.remedy)}"
        status = f"[{_STYLES[step.status]}]{step.status}[/]"
        seconds = f"{step.seconds:.1f}" if step.status != "skipped" else ""
        table.add_row(escape(STEPS[step.name]), status, text, seconds)
    options.show(table, "all steps passed" if report.ok else "FAILED")
    return 0 if report.ok else 1
