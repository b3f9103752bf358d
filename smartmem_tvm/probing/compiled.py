"""Small kernels on the way that models take: built by TVM here, linked for the server's machine."""
# mypy reads TVMScript's annotations as Python's.
# mypy: disable-error-code="no-untyped-def,valid-type"

from __future__ import annotations

from pathlib import Path

import numpy as np
import tvm
from tvm.script import tirx as T
from tvm.support import cc

from ..errors import SmartMemError
from ..linking import check_host, default_host, find_linker, runs_here
from ..pipeline import register

ENTRY = "kernel"
COUNT = 4096
ROWS, COLUMNS = 24, 40


@T.prim_func(s_tir=True)
def _add(
    A: T.Buffer((4096,), "float32"),
    B: T.Buffer((4096,), "float32"),
    C: T.Buffer((4096,), "float32"),
):
    for i in T.thread_binding(64, thread="blockIdx.x"):
        for j in T.thread_binding(64, thread="threadIdx.x"):
            with T.sblock("c"):
                v = T.axis.spatial(4096, i * 64 + j)
                C[v] = A[v] + B[v]


# An image is read transposed and doubled into another one, a whole texel by each work-item.
@T.prim_func(s_tir=True)
def _turn(
    A: T.Buffer((24, 40, 4), "float32", scope="global.texture"),
    C: T.Buffer((40, 24, 4), "float32", scope="global.texture"),
):
    L = T.sblock_alloc_buffer((4,), "float32", scope="local")
    for i in T.thread_binding(40, thread="blockIdx.x"):
        for j in T.thread_binding(24, thread="threadIdx.x"):
            for k in T.serial(4):
                with T.sblock("l"):
                    vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                    L[vk] = A[vj, vi, vk] * T.float32(2)
            with T.sblock("c"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(L[0:4])
                T.writes(C[vi, vj, 0:4])
                C[vi, vj, T.ramp(0, 1, 4)] = L[T.ramp(0, 1, 4)]


KERNELS = {"add": _add, "turn": _turn}


def build_kernel(
    name: str, target: tvm.target.Target, path: Path, host: str, linker: str | None = None
) -> None:
    """Build ``add`` (two vectors) or ``turn`` (an image to an image) and link it for ``host``.

    The library has the function ``kernel``.

    Raises
    ------
    SmartMemError
        If ``host`` is no triple, there is no linker for it, or linking fails.
    """
    check_host(host)
    command = find_linker(host, linker)
    register()
    func = KERNELS[name].with_attr("global_symbol", ENTRY)
    built = tvm.compile(tvm.IRModule({ENTRY: func}), target=target, tir_pipeline="smartmem")
    try:
        built.export_library(str(path), fcompile=cc.cross_compiler(command))
    except (RuntimeError, OSError) as error:
        raise SmartMemError(
            f"linking a kernel for the host '{host}' with '{command}' failed:\n{error}"
        ) from error


def host_of(reported: str | None, asked: str | None) -> str:
    """Triple to build for: what was asked, else what the server reports, else this machine's."""
    if asked is not None:
        return asked
    if reported is None or runs_here(reported):
        return default_host()
    return reported


def inputs(name: str) -> list[np.ndarray]:
    """Arguments of a kernel, but for its result."""
    rng = np.random.default_rng(0)
    one: tuple[int, ...] = (COUNT,)
    shapes = [one, one] if name == "add" else [(ROWS, COLUMNS, 4)]
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


def expected(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    """The kernel's result, exact in float32."""
    if name == "add":
        return arrays[0] + arrays[1]
    return np.ascontiguousarray(arrays[0].transpose(1, 0, 2) * np.float32(2))
