"""Use the pipeline inside a TVM program of your own, without the rest of the package.

python examples/insert_pipeline.py
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

import smartmem_tvm
from smartmem_tvm.devices import resolve_profile


def build_model() -> tvm.IRModule:
    """Softmax of a matrix product, written with Relax's builder."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((64, 96), "float32"))
    weight = relax.const(np.random.default_rng(0).standard_normal((96, 32)).astype("float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(x, weight))
            result = builder.emit_output(relax.op.nn.softmax(product, axis=-1))
        builder.emit_func_output(result)
    return builder.finalize()


def main() -> None:
    target = resolve_profile("auto").target()
    executable = tvm.compile(
        build_model(),
        target,
        relax_pipeline=smartmem_tvm.pipeline(target),
        tir_pipeline="smartmem",
    )
    device = smartmem_tvm.runtime.device()
    machine = relax.VirtualMachine(executable, device)
    x = np.random.default_rng(1).standard_normal((64, 96)).astype("float32")
    result = machine["main"](tvm.runtime.tensor(x, device)).numpy()
    print(f"{result.shape[0]} rows; each sums to {result.sum(axis=-1).min():.6f} or more")


if __name__ == "__main__":
    main()
