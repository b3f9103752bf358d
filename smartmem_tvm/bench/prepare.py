"""Writes what every runner of a model shares: the ONNX file, inputs, reference outputs, figures.

It runs in a worker like a runner does, so that a model too large for memory ends that process
and not the harness.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx

from ..errors import ModelError
from .arrays import write_arrays
from .runners.base import Case, Facts, Runner

INPUTS = "inputs.npz"
REFERENCE = "reference.npz"
ENTRY = f"{__name__}:Prepare"
_LARGEST_FILE = 1 << 30
"""Weights of more bytes go to a file beside the graph: protocol buffers end at 2 GB."""


class Prepare(Runner):
    """Loads a model once and leaves its files in the case's folder."""

    PARTS: ClassVar[tuple[str, ...]] = (
        "frontend",
        "zoo.info",
        "zoo.registry",
        "zoo.seeding",
        "bench.prepare",
        "bench.arrays",
        "analysis.traffic",
        "analysis.traffic_accesses",
    )

    def prepare(self, case: Case) -> Facts:
        """Write the files; the details are the model's figures."""
        from ..analysis.traffic import compulsory
        from ..frontend import import_model, random_inputs, reference_outputs

        imported = import_model(case.source)
        if imported.onnx_model is None:
            raise ModelError(f"'{case.source}' is no ONNX graph: there is no reference for it.")
        inputs = random_inputs(imported.inputs)
        outputs = reference_outputs(imported, inputs)
        weights = sum(len(tensor.raw_data) for tensor in imported.onnx_model.graph.initializer)
        _write_model(imported.onnx_model, case.model, weights)
        write_arrays(case.folder / INPUTS, inputs)
        write_arrays(case.folder / REFERENCE, outputs)
        return Facts(
            details={
                **_figures(case.source),
                # As imported: a pass may copy or fold parameters.
                "compulsory_bytes": compulsory(imported.mod).total,
            }
        )

    def outputs(self) -> dict[str, np.ndarray]:
        """Nothing: the reference is in its file."""
        return {}

    def run(self) -> float:
        """Nothing to time."""
        return math.nan


def _figures(source: str) -> dict[str, object]:
    """Parameters, multiply-accumulates and operators, where the zoo knows them."""
    from .. import zoo

    if not source.startswith("zoo:"):
        return {}
    name, _, size = source.removeprefix("zoo:").partition("/")
    try:
        known = zoo.info(name, size or zoo.DEFAULT_SIZE)
    except ModelError:  # shapes that depend on values: operations cannot be counted
        return {}
    return {key: known[key] for key in ("params_m", "macs_g", "operators")}


def _write_model(model: onnx.ModelProto, path: Path, weights: int) -> None:
    external: dict[str, Any] = {}
    if weights > _LARGEST_FILE:
        external = {
            "save_as_external_data": True,
            "all_tensors_to_one_file": True,
            "location": f"{path.name}.data",
        }
    onnx.save_model(model, str(path), **external)
