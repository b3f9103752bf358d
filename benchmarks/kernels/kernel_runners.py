"""What the bench does in worker processes (:mod:`smartmem_tvm.bench.worker`).

::

    ReadModel   prepare   the pool of a model
    BuildKernel prepare   a library of one version of a kernel
    RunKernel   load, outputs, run: one version of a kernel on a device, row by row in NumPy
    RunReference load, outputs: the plain function on the host

Fields of a request that are not a model's are in the case's ``options``, all of them text.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartmem_tvm.bench.runners.base import Case, Facts, Runner

BUDGET = 0.02  # seconds of one repeat
_MOST_LAUNCHES = 4096
_SLOW = 1.0  # seconds of a launch before which none is made untimed


class ReadModel(Runner):
    """Imports a model and writes its kernels."""

    def prepare(self, case: Case) -> Facts:
        """Write the pool into the case's artefacts."""
        from kernel_pool import read_model

        from smartmem_tvm.devices import resolve_profile

        target = resolve_profile(case.device).target()
        fused = case.options["fused"] == "yes"
        left_out = read_model(case.source, target, case.artefacts, case.options["model"], fused)
        return Facts(details={"left_out": left_out})


class BuildKernel(Runner):
    """Builds one version of a kernel."""

    def prepare(self, case: Case) -> Facts:
        """Write the library into the case's artefacts; facts have its rule and tile."""
        from kernel_builds import FUNCTION, build_ours, build_tvm
        from kernel_pool import read_function

        from smartmem_tvm.devices import resolve_profile

        version = case.options["version"]
        func = read_function(case.folder, _entry(case), FUNCTION[version])
        start = time.perf_counter()
        if version == "ours":
            target = resolve_profile(case.device).target()
            details = build_ours(func, target, case.artefacts / "ours.so")
        else:
            details = build_tvm(func, case.artefacts / "tvm.so")
        return Facts(details={**details, "build_s": round(time.perf_counter() - start, 3)})


class RunKernel(Runner):
    """Runs one version of a kernel with data that is the same for every version."""

    def load(self, case: Case) -> Facts:
        """Open the library and put the arguments in place."""
        import tvm

        from smartmem_tvm import runtime
        from smartmem_tvm.execution import build_kernels, private_copy

        self._entry = _entry(case)
        self._laid_out = case.options["version"] == "ours"
        self._device = runtime.device(case.opencl_device)
        with private_copy(case.artefacts / f"{case.options['version']}.so") as library:
            module = tvm.runtime.load_module(str(library))
        build_kernels(module, self._device)
        self._call = module["kernel"]
        self._arguments = []  # those of the kernel before are free now
        self._arguments = [
            tvm.runtime.tensor(self._packed(number, array), device=self._device)
            for number, array in enumerate(random_arguments(self._entry.tensors))
        ]
        self._launches = 0
        return Facts()

    def outputs(self) -> dict[str, np.ndarray]:
        """Results of one launch, row by row."""
        self._call(*self._arguments)
        self._device.sync()
        return {
            str(number): self._unpacked(number, self._arguments[number].numpy())
            for number in self._entry.outputs
        }

    def run(self) -> float:
        """Milliseconds of a launch, over as many as fill the budget."""
        if not self._launches:
            took = self._seconds(1)
            if took > _SLOW:
                return took * 1e3
            self._launches = self._fitting_launches()
        return self._seconds(self._launches) * 1e3

    def _fitting_launches(self) -> int:
        count = 1
        took = self._seconds(1)
        while took * count < BUDGET and count < _MOST_LAUNCHES:
            count = min(_MOST_LAUNCHES, max(count * 2, int(1.2 * BUDGET / max(took, 1e-9))))
            took = self._seconds(count)
        return count

    def _seconds(self, count: int) -> float:
        call, arguments = self._call, self._arguments
        start = time.perf_counter()
        for _ in range(count):
            call(*arguments)
        self._device.sync()
        return (time.perf_counter() - start) / count

    def _packed(self, number: int, array: NDArray[Any]) -> NDArray[Any]:
        layout = self._entry.layout(number) if self._laid_out else None
        return array if layout is None else layout.pack(array)

    def _unpacked(self, number: int, array: NDArray[Any]) -> NDArray[Any]:
        layout = self._entry.layout(number) if self._laid_out else None
        if layout is None:
            return array
        shape = self._entry.tensors[number][0]
        places = layout.pack(np.arange(1, 1 + np.prod(shape)).reshape(shape)).reshape(-1)
        found = np.empty(int(np.prod(shape)), array.dtype)
        found[places[places > 0] - 1] = array.reshape(-1)[places > 0]
        return found.reshape(shape)


class RunReference(Runner):
    """Runs the plain function on the host, unscheduled."""

    def load(self, case: Case) -> Facts:
        """Compile it and make the arguments."""
        import tvm
        from kernel_builds import build_reference
        from kernel_pool import read_function

        self._entry = _entry(case)
        self._call = build_reference(read_function(case.folder, self._entry, "plain"))
        arrays = random_arguments(self._entry.tensors)
        self._arguments = [tvm.runtime.tensor(array) for array in arrays]
        return Facts()

    def outputs(self) -> dict[str, np.ndarray]:
        """Results of one run."""
        self._call(*self._arguments)
        return {str(number): self._arguments[number].numpy() for number in self._entry.outputs}


def random_arguments(tensors: list[Any]) -> list[NDArray[Any]]:
    """Arrays for the parameters of a kernel, always the same: numbers below 1, integers 0 or 1."""
    rng = np.random.default_rng(0)
    found = []
    for shape, dtype in tensors:
        if np.issubdtype(np.dtype(dtype), np.floating):
            found.append(rng.random(shape, np.float32).astype(dtype))
        else:
            found.append(rng.integers(0, 2, shape).astype(dtype))
    return found


def _entry(case: Case) -> Any:
    from kernel_pool import Entry

    return Entry(**json.loads(case.options["entry"]))


def case_fields(
    folder: Path, artefacts: Path, profile: str, device: str | None, threads: int, **options: str
) -> dict[str, Any]:
    """Fields of a :class:`Case` as a worker's request has them."""
    return {
        "folder": str(folder),
        "artefacts": str(artefacts),
        "source": options.pop("source", ""),
        "threads": threads,
        "device": profile,
        "opencl_device": device,
        "options": options,
    }
