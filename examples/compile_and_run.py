"""Compile an ONNX file, run it, save it and load it again.

python examples/compile_and_run.py model.onnx out/
"""

from __future__ import annotations

import sys

import numpy as np

import smartmem_tvm
from smartmem_tvm.frontend import random_inputs


def main(model: str, folder: str) -> None:
    artifact = smartmem_tvm.compile(model, device="auto")
    for spec in artifact.manifest.inputs:
        print(f"input  {spec.name}: {spec.dtype}{list(spec.shape)}")

    inputs = random_inputs(artifact.manifest.inputs, seed=0)
    outputs = artifact.run(inputs)
    for name, value in outputs.items():
        print(f"output {name}: {value.dtype}{list(value.shape)}")

    artifact.export(folder)
    again = smartmem_tvm.load(folder).run(inputs)
    same = all(np.array_equal(outputs[name], again[name]) for name in outputs)
    print(f"{folder} gives {'the same' if same else 'OTHER'} outputs")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
