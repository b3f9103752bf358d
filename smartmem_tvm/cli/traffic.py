"""Measure memory traffic: footprint, compulsory, estimated, and executed under Oclgrind."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL|ARTIFACT",
        help="ONNX file, zoo:NAME[/SIZE], or a folder that `smartmem compile` wrote",
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="INPUT=N,N,…",
        help="shape of an input that the model leaves open; may be given several times",
    )
    parser.add_argument(
        "--executed",
        action="store_true",
        help="also interpret one inference in Oclgrind and count what it loads and stores (about "
        "2 MFLOP a second)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="how long Oclgrind may take (default: 3600)",
    )
    options.add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Compile or load, count, and print."""
    from .. import report
    from ..artifact import Artifact
    from ..compiler import compile as compile_model
    from ..frontend import import_model
    from ..traffic import compulsory, compulsory_of_folder, executed

    options.at_least(args, timeout=0.1)
    if Path(args.model).is_dir():
        artifact = Artifact.load(args.model)
        needed = compulsory_of_folder(args.model)
    else:
        with options.progress() as progress:
            imported = import_model(args.model, shapes=options.shapes(args))
            artifact = compile_model(
                imported,
                args.device,
                dtype=args.dtype,
                opencl_device=args.opencl_device,
                progress=progress,
            )
        needed = compulsory(imported.mod, dtype=args.dtype)
    manifest = artifact.manifest
    counts = executed(artifact, timeout_s=args.timeout) if args.executed else None
    by_name = {kernel.name: kernel for kernel in counts.kernels} if counts else {}
    kernels = [
        {
            "name": kernel.name,
            "launches": kernel.calls,
            "footprint": kernel.footprint_bytes,
            "executed": by_name.get(kernel.name),
        }
        for kernel in manifest.kernels
    ]
    document: dict[str, Any] = {
        "model": manifest.model,
        "device": manifest.profile_name,
        "dtype": manifest.dtype,
        "traffic_bytes": {
            "footprint": total_footprint(manifest.kernels),
            "compulsory": needed.total,
            "executed": counts.bytes if counts else None,
        },
        "compulsory": needed,
        "executed": counts.total if counts else None,
        "kernels": kernels,
    }
    if args.json:
        options.show_json(document)
        return 0
    title = f"{manifest.model}, {manifest.dtype}, device profile {manifest.profile_name}"
    named = {f"{name} bytes": value for name, value in document["traffic_bytes"].items()}
    options.show(
        report.summary_table(title, {k: "not known" if v is None else v for k, v in named.items()}),
        report.summary_table(
            "Bytes by kernel, all launches (footprint, executed)",
            {kernel["name"]: _pair(kernel) for kernel in kernels},
        ),
    )
    return 0


def total_footprint(kernels: Any) -> int | None:
    """Footprint of one inference from the kernels of a manifest; None where one is symbolic."""
    if any(kernel.footprint_bytes is None for kernel in kernels):
        return None
    return sum(kernel.calls * kernel.footprint_bytes for kernel in kernels)


def _pair(kernel: dict[str, Any]) -> str:
    footprint = kernel["footprint"]
    left = "symbolic" if footprint is None else str(kernel["launches"] * footprint)
    counted = kernel["executed"]
    return left if counted is None else f"{left}  {counted.traffic}"
