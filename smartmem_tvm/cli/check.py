"""Compile a model, run it on seeded random inputs and compare the outputs with onnxruntime's."""

from __future__ import annotations

import argparse

from . import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_model(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: 0)")
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="inferences to time (default: 5)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest relative error that passes (default: 1e-3 in float32, 2e-2 in float16)",
    )
    options.add_host(parser)
    options.add_records(parser)
    options.add_common(parser)
    options.add_rpc(parser)


def run(args: argparse.Namespace) -> int:
    """Check; exit code 1 when an output is above the tolerance."""
    from .. import report
    from ..checking import check

    with options.remote(args) as remote, options.progress() as progress:
        result = check(
            args.model,
            args.device,
            dtype=args.dtype,
            shapes=options.shapes(args),
            seed=args.seed,
            repeats=args.repeats,
            tolerance=args.tolerance,
            host=args.host,
            linker=args.linker,
            records=args.records,
            opencl_device=args.opencl_device,
            rpc=remote,
            progress=progress,
        )
    if args.json:
        options.show_json(
            {
                "model": result.model,
                "device": result.profile,
                "dtype": result.dtype,
                "passed": result.passed,
                "max_rel_error": result.max_rel_error,
                "tolerance": result.tolerance,
                "errors": result.errors,
                "operators": result.operators,
                "kernels": result.kernels,
                "layout_kernels": result.layout_kernels,
                "latency_ms": result.latency_ms,
            }
        )
    else:
        tables = [report.check_table(result)]
        if len(result.errors) > 1:
            tables.append(report.summary_table("Relative error by output", result.errors))
        options.show(*tables, "passed" if result.passed else "FAILED: the error is too large")
    return 0 if result.passed else 1
