"""One inference of an exported artefact, in a process of its own: what Oclgrind watches.

Kernels are compiled as they are first launched, one by one: Oclgrind's compiler crashes when
several threads use it, so the parallel build of :class:`smartmem_tvm.artifact.Artifact` is avoided.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from .. import runtime
from ..execution import MEMORY_SPACES, upload
from ..manifest import LIBRARY, PARAMETERS, verify_folder
from ..parameters import ENTRY


def main(folder: Path, inputs: Path) -> None:
    """Load, upload, launch one inference, and wait for it."""
    device = runtime.device("oclgrind")
    library = tvm.runtime.load_module(str(folder / LIBRARY))
    machine = relax.VirtualMachine(library, [device] * MEMORY_SPACES)
    parameters = tvm.runtime.load_param_dict_from_file(str(folder / PARAMETERS))
    scopes = verify_folder(folder).parameter_scopes
    uploaded = tvm.runtime.convert(upload(parameters, device, scopes))
    with np.load(inputs) as arrays:
        tensors = [
            tvm.runtime.tensor(arrays[f"input_{i}"], device) for i in range(len(arrays.files))
        ]
    machine[ENTRY](*tensors, uploaded)
    device.sync()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
