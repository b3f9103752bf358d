"""One device's part of :mod:`layout_pairs`: loads the compiled pairs, checks or times them.

::

    python layout_pairs_device.py WORK DEVICE --check     outputs of both versions agree
    python layout_pairs_device.py WORK DEVICE             median seconds of both, in turns

The last line printed is a JSON list with an entry for each pair, null for one that is left out.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from smartmem_tvm import runtime
from smartmem_tvm.analysis.computation import read_stages
from smartmem_tvm.analysis.layouts import Layout

REPEATS = 7
BUDGET = 0.02  # seconds of one repeat
TOLERANCE = 1e-3


def inputs_of(func: Any, tensor: int) -> dict[str, Any]:
    """Shapes, dtypes and written parameters of a function, and which one has two layouts."""
    written = {store.buffer for stage in read_stages(func) for store in stage.stores}
    return {
        "tensors": [([int(n) for n in p.shape], str(p.dtype)) for p in func.params],
        "outputs": [number for number, p in enumerate(func.params) if p in written],
        "tensor": tensor,
    }


class Version:
    """One version of a kernel with its arguments on the device."""

    def __init__(self, call: Any, inputs: dict[str, Any], layout: Layout, device: Any) -> None:
        self._call, self._inputs, self._layout, self._device = call, inputs, layout, device
        rng = np.random.default_rng(0)
        self._arguments = []
        for number, (shape, dtype) in enumerate(inputs["tensors"]):
            array = rng.random(shape).astype(dtype)
            if number == inputs["tensor"]:
                array = layout.pack(array)
            self._arguments.append(tvm.runtime.tensor(array, device=device))

    def outputs(self) -> list[Any]:
        """Results of a run; of the tensor with two layouts, sorted elements without padding."""
        self._call(*self._arguments)
        found = []
        for number in self._inputs["outputs"]:
            array = self._arguments[number].numpy()
            if number == self._inputs["tensor"]:
                shape = self._inputs["tensors"][number][0]
                places = self._layout.pack(np.arange(1, 1 + np.prod(shape)).reshape(shape))
                order = np.argsort(places.reshape(-1))[-int(np.prod(shape)) :]
                array = array.reshape(-1)[order].reshape(shape)
            found.append(array)
        return found

    def seconds(self) -> float:
        """Time of a launch, over as many as fit the budget."""
        count = 1
        while True:
            start = time.perf_counter()
            for _ in range(count):
                self._call(*self._arguments)
            self._device.sync()
            took = time.perf_counter() - start
            if took > BUDGET or count >= 4096:
                return took / count
            count = min(4096, max(count * 2, int(count * 1.2 * BUDGET / max(took, 1e-9))))


def agree(versions: list[Version]) -> bool:
    """Whether both versions compute the same."""
    for one, other in zip(*(version.outputs() for version in versions), strict=True):
        both = np.isfinite(one) & np.isfinite(other)
        scale = np.abs(other[both]).max(initial=1e-6)
        if (np.isfinite(one) != np.isfinite(other)).any():
            return False
        if np.abs(one[both] - other[both]).max(initial=0.0) > TOLERANCE * scale:
            return False
    return True


def measure(versions: list[Version]) -> list[float]:
    """Median seconds of both versions, in turns."""
    for one in versions:
        one.seconds()
    found: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        for place, one in enumerate(versions):
            found[place].append(one.seconds())
    return [statistics.median(times) for times in found]


def main(work: Path, name: str, check: bool) -> None:
    """Check or time every pair of a work folder."""
    device = runtime.device(name)
    document = json.loads((work / "prepared.json").read_text(encoding="utf-8"))
    results: list[Any] = []
    for number, (pair, inputs) in enumerate(
        zip(document["pairs"], document["inputs"], strict=True)
    ):
        library = tvm.runtime.load_module(str(work / f"{number}.so"))
        versions = [
            Version(
                library[f"version_{place}"],
                inputs,
                Layout(tuple(layout["order"]), layout["block"] and tuple(layout["block"])),
                device,
            )
            for place, layout in enumerate(pair["layouts"])
        ]
        if check:
            results.append(agree(versions))
            if not results[-1]:
                print(f"{name}: versions of pair {number} disagree", file=sys.stderr)
        else:
            results.append(measure(versions))
        print(f"{name}: {number + 1} of {len(document['pairs'])}", end="\r", file=sys.stderr)
    print(file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "--check" in sys.argv)
