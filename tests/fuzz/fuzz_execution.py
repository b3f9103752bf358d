"""Running a random graph through the passes and comparing it with the reference."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import tvm
from fuzz_graphs import Graph
from fuzz_layouts import RandomLayouts
from fuzz_reference import IllConditionedError, reference
from fuzz_relax import to_relax
from tvm import relax
from tvm.relax.backend import gpu_generic

from smartmem_tvm.execution import build_kernels, opencl_modules
from smartmem_tvm.passes import ClassifyOperators, RewriteLayouts
from smartmem_tvm.pipeline import pipeline_stages
from smartmem_tvm.upstream import truncate_divisions

RELATIVE = {"float32": 2e-4, "float16": 1e-2}
NOISE = {"float32": 50, "float16": 4}  # times what rounding does to the reference
PROFILE = "cpu"
LESS: tuple[tuple[str, ...], ...] = ((), ("fuse",), (), ("fuse", "eliminate"))


class WrongNumbersError(AssertionError):
    """An output differs from the reference."""


class WideIndexError(AssertionError):
    """A kernel of bounded symbolic shapes computes indices in 64 bits."""


def kernels_of(
    graph: Graph,
    disable: Collection[str] = (),
    drawn: Counter[str] | None = None,
    *,
    scheduled: bool = False,
) -> tvm.IRModule:
    """The graph's module after the stage that chooses layouts, or after all of them.

    With `drawn` layouts are random in place of chosen ones, and counted there; if nothing is to be
    disabled, something is for every other graph, so that more tensors lie between kernels.
    """
    if drawn is not None and not disable:
        disable = LESS[graph.seed % len(LESS)]
    mod = to_relax(graph, negated_twice=drawn is not None)
    target = tvm.target.Target("opencl", host="llvm")
    with target:
        for name, passes in pipeline_stages(target, disable=disable):
            if name == "schedule" and not scheduled:
                break
            if name == "layouts" and drawn is not None:
                rewrite = RewriteLayouts(simplify="simplify" not in disable)
                passes = [RandomLayouts(graph.seed, drawn), rewrite, ClassifyOperators()]
            mod = tvm.transform.Sequential(passes)(mod)
    return mod


def run_on_host(
    graph: Graph, disable: Collection[str] = (), drawn: Counter[str] | None = None
) -> list[np.ndarray]:
    """Outputs of the unscheduled kernels, compiled for this processor by LLVM."""
    mod = kernels_of(graph, disable, drawn)
    target = tvm.target.Target("llvm")
    with target, tvm.transform.PassContext(config={"tirx.disable_vectorize": True}):
        lower = [*gpu_generic.dataflow_lower_passes(target), *gpu_generic.finalize_passes(target)]
        passes = [truncate_divisions(), *lower]  # as after scheduling
        lowered = tvm.transform.Sequential(passes)(mod)
        executable = relax.build(lowered, target, relax_pipeline=tvm.transform.Sequential([]))
    return _run(graph, executable, tvm.cpu())


def run_on_device(
    graph: Graph,
    device: Any,
    disable: Collection[str] = (),
    drawn: Counter[str] | None = None,
) -> list[np.ndarray]:
    """Outputs of the whole pipeline on an OpenCL device."""
    mod = kernels_of(graph, disable, drawn, scheduled=True)
    target = tvm.target.Target("opencl", host="llvm")
    nothing = tvm.transform.Sequential([])
    executable = relax.build(mod, target, relax_pipeline=nothing, tir_pipeline="smartmem")
    check_index_width(graph, executable)
    build_kernels(executable.mod, device)
    return _run(graph, executable, device)


def check_index_width(graph: Graph, executable: Any) -> None:
    """Raise WideIndexError where a bounded symbol or an index is 64 bits wide in a kernel's body.

    Indices that are data have no bounds, so graphs with some are not looked at.
    """
    if not graph.n or any(tensor.below for tensor in graph.tensors):
        return
    for module in opencl_modules(executable.mod):
        wide = wide_lines(module.inspect_source())
        if wide:
            raise WideIndexError(f"64-bit indices: {wide[0]}")


def wide_lines(source: str) -> list[str]:
    """Lines of OpenCL C, but for the kernels' parameters, with 64-bit integers."""
    return [
        line.strip()
        for line in source.splitlines()
        if not line.startswith("__kernel") and re.search(r"\b(convert_)?u?long\d*\b", line)
    ]


def _run(graph: Graph, executable: Any, device: Any) -> list[np.ndarray]:
    values = graph.values()
    inputs = [tvm.runtime.tensor(values[tensor.name], device) for tensor in graph.inputs]
    outputs = relax.VirtualMachine(executable, device)["main"](*inputs)
    return [output.numpy() for output in outputs]


def compare(graph: Graph, outputs: list[np.ndarray]) -> None:
    """Raise WrongNumbersError where an output is not the reference's.

    An element may be off by :data:`RELATIVE` of its magnitude and of the output's root mean square,
    and by what rounding does to the reference itself when it is computed in float32, or stored in
    float16.
    """
    relative, noisy = RELATIVE[graph.storage], NOISE[graph.storage]
    for name, ours, (exact, noise) in zip(graph.outputs, outputs, reference(graph), strict=True):
        if ours.shape != exact.shape:
            raise WrongNumbersError(f"{name} is {ours.shape}, not {exact.shape}")
        if not exact.size:
            continue
        scale = np.abs(exact) + np.sqrt(np.mean(np.square(exact)))
        off = np.abs(ours - exact) - (relative * scale + noisy * noise + 1e-6)
        if not (off <= 0).all():
            worst = np.unravel_index(int(np.argmax(np.nan_to_num(off, nan=np.inf))), off.shape)
            count = int((~(off <= 0)).sum())
            raise WrongNumbersError(
                f"{count} of {exact.size} elements of {name} differ, {list(map(int, worst))} is "
                f"{ours[worst]:.6g}, not {exact[worst]:.6g}"
            )


def failure(graph: Graph, run: Callable[[Graph], list[np.ndarray]]) -> str:
    """What goes wrong with a graph, in one line; empty where nothing does.

    The line starts with the name of the exception, and that of WrongNumbersError has nothing of the
    graph in its first word, so that equal faults of two graphs are recognised.
    """
    try:
        compare(graph, run(graph))
    except IllConditionedError:
        return ""
    except Exception as error:  # whatever it is, it is the finding
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        telling = [line for line in lines if " error: " in line] or lines[-1:]
        return f"{type(error).__name__}: {telling[0] if telling else ''}"
    return ""
