"""How close to the machine are our kernels, and how far before TVM's?  Kernels of the zoo.

::

    python benchmarks/kernels/bench_kernels.py --prepare-only     # on a busy machine
    python benchmarks/kernels/bench_kernels.py                    # on an idle one

Draws fused kernels of the zoo's models (:mod:`kernel_pool`, :mod:`kernel_drawing`), builds each as
our pipeline and as TVM's default one would (:mod:`kernel_builds`), compares their outputs
(:mod:`kernel_checking`) and times them in turns (:mod:`kernel_measuring`). The bound of a kernel
is its arithmetic at the peak of NumPy's matrix product, or its compulsory bytes at the bandwidth of
a copy on the device, whichever takes longer.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernel_builds import PARTS, VERSIONS
from kernel_checking import check_outputs
from kernel_drawing import draw
from kernel_measuring import Results, machine_of, measure, read_results
from kernel_preparation import Bench, build_kernels, read_models
from kernel_showing import find_kernel, show
from kernel_tables import print_results
from kernel_workers import Limits
from rich.console import Console

from smartmem_tvm import zoo
from smartmem_tvm.bench.machine import code_digest, commit, environment
from smartmem_tvm.bench.plots import MISSING
from smartmem_tvm.bench.settings import choose_models
from smartmem_tvm.errors import SmartMemError

OUTPUT = Path(__file__).resolve().parent.parent / "results" / "kernels.json"
# Their weights take more memory than reading them for a few kernels is worth.
LARGE_MODELS = ("sd-unet", "pythia")
GIB = 1 << 30


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", help=f"all of the zoo but {' and '.join(LARGE_MODELS)} by default"
    )
    parser.add_argument("--size", default="full")
    parser.add_argument("--count", type=int, default=320, help="kernels (320)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", default="cpu", help="device profile to compile for (cpu)")
    parser.add_argument("--device", nargs="+", default=["Intel"], help="OpenCL devices (Intel)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-ours", action="store_true", help="leave TVM's kernels out")
    parser.add_argument("--time-limit", type=float, default=60.0, help="seconds of a request (60)")
    parser.add_argument("--memory-limit", type=float, default=5.0, help="GiB of a process (5)")
    parser.add_argument("--work", type=Path, help="folder of what is prepared; beside the output")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--prepare-only", action="store_true", help="compile, and time nothing")
    parser.add_argument("--redraw", action="store_true", help="read the models anew")
    parser.add_argument("--fresh", action="store_true", help="continue no results; time all anew")
    parser.add_argument("--table", action="store_true", help="print the results that there are")
    parser.add_argument(
        "--show",
        nargs=2,
        metavar=("MODEL", "KERNEL"),
        help="print, build and time one kernel, whether drawn or not",
    )
    return parser.parse_args()


def bench_of(options: argparse.Namespace) -> Bench:
    names = options.models
    if names is None:
        listed = [str(model["name"]) for model in zoo.list_models()]
        names = [name for name in listed if name not in LARGE_MODELS]
    return Bench(
        choose_models(names, options.size),
        options.count,
        options.seed,
        options.profile,
        (options.work or options.output.with_suffix(".work")).resolve(),
        Limits(options.time_limit, int(options.memory_limit * GIB), options.threads),
        ("ours",) if options.only_ours else VERSIONS,
    )


def settings(options: argparse.Namespace, bench: Bench) -> dict:
    return {
        "models": [model.key for model in bench.models],
        "versions": list(bench.versions),
        **{name: getattr(options, name) for name in _DECISIVE},
    }


_DECISIVE = ("count", "seed", "profile", "device", "repeats", "threads", "time_limit")


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show_one(options: argparse.Namespace, console: Console) -> None:
    model, name = options.show
    options.models = [model]
    bench = bench_of(options)
    entry = find_kernel(read_models(bench, note), model, name)
    results = read_results(options.output) if options.output.exists() else None
    show(bench, entry, options.device[0], options.repeats, results, console)


def run(options: argparse.Namespace, console: Console) -> None:
    bench = bench_of(options)
    entries = draw(read_models(bench, note, options.redraw), bench.count, bench.seed)
    build_kernels(bench, entries, note)
    for device in options.device:
        check_outputs(bench, entries, device, note)
    if options.prepare_only:
        return
    devices = {name: environment(name)["opencl_device"] for name in options.device}
    here = {**environment(None), "opencl_device": devices}
    results = Results(settings(options, bench), here, commit(), code_digest(PARTS))
    if options.output.exists():
        old = read_results(options.output)
        if results.matches(old) and not old.complete and not options.fresh:
            results = old
        else:
            os.replace(options.output, options.output.with_name(f"{options.output.name}.previous"))
    results.left_out = bench.left_out
    results.load_average = list(os.getloadavg())
    measure(bench, entries, options.device, options.repeats, results, options.output, note)
    draw_plots(results, options.output)
    print_all(results, console)


def draw_plots(results: Results, output: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        note(f"no plot: {MISSING}")
        return
    from kernel_plot import draw_roofline

    for number, (device, kernels) in enumerate(results.kernels.items()):
        names = (output.stem, "roofline") if not number else (output.stem, device, "roofline")
        about = results.environment["opencl_device"][device]["name"]
        title = f"Kernels of the zoo on {about}"
        path = output.with_name(f"{'-'.join(names)}.svg")
        draw_roofline(kernels, machine_of(results, device), title, path)


def print_all(results: Results, console: Console) -> None:
    for device in results.kernels:
        print_results(results, device, console)


def main() -> int:
    options = parse_arguments()
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        if options.show:
            show_one(options, console)
        elif options.table:
            print_all(read_results(options.output), console)
        else:
            run(options, console)
    except SmartMemError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
