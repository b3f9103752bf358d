"""Simulate the caches of a mobile GPU: accesses of every kernel, and misses of every level."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import SmartMemError
from . import options

if TYPE_CHECKING:
    from ..simulation import Counts, KernelSimulation

_LEVELS = {"texture_l1": "texture L1", "buffer_l1": "buffer L1", "l2": "L2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_model(parser)
    parser.add_argument(
        "--caches",
        metavar="FILE|NAME",
        help="cache configurations: a JSON file, or small, medium or large (default: these three)",
    )
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="simulate about N work-groups of each launch and estimate the others (default: all)",
    )
    options.add_disable(parser)
    options.add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run the pipeline up to scheduled kernels, trace each, and print."""
    from ..devices import resolve_profile
    from ..frontend import import_model
    from ..simulation import load_configurations, simulate_model

    if args.sample is not None and args.sample < 1:
        raise SmartMemError(f"--sample {args.sample}: at least one work-group is needed.")
    configurations = load_configurations(args.caches)
    with options.progress() as progress:
        imported = import_model(args.model, shapes=options.shapes(args))
        profile = resolve_profile(args.device, args.opencl_device)
        found = simulate_model(
            imported.mod,
            profile.target(None),
            configurations,
            dtype=args.dtype,
            disable=args.disable,
            sample=args.sample,
            progress=progress,
        )
    if args.json:
        options.show_json(
            {
                "model": imported.name,
                "device": profile.name,
                "dtype": args.dtype,
                "sample": args.sample,
                "total": _document(found.total),
                "kernels": [_kernel_document(kernel) for kernel in found.kernels],
            }
        )
        return 0
    title = f"{imported.name}, {args.dtype}, device profile {profile.name}"
    options.show(
        _total_table(f"Accesses of one inference: {title}", found.total),
        _cache_table(found.total),
        _kernel_table(found.kernels),
    )
    return 0


def _document(counts: Counts) -> dict[str, Any]:
    return {"requests": counts.accesses.requests, **_plain(counts)}


def _plain(counts: Counts) -> dict[str, Any]:
    return {"accesses": counts.accesses, "caches": counts.caches}


def _kernel_document(kernel: KernelSimulation) -> dict[str, Any]:
    return {
        "name": kernel.name,
        "func": kernel.func,
        "calls": kernel.calls,
        "counts": None if kernel.counts is None else _document(kernel.counts),
        "work_groups": kernel.work_groups,
        "simulated": kernel.simulated,
        "assumed": kernel.assumed,
        "refused": kernel.refused,
    }


def _total_table(title: str, total: Counts) -> Any:
    from .. import report

    accesses = total.accesses
    return report.summary_table(
        title,
        {
            "accesses": accesses.requests,
            "buffer loads": accesses.buffer_loads,
            "buffer stores": accesses.buffer_stores,
            "image reads": accesses.image_reads,
            "image writes": accesses.image_writes,
            "bytes": accesses.bytes,
        },
    )


def _cache_table(total: Counts) -> Any:
    from rich.table import Table

    table = Table(title="Look-ups of lines and misses", title_justify="left")
    table.add_column("caches")
    for name in _LEVELS.values():
        table.add_column(f"{name} look-ups", justify="right")
        table.add_column("misses", justify="right")
    table.add_column("L2 write-backs", justify="right")
    for configuration, counts in total.caches.items():
        levels = [getattr(counts, level) for level in _LEVELS]
        numbers = [str(n) for level in levels for n in (level.lookups, level.misses)]
        table.add_row(configuration, *numbers, str(counts.l2.write_backs))
    return table


def _kernel_table(kernels: tuple[KernelSimulation, ...]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    names = list(next((k.counts.caches for k in kernels if k.counts is not None), {}))
    table = Table(title="Kernels, all launches of each", title_justify="left")
    for heading in ("kernel", "launches", "accesses", *(f"misses, {name}" for name in names)):
        table.add_column(heading, justify="left" if heading == "kernel" else "right")
    table.add_column("notes")
    for kernel in kernels:
        counts = kernel.counts
        if counts is None:
            notes = [f"not simulated: {kernel.refused}"]
            cells = ["" for _ in range(1 + len(names))]
        else:
            notes = list(kernel.assumed)
            if kernel.simulated < kernel.work_groups:
                notes.append(f"{kernel.simulated} of {kernel.work_groups} work-groups")
            each = [counts.accesses.requests, *(counts.caches[name].misses for name in names)]
            cells = [str(kernel.calls * number) for number in each]
        table.add_row(escape(kernel.name), str(kernel.calls), *cells, escape("; ".join(notes)))
    return table
