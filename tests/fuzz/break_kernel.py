"""Launches a kernel that reads past its input, then one that does not, inside of Oclgrind.

Prints what :class:`run_kernels.Findings` says of each, as JSON; for the test that it says so.
"""

from __future__ import annotations

import json
import os

import numpy as np
import tvm
from run_kernels import LOG, Findings
from tvm.script import tirx as T

from smartmem_tvm import runtime


def copy_from(offset: int) -> tvm.tirx.PrimFunc:
    """A copy of 64 elements, that many places further on in the input."""

    @T.prim_func(s_tir=True)
    def copy(x: T.Buffer((64,), "float32"), y: T.Buffer((64,), "float32")):
        for i in T.thread_binding(64, "blockIdx.x"):
            with T.sblock("y"):
                v = T.axis.spatial(64, i)
                T.reads(x[0:64])
                T.writes(y[v])
                y[v] = x[v + offset]

    return copy


def main() -> None:
    """Launch both, twice."""
    findings = Findings(os.environ[LOG])
    device = runtime.device()
    arrays = [tvm.runtime.tensor(np.zeros(64, "float32"), device=device) for _ in range(2)]
    said = []
    for offset in (40, 0, 40, 0):
        func = copy_from(offset).with_attr("global_symbol", "copy")
        target = tvm.target.Target("opencl", host="llvm")
        library = tvm.compile(tvm.IRModule({"copy": func}), target=target, tir_pipeline="smartmem")
        library.mod["copy"](*arrays)
        device.sync()
        said.append(findings.take())
    print(json.dumps(said))


if __name__ == "__main__":
    main()
