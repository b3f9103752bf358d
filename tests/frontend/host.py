"""Runs an imported module on the host, without any of the project's passes."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax


def run_on_host(imported, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name, compiled by TVM for the processor."""
    machine = relax.VirtualMachine(tvm.compile(imported.mod, "llvm"), tvm.cpu())
    arguments = [tvm.runtime.tensor(inputs[spec.name]) for spec in imported.inputs]
    results = machine["main"](*arguments)
    if len(imported.outputs) == 1:
        results = [results]
    names = [spec.name for spec in imported.outputs]
    return {name: result.numpy() for name, result in zip(names, results, strict=True)}
