"""Random kernels by the thousand, launched and compared with NumPy: ``make fuzz-kernels``.

::

    python tests/fuzz/run_kernels.py --count 1000                        Intel's driver, float32
    python tests/fuzz/run_kernels.py --driver pocl --seed 5000
    python tests/fuzz/run_kernels.py --dtype float16                     where the driver has it
    python tests/fuzz/run_kernels.py --driver oclgrind --count 40        memory accesses and races
    python tests/fuzz/run_kernels.py --kind convolution --profile cpu
    python tests/fuzz/run_kernels.py --again build/kernels/1-17.json     one saved kernel

Half of the kernels are scheduled for the processor's profile, the others for one of a GPU, whose
schedules are legal here too; half of them have random layouts. Which ones, their seed says, so
that a saved kernel runs again in the same way. Kernels run in worker processes. What fails is saved
under ``--out``, as it was drawn and minimised. Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fuzz_campaign import Campaign, work
from fuzz_execution import compare
from fuzz_graphs import Graph
from fuzz_kernel_execution import Setting, run_kernels
from fuzz_kernels import KINDS, kernels
from fuzz_layouts import FORMS

PROFILES = ("cpu", "adreno-740", "cpu", "mali-g710", "cpu", "adreno-640", "cpu", "nvidia-opencl")
LOG = "SMARTMEM_OCLGRIND_LOG"
# All findings, as those of later kernels would otherwise be suppressed.
_OCLGRIND = ("oclgrind", "--global-mem-size", str(2 << 30), "--max-errors", "1000000")
SMALL = {"largest": 2_000, "work": 20_000}  # Oclgrind interprets two million operations a second


@dataclass(frozen=True)
class Driver:
    """An OpenCL driver and how a worker reaches it."""

    selector: str
    environment: tuple[tuple[str, str], ...] = ()
    simulator: tuple[str, ...] = ()


DRIVERS = {
    "intel": Driver("intel"),
    "pocl": Driver("pocl"),
    "rusticl": Driver("llvmpipe", (("RUSTICL_ENABLE", "llvmpipe"),)),
    "oclgrind": Driver("oclgrind", simulator=(*_OCLGRIND, "--data-races")),
    # Oclgrind 21.10 stops at instructions that only clang's optimiser makes when it looks for
    # uninitialised values.
    "oclgrind-uninitialized": Driver(
        "oclgrind",
        simulator=(*_OCLGRIND, "--uninitialized", "--build-options", "-cl-opt-disable"),
    ),
}


class BadAccessError(AssertionError):
    """Oclgrind reports an access outside of memory, a race or an uninitialised value."""


def setting_of(graph: Graph, setting: Setting, profile: str | None, layouts: bool | None) -> Any:
    """The setting of one kernel: what is not said follows from its seed."""
    return replace(
        setting,
        profile=profile or PROFILES[graph.seed % len(PROFILES)],
        layouts=bool(graph.seed // len(PROFILES) % 2) if layouts is None else layouts,
    )


def main() -> int:
    """Run what the options ask for; 1 where something failed."""
    options = _options()
    if options.again and not options.direct:
        return _start_again(options)
    if options.again:
        return _run_again(options)
    if options.worker:
        return _work(options)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="smartmem-kernels-") as folder:
        environment = _environment(options, Path(folder))
        worker = _command(options)
        campaign = Campaign(
            options.out,
            [*worker, "--worker"],
            [*worker, "--direct", "--again"],
            options.timeout,
            "kernels",
            "distinct",
            environment,
        )
        total, failed = campaign.run(options.seed, options.count)
    report = {
        **{name: getattr(options, name) for name in ("driver", "dtype", "seed", "profile", "kind")},
        "drawn": total["ran"],
        "kernels_run": total["distinct"],
        "ill_conditioned": total["ill"],
        "functions": total["kernels"],
        "launches": total["launches"],
        "rules": {key[5:]: total[key] for key in sorted(total) if key.startswith("rule ")},
        "layouts": {form: total[form] for form in FORMS if total[form]},
        "operators": {key[3:]: total[key] for key in sorted(total) if key.startswith("op ")},
        "largest_source": total["largest source"],
        "failed": failed,
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(report, indent=1))
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="different kernels to run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--driver", choices=list(DRIVERS), default="intel")
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--kind", choices=list(KINDS), help="only such kernels")
    parser.add_argument("--profile", help="schedule all for this device profile")
    parser.add_argument(
        "--layouts", action=argparse.BooleanOptionalAction, help="random layouts for all, or none"
    )
    parser.add_argument("--small", action="store_true", help="small tensors, as for Oclgrind")
    parser.add_argument("--out", type=Path, default=Path("build/kernels"))
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one kernel")
    parser.add_argument("--again", type=Path, help="run this saved kernel alone, and show it")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--direct", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _command(options: argparse.Namespace) -> list[str]:
    command = [*DRIVERS[options.driver].simulator]
    command += [sys.executable, str(Path(__file__).resolve()), "--driver", options.driver]
    command += ["--dtype", options.dtype, "--out", str(options.out)]
    for name in ("kind", "profile"):
        if getattr(options, name):
            command += [f"--{name}", getattr(options, name)]
    if options.layouts is not None:
        command.append("--layouts" if options.layouts else "--no-layouts")
    return [*command, "--small"] if options.small else command


def _environment(options: argparse.Namespace, cache: Path) -> dict[str, str]:
    driver = DRIVERS[options.driver]
    options.out.mkdir(parents=True, exist_ok=True)
    environment = {
        "SMARTMEM_OPENCL_DEVICE": driver.selector,
        # Random kernels are compiled once: they would only fill the user's cache.
        "SMARTMEM_CACHE_DIR": "off" if driver.simulator else str(cache),
        **dict(driver.environment),
    }
    if driver.simulator:
        environment[LOG] = str(options.out.resolve() / "oclgrind.log")
    return environment


class Findings:
    """What Oclgrind says of each kernel, on stderr; its log file is written only at the end."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._path.write_text("", encoding="utf-8")
        self._seen = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, sys.stderr.fileno())
        os.close(descriptor)

    def take(self) -> str:
        """The first finding since the last time, in one line; empty where there is none."""
        sys.stderr.flush()
        said = self._path.read_bytes()[self._seen :]
        self._seen += len(said)
        lines = said.decode("utf-8", "replace").splitlines()
        for number, line in enumerate(lines):
            if line.startswith("\tKernel: "):  # every finding has one, and the reason before it
                return " ".join(text.strip() for text in lines[max(number - 1, 0) : number + 5])
        return ""


def _runner(options: argparse.Namespace, setting: Setting) -> Any:
    findings = Findings(os.environ[LOG]) if LOG in os.environ else None

    def run(graph: Graph) -> Any:
        chosen = setting_of(graph, setting, options.profile, options.layouts)
        if findings is not None:
            findings.take()  # of a kernel that failed otherwise
        outputs = run_kernels(graph, chosen)
        setting.largest_source = max(setting.largest_source, chosen.largest_source)
        found = findings.take() if findings is not None else ""
        if found:
            raise BadAccessError(found)
        return outputs

    return run


def _setting() -> Setting:
    from smartmem_tvm import runtime

    return Setting(runtime.device())


def _work(options: argparse.Namespace) -> int:
    setting = _setting()
    small = SMALL if options.small or DRIVERS[options.driver].simulator else {}
    strategy = kernels(kind=options.kind, dtype=options.dtype, **small)
    run = _runner(options, setting)

    def counted() -> dict[str, int]:
        return {**setting.counts, "largest source": setting.largest_source[0]}

    work(strategy, run, options.out, options.seed, options.count, counted)
    return 0


def _start_again(options: argparse.Namespace) -> int:
    environment = {**os.environ, **_environment(options, Path(tempfile.gettempdir()) / "smartmem")}
    command = [*_command(options), "--direct", "--again", str(options.again)]
    os.execvpe(command[0], command, environment)


def _run_again(options: argparse.Namespace) -> int:
    graph = Graph.from_json(options.again.read_text(encoding="utf-8"))
    setting = _setting()
    chosen = setting_of(graph, setting, options.profile, options.layouts)
    print(graph)
    print(f"profile {chosen.profile}, {'random' if chosen.layouts else 'no'} layouts", flush=True)
    run = _runner(options, replace(setting, show=True))
    compare(graph, run(graph))
    return 0


if __name__ == "__main__":
    sys.exit(main())
