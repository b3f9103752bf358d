"""Memory traffic of a model, in bytes of one inference.

==============================  ====================================================================
:func:`footprint` (module)      unique bytes per launch, from the index maps: measures elimination,
                                fusion and layouts; independent of the schedule
:func:`compulsory` (module)     inputs, parameters and outputs, each once: what nobody can avoid
:func:`executed` (artifact)     loads, stores and image accesses that Oclgrind counts: measures the
                                schedule
:func:`estimate` (module)       the executed traffic, estimated from scheduled functions in a second
==============================  ====================================================================
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

import tvm

from .analysis.traffic import CompulsoryTraffic, FootprintTraffic, compulsory, footprint
from .analysis.traffic_estimate import EstimatedTraffic, estimate
from .frontend import TensorSpec
from .manifest import PARAMETERS, verify_folder
from .oclgrind import ExecutedTraffic, executed

__all__ = [
    "CompulsoryTraffic",
    "EstimatedTraffic",
    "ExecutedTraffic",
    "FootprintTraffic",
    "compulsory",
    "compulsory_of_folder",
    "estimate",
    "executed",
    "footprint",
]


def compulsory_of_folder(folder: str | os.PathLike[str]) -> CompulsoryTraffic:
    """Compulsory traffic of an exported artefact: its parameters are those that it stores.

    Raises
    ------
    SmartMemError
        If the folder is no artefact, or is damaged.
    """
    manifest = verify_folder(Path(folder))
    parameters = tvm.runtime.load_param_dict_from_file(str(Path(folder) / PARAMETERS))
    stored = sum(
        math.prod(value.shape) * tvm.DataType(str(value.dtype)).itemsize
        for value in parameters.values()
    )
    return CompulsoryTraffic(_bytes(manifest.inputs), stored, _bytes(manifest.outputs))


def _bytes(specs: Iterable[TensorSpec]) -> int | None:
    total = 0
    for spec in specs:
        if not all(isinstance(extent, int) for extent in spec.shape):
            return None
        total += math.prod(map(int, spec.shape)) * tvm.DataType(spec.dtype).itemsize
    return total
