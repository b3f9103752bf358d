"""Named arrays in .npz files, whatever the names are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = "names"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays in order; the file appears whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # Names of tensors may hold any character, "/" included: they are data, not members' names.
    members: dict[str, Any] = {f"a{index}": value for index, value in enumerate(arrays.values())}
    members[_NAMES] = np.array(list(arrays), dtype=np.str_)
    with open(partial, "wb") as file:
        np.savez(file, **members)
    os.replace(partial, path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what :func:`write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return {str(name): archive[f"a{index}"] for index, name in enumerate(archive[_NAMES])}
