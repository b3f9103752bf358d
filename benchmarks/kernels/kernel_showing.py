"""One kernel of the pools: what it computes, how it is scheduled, and how fast that is."""

from __future__ import annotations

import statistics

from kernel_builds import FUNCTION, schedule_ours
from kernel_checking import check_outputs, checked_outputs
from kernel_figures import bound_of
from kernel_measuring import Results, machine_of
from kernel_pool import Entry, read_function
from kernel_preparation import Bench, build_kernels, built_facts
from kernel_tables import tile_text
from kernel_workers import KernelWorker
from rich.console import Console

from smartmem_tvm.bench.process import WorkerFailure
from smartmem_tvm.devices import resolve_profile
from smartmem_tvm.errors import SmartMemError


def find_kernel(entries: list[Entry], model: str, name: str) -> Entry:
    """Kernel of that name of a model."""
    own = [entry for entry in entries if entry.model.split("/")[0] == model.split("/")[0]]
    for entry in own:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in own)
    raise SmartMemError(f"model '{model}' has no kernel '{name}': it has {known or 'none'}.")


def show(
    bench: Bench, entry: Entry, device: str, repeats: int, results: Results | None, console: Console
) -> None:
    """Print the function, its schedule and figures; builds, checks and times it now."""
    func = read_function(bench.pool_of(entry), entry, FUNCTION["ours"])
    print(func.script())
    mod, _ = schedule_ours(func, resolve_profile(bench.profile).target())
    for scheduled in mod.functions.values():
        print(scheduled.script())
    layouts = [entry.layout(number) for number in range(len(entry.tensors))]
    for number, (shape, dtype) in enumerate(entry.tensors):
        kept = "written" if number in entry.outputs else "read"
        console.print(f"{kept} {dtype}{shape}: {layouts[number] or 'row by row'}", highlight=False)
    console.print(
        f"{entry.kind}, {entry.flop / 1e6:.3f} MFLOP, {entry.bytes / 1e6:.3f} MB"
        f"{'' if entry.exact else ' at most'}, called {entry.calls} times"
    )
    build_kernels(bench, [entry], lambda _: None)
    check_outputs(bench, [entry], device, lambda _: None)
    checked = checked_outputs(bench, entry, device)
    for version in bench.versions:
        facts = built_facts(bench, entry)[version]
        console.print(f"{version}: {tile_text(facts)}", highlight=False)
        for reason in facts.get("refusals", ()):
            console.print(f"  {reason}", highlight=False)
        if checked["failed"][version] is not None:
            console.print(f"  {checked['failed'][version]}", highlight=False)
            continue
        seconds = _seconds(bench, entry, version, device, repeats)
        console.print(
            f"  {seconds * 1e3:.4g} ms, {entry.flop / seconds / 1e9:.3g} GFLOP/s, "
            f"{entry.bytes / seconds / 1e9:.3g} GB/s"
        )
        if results is not None and device in results.probes:
            bound, what = bound_of(entry.flop, entry.bytes, machine_of(results, device))
            console.print(f"  {100 * bound / seconds:.1f} % of the bound by {what}")


def _seconds(bench: Bench, entry: Entry, version: str, device: str, repeats: int) -> float:
    worker = KernelWorker("RunKernel", bench.work, bench.limits, bench.profile, device)
    with worker:
        try:
            worker.request(
                "load", bench.pool_of(entry), bench.built(entry), entry=entry, version=version
            )
            return statistics.median(worker.run() for _ in range(repeats)) / 1e3
        except WorkerFailure as failure:
            raise SmartMemError(f"kernel '{entry.name}' did not run: {failure}") from failure
