"""Compile a model into an artefact: a folder that can be run, checked and shipped."""

from __future__ import annotations

import argparse

from . import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_model(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="folder to write")
    options.add_host(parser)
    options.add_records(parser)
    options.add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Compile and export."""
    from .. import report
    from ..compiler import compile as compile_model

    with options.progress() as progress:
        artifact = compile_model(
            args.model,
            args.device,
            dtype=args.dtype,
            host=args.host,
            shapes=options.shapes(args),
            opencl_device=args.opencl_device,
            linker=args.linker,
            records=args.records,
            progress=progress,
        )
        if progress is not None:
            progress("export")
        folder = artifact.export(args.output)
    manifest = artifact.manifest
    if args.json:
        options.show_json(
            {
                "artifact": str(folder),
                "model": manifest.model,
                "device": manifest.profile_name,
                "dtype": manifest.dtype,
                "host": manifest.host,
                "operators": manifest.operators,
                "kernels": manifest.launches,
                "layout_kernels": manifest.layout_launches,
                "tuned": len(manifest.tuned),
                "stages_s": manifest.stages_s,
            }
        )
        return 0
    options.show(
        report.summary_table(
            f"{manifest.model} → {folder}",
            {
                "device profile": manifest.profile_name,
                "dtype": manifest.dtype,
                "host": manifest.host,
                "operators": manifest.operators,
                "kernels": manifest.launches,
                "layout kernels": manifest.layout_launches,
                **({"tuned functions": len(manifest.tuned)} if args.records else {}),
                "seconds": sum(manifest.stages_s.values()),
            },
        ),
        report.tensor_table("Inputs", manifest.inputs),
        report.tensor_table("Outputs", manifest.outputs),
    )
    return 0
