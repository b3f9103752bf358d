"""Show what a model was compiled into: operators, kernels, and what only moves data."""

from __future__ import annotations

import argparse

from . import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_model(parser)
    options.add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Compile and describe; nothing is launched."""
    from .. import report
    from ..compiler import compile as compile_model

    with options.progress() as progress:
        manifest = compile_model(
            args.model,
            args.device,
            dtype=args.dtype,
            shapes=options.shapes(args),
            opencl_device=args.opencl_device,
            progress=progress,
        ).manifest
    if args.json:
        options.show_json(
            {
                "model": manifest.model,
                "device": manifest.profile_name,
                "dtype": manifest.dtype,
                "operators": manifest.operators,
                "kernels": manifest.launches,
                "layout_kernels": manifest.layout_launches,
                "per_kernel": manifest.kernels,
                "stages_s": manifest.stages_s,
            }
        )
        return 0
    options.show(
        report.summary_table(
            f"{manifest.model}, {manifest.dtype}, device profile {manifest.profile_name}",
            {
                "operators": manifest.operators,
                "kernels": manifest.launches,
                "layout kernels": manifest.layout_launches,
            },
        ),
        report.kernel_table(manifest.kernels),
        report.summary_table("Seconds by stage", manifest.stages_s),
    )
    return 0
