"""Whether both versions of a kernel compute the same.

::

    WORK/built/…/outputs-Intel.json     failures, error, milliseconds of a launch
    WORK/built/…/tvm-Intel.npz          outputs, at random places where there are many

Each version runs once for each library, so that TVM's need not run again while ours change. Where
the two differ, or only ours ran, the plain function on the host says which is wrong. Running them
also compiles their kernels into the driver's or the runtime's cache.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from kernel_builds import VERSIONS
from kernel_pool import Entry
from kernel_preparation import Bench, Note, built_facts, title_of
from kernel_workers import KernelWorker
from numpy.typing import NDArray

from smartmem_tvm.bench.arrays import read_arrays, write_arrays
from smartmem_tvm.bench.process import WorkerFailure
from smartmem_tvm.whole_files import write_text

TOLERANCE = 1e-3
MOST_PLACES = 1 << 20
_REFERENCE = "reference"
# The host computes one element after the other: it may take this many times the limit.
_REFERENCE_TIMES = 5

Arrays = dict[str, NDArray[Any]]


def check_outputs(bench: Bench, entries: list[Entry], device: str, note: Note) -> None:
    """Run every library that has not been run, and compare."""
    workers = {
        version: KernelWorker(
            "RunKernel", bench.work, bench.limits, bench.profile, device, f"-{version}"
        )
        for version in bench.versions
    }
    try:
        for number, entry in enumerate(entries, start=1):
            check = _Check(bench, entry, device)
            stale = check.stale()
            if not stale:
                continue
            note(f"checking {number} of {len(entries)} on {device}: {title_of(entry)}")
            for version in stale:
                check.run(version, workers[version])
            check.compare()
    finally:
        for worker in workers.values():
            worker.close()


def checked_outputs(bench: Bench, entry: Entry, device: str) -> dict[str, Any]:
    """What was found: ``failed`` and ``launch_ms`` by version, and the relative ``error``."""
    found = _Check(bench, entry, device).found
    return {
        "failed": {version: found[version]["failed"] for version in bench.versions},
        "launch_ms": {version: found[version]["launch_ms"] for version in bench.versions},
        "error": found["error"],
    }


class _Check:
    """The versions of one kernel on one device."""

    def __init__(self, bench: Bench, entry: Entry, device: str) -> None:
        self._bench, self._entry, self._device = bench, entry, device
        self._facts = built_facts(bench, entry)
        self._path = bench.built(entry) / f"outputs-{device}.json"
        self.found: dict[str, Any] = {}
        if self._path.exists():
            self.found = json.loads(self._path.read_text(encoding="utf-8"))

    def stale(self) -> list[str]:
        """Versions whose library has not been run."""
        return [version for version in self._bench.versions if not self._is_known(version)]

    def run(self, version: str, worker: KernelWorker) -> None:
        """Run a version once and keep its outputs."""
        facts = self._facts[version]
        found = {
            "code": facts["code"],
            "limit_s": self._bench.limits.seconds,
            "failed": facts["failed"],
            "launch_ms": None,
        }
        if found["failed"] is None:
            pool, folder = self._bench.pool_of(self._entry), self._bench.built(self._entry)
            try:
                worker.request("load", pool, folder, entry=self._entry, version=version)
                found["launch_ms"] = self._keep(version, worker)
            except WorkerFailure as failure:
                found["failed"] = str(failure)
        self.found[version] = found

    def compare(self) -> None:
        """Compare what ran, say who is wrong, and write what was found."""
        found = self.found
        known = [version for version in VERSIONS if self._is_known(version)]
        ran = [version for version in known if found[version]["launch_ms"] is not None]
        outputs = {version: read_arrays(self._outputs(version)) for version in ran}
        error = None
        if len(ran) == 2:
            error = difference(*outputs.values())
        if outputs and (error is None or error > TOLERANCE):
            truth = self._reference()
            errors = {
                v: None if truth is None else difference(a, truth) for v, a in outputs.items()
            }
            error = errors.get("ours") if error is None else error
            for version, own in errors.items():
                if own is not None and own > TOLERANCE:
                    found[version]["failed"] = f"wrong: relative error {own:.2g}"
        found["error"] = error
        write_text(self._path, json.dumps(found, indent=1))

    def _is_known(self, version: str) -> bool:
        known = self.found.get(version)
        if known is None or known["code"] != self._facts[version]["code"]:
            return False
        late = (known["failed"] or "").startswith("time: ")
        return not late or self._bench.limits.seconds <= known["limit_s"]

    def _outputs(self, version: str) -> Path:
        return self._bench.built(self._entry) / f"{version}-{self._device}.npz"

    def _keep(self, version: str, worker: KernelWorker) -> float:
        """Write the outputs of what is loaded, at random places where there are many."""
        path = self._outputs(version)
        milliseconds = worker.outputs(path)
        write_arrays(path, {name: at_places(array) for name, array in read_arrays(path).items()})
        return milliseconds

    def _reference(self) -> Arrays | None:
        """What the plain function computes on the host; None where it does not get done."""
        path = self._outputs(_REFERENCE)
        limits = replace(self._bench.limits, seconds=_REFERENCE_TIMES * self._bench.limits.seconds)
        if not path.exists():
            worker = KernelWorker("RunReference", self._bench.work, limits, self._bench.profile)
            with worker:
                try:
                    pool, folder = self._bench.pool_of(self._entry), self._bench.built(self._entry)
                    worker.request("load", pool, folder, entry=self._entry)
                    self._keep(_REFERENCE, worker)
                except WorkerFailure as failure:
                    self.found[_REFERENCE] = {"failed": str(failure)}
                    return None
        self.found.pop(_REFERENCE, None)
        return read_arrays(path)


def at_places(array: NDArray[Any]) -> NDArray[Any]:
    """All elements, or as many as are kept, at random places that are always the same."""
    flat = array.reshape(-1)
    if flat.size <= MOST_PLACES:
        return flat
    return flat[np.random.default_rng(0).integers(0, flat.size, MOST_PLACES)]


def difference(one: Arrays, other: Arrays) -> float:
    """Largest difference of two sets of outputs, over the largest element of each.

    1e30 where an element of one of them is finite, and the other's is not.
    """
    found = 0.0
    for name, mine in one.items():
        mine, theirs = mine.astype(np.float64), other[name].astype(np.float64)
        finite = np.isfinite(mine) & np.isfinite(theirs)
        if (np.isfinite(mine) != np.isfinite(theirs)).any():
            return 1e30
        scale = max(float(np.abs(theirs[finite]).max(initial=0.0)), 1e-6)
        found = max(found, float(np.abs(mine - theirs)[finite].max(initial=0.0)) / scale)
    return found if math.isfinite(found) else 1e30
