"""Simulated accesses and misses of models: ours, parts of ours left out, and TVM's own pipelines.

Usage::

    python benchmarks/simulate_caches.py --size micro --models swin,vit --output swin-vit.json
    python benchmarks/simulate_caches.py --size full --models swin --sample 96

Runners are ``ours`` (every profile of --profiles), ``ours-SWITCH`` (a switch of the pipeline left
out), ``tvm-adreno`` (TVM's pipeline for Adreno as ``smartmem bench`` mends it) and ``tvm`` (its
default one). A kernel that cannot be simulated is listed, and missing on its side of the ratio, so
that ratio is marked. What is done is kept in --output, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tvm

from smartmem_tvm import zoo
from smartmem_tvm.bench.runners.adreno_faults import mended_pipeline
from smartmem_tvm.devices import resolve_profile
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.frontend import import_model
from smartmem_tvm.pipeline import module_before
from smartmem_tvm.report import json_text
from smartmem_tvm.simulation import Simulation, load_configurations, simulate
from smartmem_tvm.whole_files import write_text

_LAST = "RewriteDataflowReshape"  # TVM's pass after which kernels are listed
LEVELS = ("texture_l1", "buffer_l1", "l2")
# What leaves the cores is looked up in the L2: misses of a first cache, and loads that have none.
FIGURES = ("misses", "L2 misses", "L2 look-ups")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--size", default="micro", help="size of the zoo's models")
    parser.add_argument("--models", help="names, separated by commas (default: all)")
    parser.add_argument("--profiles", default="adreno-740,cpu", help="profiles of ours")
    parser.add_argument("--disable", default="", help="switches to leave out, one at a time")
    parser.add_argument("--against", default="tvm-adreno,tvm", help="other runners")
    parser.add_argument("--dtype", default="float32", help="of ours and parts of ours")
    parser.add_argument("--caches", help="configurations: a file or a name")
    parser.add_argument("--sample", type=int, help="work-groups of a launch to simulate")
    parser.add_argument("--output", type=Path, help="JSON file of the rows")
    args = parser.parse_args()
    names = args.models.split(",") if args.models else [str(m["name"]) for m in zoo.list_models()]
    rows = json.loads(args.output.read_text()) if args.output and args.output.exists() else []
    done = {(row["model"], row["runner"]) for row in rows}
    configurations = load_configurations(args.caches)
    for name in names:
        model = f"{name}/{args.size}"
        for runner, prepare in _runners(args):
            if (model, runner) in done:
                continue
            start = time.perf_counter()
            row: dict[str, Any] = {"model": model, "runner": runner, "failed": None}
            try:
                module, target, split = prepare(import_model(f"zoo:{model}").mod)
                found = simulate(
                    module, target, configurations, sample=args.sample, split_unaligned=split
                )
                row |= _row(found)
            except (SmartMemError, tvm.error.InternalError) as error:
                row["failed"] = str(error).strip().splitlines()[-1]
            row["seconds"] = round(time.perf_counter() - start, 1)
            rows.append(row)
            print(f"{model} {runner}: {_short(row)}", file=sys.stderr, flush=True)
            if args.output:
                write_text(args.output, json_text(rows))
    show(rows)


Prepared = tuple[tvm.IRModule, tvm.target.Target, bool]


def _runners(args: argparse.Namespace) -> list[tuple[str, Callable[[tvm.IRModule], Prepared]]]:
    """Runners by name; each gives scheduled kernels, their target, and how vectors are written."""
    found: list[tuple[str, Callable[[tvm.IRModule], Prepared]]] = []
    profiles = args.profiles.split(",") if args.profiles else []
    for profile in profiles:
        for left_out in ("", *filter(None, args.disable.split(","))):
            disable = tuple(filter(None, left_out.split("+")))
            name = f"ours:{profile}" + (f"-{left_out}" if left_out else "")
            found.append((name, _ours(profile, args.dtype, disable)))
    known = {"tvm-adreno": _tvm_adreno, "tvm": _tvm}
    for name in filter(None, args.against.split(",")):
        if name not in known:
            sys.exit(f"--against {name}: choose of {', '.join(known)}")
        found.append((name, known[name]))
    return found


def _ours(profile: str, dtype: str, disable: tuple[str, ...]) -> Callable[[Any], Prepared]:
    target = resolve_profile(profile).target(None)

    def prepare(mod: tvm.IRModule) -> Prepared:
        return module_before("lower", mod, target, dtype, disable), target, False

    return prepare


def _tvm_adreno(mod: tvm.IRModule) -> Prepared:
    target = tvm.target.Target("qcom/adreno-opencl-texture", host="llvm")
    with target:
        pipeline = mended_pipeline(target)
    return _scheduled_by(pipeline, mod, target), target, False


def _tvm(mod: tvm.IRModule) -> Prepared:
    target = tvm.target.Target("opencl", host="llvm")
    pipeline = tvm.relax.get_default_pipeline(target)
    return _scheduled_by(pipeline, mod, target), target, True


def _scheduled_by(pipeline: Any, mod: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """The module inside TVM's pipeline, when it is scheduled and reshapes are views."""
    seen: list[tvm.IRModule] = []

    @tvm.instrument.pass_instrument
    class Keep:
        def run_after_pass(self, module: tvm.IRModule, info: Any) -> None:
            if info.name == _LAST:
                seen.append(module)

    with target, tvm.transform.PassContext(opt_level=3, instruments=[Keep()]):
        pipeline(mod)
    return seen[-1]


def _row(found: Simulation) -> dict[str, Any]:
    accesses = found.total.accesses
    return {
        "kernels": sum(kernel.calls for kernel in found.kernels),
        "requests": accesses.requests,
        "bytes": accesses.bytes,
        "accesses": accesses,
        "caches": found.total.caches,
        "refused": {kernel.name: kernel.refused for kernel in found.refused},
        "assumed": {kernel.name: kernel.assumed for kernel in found.kernels if kernel.assumed},
    }


def _short(row: dict[str, Any]) -> str:
    if row["failed"]:
        return f"failed: {row['failed']}"
    misses = {name: _misses(row, name) for name in row["caches"]}
    return f"{row['requests']} accesses, misses {misses}, {row['seconds']} s"


def _misses(row: dict[str, Any], configuration: str, levels: Iterable[str] = LEVELS) -> int:
    caches = row["caches"][configuration]
    if not isinstance(caches, dict):
        caches = {level: vars(getattr(caches, level)) for level in LEVELS}
    return sum(caches[level]["misses"] for level in levels)


def _look_ups(row: dict[str, Any], configuration: str) -> int:
    return int(row["caches"][configuration]["l2"]["lookups"])


def show(rows: list[dict[str, Any]]) -> None:
    """Print how many times fewer accesses and misses each of ours has than each other."""
    rows = json.loads(json_text(rows))
    by_runner: dict[str, dict[str, Any]] = {}
    for row in rows:
        if not row["failed"]:
            by_runner.setdefault(row["runner"], {})[row["model"]] = row
    for one in (runner for runner in by_runner if runner.startswith("ours")):
        others = [r for r in by_runner if not r.startswith("ours") or r.startswith(f"{one}-")]
        for other in others:
            both = [model for model in by_runner[one] if model in by_runner[other]]
            if both:
                _show_pair(one, other, both, by_runner)


def _show_pair(one: str, other: str, models: list[str], by_runner: dict[str, Any]) -> None:
    configurations = list(by_runner[one][models[0]]["caches"])
    print(f"\n{other} over {one}: times fewer (above 1: ours is better)")
    print("| model | accesses | bytes | " + " | ".join(_headings(configurations)) + " |")
    print("| --- |" + " ---: |" * (2 + 3 * len(configurations)))
    table = []
    for model in models:
        a, b = by_runner[one][model], by_runner[other][model]
        mark = "*" if a["refused"] or b["refused"] else ""
        ratios = [b["requests"] / a["requests"], b["bytes"] / a["bytes"]]
        for name in configurations:
            ratios.append(_misses(b, name) / _misses(a, name))
            ratios.append(_misses(b, name, ("l2",)) / _misses(a, name, ("l2",)))
            ratios.append(_look_ups(b, name) / _look_ups(a, name))
        table.append(ratios)
        print(f"| {model}{mark} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    means = [
        math.exp(sum(map(math.log, column)) / len(column)) for column in zip(*table, strict=True)
    ]
    worst = [min(column) for column in zip(*table, strict=True)]
    print("| geomean | " + " | ".join(f"{ratio:.2f}" for ratio in means) + " |")
    print("| least | " + " | ".join(f"{ratio:.2f}" for ratio in worst) + " |")


def _headings(configurations: list[str]) -> list[str]:
    return [f"{what}, {name}" for name in configurations for what in FIGURES]


if __name__ == "__main__":
    main()
