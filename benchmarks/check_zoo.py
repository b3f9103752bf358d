"""Checks the zoo on every OpenCL driver of this machine: ``make check-zoo``.

Each check is a process of its own with limits on time and memory: `smartmem check` on a driver,
and for Oclgrind one inference with its checks of memory accesses and data races. Results are
written after every check, to a file that the next run goes on from: what passed with the same
compiler and the same graph is not repeated. Ends with status 1 when a check failed.

    python benchmarks/check_zoo.py                                    micro and small, all drivers
    python benchmarks/check_zoo.py --sizes full --drivers intel --memory-limit 20 --time-limit 3600
    python benchmarks/check_zoo.py --drivers oclgrind-uninitialized   also uninitialised values
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limited_process import GIB, Limits, Outcome, ending, last_line, run
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import smartmem_tvm
from smartmem_tvm import zoo
from smartmem_tvm.whole_files import write_json
from smartmem_tvm.zoo.registry import graph_file

OUTPUT = Path(__file__).with_name("zoo_checks.json")
SCHEMA = 1
SIZES = ("micro", "small", "full")
# What has no part in whether a model compiles and computes right.
_BESIDE = ("bench", "report", "cli", "rpc", "tuning")
_SHOWN = 300

# Its device has 128 MB unless told otherwise.
_OCLGRIND = ["oclgrind", "--global-mem-size", str(2 * GIB), "--max-errors", "100"]


@dataclass(frozen=True)
class Driver:
    """An OpenCL driver, how a check reaches it and which sizes it is fast enough for."""

    selector: str
    sizes: tuple[str, ...] = SIZES
    simulator: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


DRIVERS = {
    "intel": Driver("intel"),
    "pocl": Driver("pocl"),
    "rusticl": Driver("llvmpipe", environment=(("RUSTICL_ENABLE", "llvmpipe"),)),
    "oclgrind": Driver("oclgrind", ("micro",), (*_OCLGRIND, "--data-races")),
    # Oclgrind 21.10 stops at an instruction that clang's optimiser makes (freeze) when it looks
    # for uninitialised values, so kernels are not optimised: minutes per model.
    "oclgrind-uninitialized": Driver(
        "oclgrind",
        ("micro",),
        (*_OCLGRIND, "--uninitialized", "--build-options", "-cl-opt-disable"),
    ),
}
DEFAULT_DRIVERS = ("intel", "pocl", "oclgrind")


def main(arguments: list[str] | None = None) -> int:
    """Run the checks that are asked for and not there yet."""
    options = _parse(arguments)
    if options.worker:
        return simulate(options.worker, options.device, options.dtype)
    settings = {"device": options.device, "dtype": options.dtype}
    limits = Limits(options.time_limit, int(options.memory_limit * GIB))
    rows = {} if options.fresh else read_rows(options.output, settings)
    code = compiler_fingerprint()
    skipped = {
        name: reason for name in options.drivers if (reason := missing(DRIVERS[name])) is not None
    }
    wanted = [
        (model, size, driver)
        for size in options.sizes
        for driver in options.drivers
        if size in DRIVERS[driver].sizes and driver not in skipped
        for model in options.models
        if size in _sizes_of(model)
    ]

    def store() -> None:
        write_document(options.output, settings, skipped, rows)

    def check_all(say: Callable[[str], None], advance: Callable[[str], None]) -> None:
        for driver, reason in skipped.items():
            say(f"{driver} is skipped: {reason}")
        for model, size, driver in wanted:
            key = f"{model}/{size} {driver}"
            advance(key)
            graph = graph_fingerprint(model, size)
            done = rows.get(key)
            if done and done["passed"]:
                same = (done["code"], done["graph"]) == (code, graph)
                if same or options.keep_passed:
                    continue
            row = {"model": model, "size": size, "driver": driver}
            row |= check(DRIVERS[driver], f"zoo:{model}/{size}", settings, limits)
            rows[key] = row | {"code": code, "graph": graph}
            store()
            say(f"{key}: {brief(row)}")

    _with_progress(len(wanted), check_all)
    store()
    failed = [key for row in wanted if not rows[key := f"{row[0]}/{row[1]} {row[2]}"]["passed"]]
    print(f"{len(wanted) - len(failed)} of {len(wanted)} checks passed; results: {options.output}")
    for key in failed:
        print(f"FAILED {key}: {rows[key]['reason']}")
    return 1 if failed else 0


def check(driver: Driver, model: str, settings: dict[str, str], limits: Limits) -> dict[str, Any]:
    """Check one model on one driver; a row without its names."""
    environment = {"SMARTMEM_OPENCL_DEVICE": driver.selector, **dict(driver.environment)}
    common = ["--device", settings["device"], "--dtype", settings["dtype"]]
    with tempfile.TemporaryDirectory(prefix="smartmem-check-") as folder:
        log = Path(folder) / "findings"
        if driver.simulator:
            # Stored programs would come from another simulator's run, with other options.
            environment["SMARTMEM_CACHE_DIR"] = "off"
            script = [sys.executable, __file__, "--worker", model]
            command = [*driver.simulator, "--log", str(log), *script, *common]
        else:
            cli = [sys.executable, "-m", "smartmem_tvm.cli.main", "check", model]
            command = [*cli, "--json", "--repeats", "1", *common]
        outcome = run(command, environment, limits)
        findings = log.read_text(errors="replace").strip() if log.exists() else ""
    return judge(outcome, findings)


def judge(outcome: Outcome, findings: str) -> dict[str, Any]:
    """Passed, or why not, from how a check's process ended and what the simulator reported."""
    result: dict[str, Any] = {}
    reason = outcome.passed_limit
    if reason is None:
        try:
            result = json.loads(outcome.stdout)
        except ValueError:
            reason = f"{ending(outcome.code)}: {last_line(outcome.stderr)}"
    if reason is None and findings:
        lines = [line.strip() for line in findings.splitlines() if line.strip()]
        reason = f"the simulator reports: {' | '.join(lines[:4])}"
    if reason is None and not result["passed"]:
        reason = f"wrong: the error is above {result['tolerance']:g}"
    return {
        "passed": reason is None,
        "reason": None if reason is None else reason[:_SHOWN],
        "max_rel_error": result.get("max_rel_error"),
        "kernels": result.get("kernels"),
        "layout_kernels": result.get("layout_kernels"),
        "seconds": round(outcome.seconds, 1),
        "peak_memory_gib": round(outcome.peak_memory / GIB, 2),
    }


def simulate(model: str, device: str, dtype: str) -> int:
    """What `smartmem check` does, with one inference: in a simulator each takes its time."""
    from smartmem_tvm.checking import TOLERANCE, output_errors
    from smartmem_tvm.frontend import import_model, random_inputs, reference_outputs

    imported = import_model(model)
    artifact = smartmem_tvm.compile(imported, device, dtype=dtype)
    inputs = random_inputs(imported.inputs)
    expected = reference_outputs(imported, inputs)
    error = max(output_errors(artifact.run(inputs), expected).values())
    result = {
        "passed": error <= TOLERANCE[dtype],
        "tolerance": TOLERANCE[dtype],
        "max_rel_error": error,
        "kernels": artifact.manifest.launches,
        "layout_kernels": artifact.manifest.layout_launches,
    }
    print(json.dumps(result))
    return 0


def missing(driver: Driver) -> str | None:
    """Why a driver cannot be used here; None when it can."""
    if driver.simulator and shutil.which(driver.simulator[0]) is None:
        return f"{driver.simulator[0]} is not installed"
    probe = [sys.executable, "-c", "from smartmem_tvm import runtime; runtime.device()"]
    environment = {"SMARTMEM_OPENCL_DEVICE": driver.selector, **dict(driver.environment)}
    outcome = run([*driver.simulator, *probe], environment, Limits(60.0, 4 * GIB))
    return None if outcome.code == 0 else last_line(outcome.stderr)


def compiler_fingerprint() -> str:
    """A hash of the sources that decide what a model is compiled to and how it runs."""
    digest = hashlib.sha256()
    package = Path(smartmem_tvm.__file__).resolve().parent
    mapped = [Path(module.__path__[0]) for module in (smartmem_tvm.passes, smartmem_tvm.schedules)]
    for root in (package, *mapped):
        for path in sorted(root.rglob("*")):
            place = path.relative_to(root)
            if path.suffix in {".py", ".toml", ".cc", ".h"} and place.parts[0] not in _BESIDE:
                digest.update(f"{place}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def graph_fingerprint(model: str, size: str) -> str:
    """A hash of a stored graph and of how its weights are drawn."""
    drawing = Path(zoo.__path__[0]) / "seeding.py"
    stored = graph_file(model, size).read_bytes()
    return hashlib.sha256(stored + drawing.read_bytes()).hexdigest()[:12]


def read_rows(path: Path, settings: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run by what they check; none if it had other settings."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    if document.get("schema") != SCHEMA or document.get("settings") != settings:
        raise SystemExit(
            f"'{path}' holds checks with {document.get('settings')}, and {settings} is asked for: "
            "give another --output, or --fresh to replace it."
        )
    return {f"{row['model']}/{row['size']} {row['driver']}": row for row in document["rows"]}


def write_document(
    path: Path,
    settings: dict[str, str],
    skipped: dict[str, str],
    rows: dict[str, dict[str, Any]],
) -> None:
    """Write the results, whole or not at all, in an order of their own."""
    order = {name: index for index, name in enumerate((*SIZES, *DRIVERS))}
    ordered = sorted(
        rows.values(), key=lambda r: (order[r["size"]], order[r["driver"]], r["model"])
    )
    document = {"schema": SCHEMA, "settings": settings, "skipped": skipped, "rows": ordered}
    write_json(path, document)


def brief(row: dict[str, Any]) -> str:
    """One line about a check."""
    taken = f"{row['seconds']:.0f} s, {row['peak_memory_gib']:.1f} GiB"
    if not row["passed"]:
        return f"FAILED: {row['reason']} ({taken})"
    kernels = f"{row['kernels']} kernels, {row['layout_kernels']} of them layout"
    return f"passed, error {row['max_rel_error']:.1e}, {kernels} ({taken})"


def _with_progress(total: int, work: Callable[..., None]) -> None:
    """Run `work` with a progress bar on a terminal, with lines elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        work(lambda text: print(text, file=sys.stderr, flush=True), lambda key: None)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    text = TextColumn("{task.description}", markup=False)
    with Progress(*columns, text, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=total)
        started = 0

        def advance(key: str) -> None:
            nonlocal started
            progress.update(task, completed=started, description=key)
            started += 1

        work(lambda line: progress.console.print(line, markup=False), advance)
        progress.update(task, completed=total, description="done")


def _sizes_of(model: str) -> list[str]:
    return next(list(entry["sizes"]) for entry in zoo.list_models() if entry["name"] == model)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    known = [str(entry["name"]) for entry in zoo.list_models()]

    def names(allowed: list[str]) -> Callable[[str], list[str]]:
        def split(text: str) -> list[str]:
            values = [value.strip() for value in text.split(",") if value.strip()]
            unknown = [value for value in values if value not in allowed]
            if unknown or not values:
                raise argparse.ArgumentTypeError(
                    f"'{', '.join(unknown) or text}': choose from {', '.join(allowed)}"
                )
            return values

        return split

    parser = argparse.ArgumentParser(description="Check the zoo on the OpenCL drivers here.")
    parser.add_argument("--models", type=names(known), default=known, metavar="A,B")
    parser.add_argument("--sizes", type=names(list(SIZES)), default=["micro", "small"])
    parser.add_argument("--drivers", type=names(list(DRIVERS)), default=list(DEFAULT_DRIVERS))
    parser.add_argument("--device", default="auto", metavar="PROFILE", help="device profile")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="results (%(default)s)")
    parser.add_argument("--time-limit", type=float, default=1200.0, help="seconds for a check")
    parser.add_argument("--memory-limit", type=float, default=8.0, help="GiB for a check")
    parser.add_argument("--fresh", action="store_true", help="repeat what is there")
    parser.add_argument(
        "--keep-passed",
        action="store_true",
        help="keep what passed with another version of the compiler or of the graph",
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
