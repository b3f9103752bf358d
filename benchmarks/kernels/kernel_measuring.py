"""The second phase: the machine's peaks, and every kernel timed in turns with TVM's."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kernel_checking import checked_outputs
from kernel_figures import Machine, summary, with_figures
from kernel_pool import Entry
from kernel_preparation import Bench, Note, built_facts
from kernel_workers import KernelWorker

from smartmem_tvm.bench.measure import measure_probe
from smartmem_tvm.bench.process import WorkerFailure
from smartmem_tvm.bench.runners import PROBES, parse_choice
from smartmem_tvm.bench.settings import Settings
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.whole_files import write_json

SCHEMA = 1
# Launches that take longer are repeated less often: milliseconds, and times.
_SLOW = ((5000.0, 1), (1000.0, 3))


@dataclass
class Results:
    """The results file.

    Attributes
    ----------
    settings : dict
        What decides which kernels are measured, and how.
    environment : dict
        Machine, drivers and versions.
    commit, code : str
        Of the checkout; hash of the code that compiles our version.
    probes : dict
        By device, what :func:`measure_probe` returned for each probe.
    left_out : dict
        By model, functions that are in no pool, by reason.
    kernels : dict
        By device, what was measured of each kernel, with figures.
    summary : dict
        By device.
    """

    settings: dict[str, Any]
    environment: dict[str, Any]
    commit: str | None
    code: str
    schema: int = SCHEMA
    complete: bool = False
    load_average: list[float] = field(default_factory=list)
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    kernels: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def matches(self, other: Results) -> bool:
        """Whether the other is of the same kernels, code and machine."""
        names = ("settings", "environment", "code", "schema")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def save(self, path: Path) -> None:
        """Write it whole."""
        write_json(path, asdict(self))


def read_results(path: Path) -> Results:
    """Read what :meth:`Results.save` wrote."""
    try:
        return Results(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise SmartMemError(
            f"'{path}' is no results file of the kernel bench ({error}): give another --output."
        ) from error


def measure(
    bench: Bench,
    entries: list[Entry],
    devices: list[str],
    repeats: int,
    results: Results,
    output: Path,
    note: Note,
) -> None:
    """Measure what the results do not have; they are written after every kernel.

    The machine is probed before and after.
    """
    for device in devices:
        if device not in results.probes:
            results.probes[device] = _probes(bench, device, note)
        machine = machine_of(results, device)
        found = results.kernels.setdefault(device, [])
        done = {kernel["key"] for kernel in found}
        with _Turns(bench, device, repeats) as turns:
            for number, entry in enumerate(entries, start=1):
                if entry.key in done:
                    continue
                note(f"timing {number} of {len(entries)} on {device}: {entry.model} {entry.name}")
                found.append(with_figures(turns.measure(entry), machine))
                results.summary[device] = summary(found)
                results.save(output)
        probe_again(bench, device, results, note)
    results.complete = True
    results.save(output)


def machine_of(results: Results, device: str) -> Machine:
    """The machine's peaks; raises SmartMemError where a probe failed."""
    probes = results.probes[device]
    for name, probe in probes.items():
        if probe["failed"] is not None:
            raise SmartMemError(f"probe '{name}' on device '{device}' failed: {probe['failed']}")
    return Machine(*(probes[name]["rate"] for name in ("numpy-gemm", "copy-bandwidth")))


def probe_again(bench: Bench, device: str, results: Results, note: Note) -> None:
    """Take the faster of the probes before and after; other work on a machine only slows them."""
    before, after = results.probes[device], _probes(bench, device, note)
    for name, probe in after.items():
        if probe["failed"] is None and probe["rate"] > before[name]["rate"]:
            before[name] = probe
    machine = machine_of(results, device)
    kernels = [with_figures(kernel, machine) for kernel in results.kernels[device]]
    results.kernels[device], results.summary[device] = kernels, summary(kernels)


def _probes(bench: Bench, device: str, note: Note) -> dict[str, Any]:
    settings = Settings(
        (),
        (),
        bench.work,
        device=bench.profile,
        opencl_device=device,
        threads=bench.limits.threads,
        memory_limit=bench.limits.memory,
    )
    found = {}
    for name in PROBES:
        note(f"{name} on {device}")
        found[name] = measure_probe(parse_choice(name), settings, bench.work)
    return found


class _Turns:
    """Two processes that time the versions of a kernel in turns, each stopped meanwhile."""

    def __init__(self, bench: Bench, device: str, repeats: int) -> None:
        self._bench, self._device, self._repeats = bench, device, repeats
        self._workers = {
            version: KernelWorker(
                "RunKernel", bench.work, bench.limits, bench.profile, device, f"-{version}"
            )
            for version in bench.versions
        }

    def __enter__(self) -> _Turns:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def measure(self, entry: Entry) -> dict[str, Any]:
        """Times of a kernel, and why a version has none."""
        bench = self._bench
        checked = checked_outputs(bench, entry, self._device)
        failed = dict(checked["failed"])
        times: dict[str, list[float]] = {}
        for version, worker in self._workers.items():
            if failed[version] is not None:
                continue
            pool, folder = bench.pool_of(entry), bench.built(entry)
            try:
                worker.request("load", pool, folder, entry=entry, version=version)
                times[version] = []
            except WorkerFailure as failure:
                failed[version] = str(failure)
        for turn in range(self._repeats):
            for version in list(times):
                if times[version] and turn >= _repeats(min(times[version]), self._repeats):
                    continue
                try:
                    times[version].append(self._workers[version].run())
                except WorkerFailure as failure:
                    failed[version] = str(failure)
                    del times[version]
        facts = built_facts(bench, entry)
        return {
            **asdict(entry),
            "build": {version: facts[version] for version in bench.versions},
            "failed": failed,
            "error": checked["error"],
            "seconds": {name: statistics.median(values) / 1e3 for name, values in times.items()},
            "times_ms": {name: [round(t, 5) for t in values] for name, values in times.items()},
        }


def _repeats(milliseconds: float, repeats: int) -> int:
    return next((most for limit, most in _SLOW if milliseconds > limit), repeats)
