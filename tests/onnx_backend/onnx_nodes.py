"""ONNX's own node tests through a pipeline: import, compile, run, compare."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import tvm
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from tvm import relax

from smartmem_tvm.compiler import compile as compile_model
from smartmem_tvm.errors import ModelError, SmartMemError
from smartmem_tvm.execution import build_kernels
from smartmem_tvm.frontend import ImportedModel, import_model

# What a test may end with; only the first two say that the pipeline computed something.
RIGHT, WRONG, REFUSED, FAILED = "right", "wrong", "refused", "failed"
NOT_IMPORTED = "not imported"
# "host" is TVM on the processor: what is wrong there too, the importer has made so.
PIPELINES = ("smartmem", "tvm", "host")
_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
_HALF = 1e-2  # of types with 11 bits or fewer


@functools.cache
def node_tests() -> dict[str, TestCase]:
    """ONNX's node tests by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind="node")}


def run_test(name: str, pipeline: str, device: Any) -> dict[str, str]:
    """Outcome of one test, and the reason where it is not :data:`RIGHT`."""
    case = node_tests()[name]
    try:
        imported = _import(case)
    except ModelError as error:
        return {"outcome": NOT_IMPORTED, "reason": _line(error)}
    except Exception as error:  # the importer's own faults say no more about the pipelines
        return {"outcome": NOT_IMPORTED, "reason": f"{type(error).__name__}: {_line(error)}"}
    try:
        run = {"smartmem": _smartmem, "tvm": _tvm, "host": _host}[pipeline](imported, device)
        for inputs, outputs in case.data_sets:
            reason = _difference(run([_array(value) for value in inputs]), outputs)
            if reason:
                return {"outcome": WRONG, "reason": reason}
    except SmartMemError as error:
        return {"outcome": REFUSED, "reason": _line(error)}
    except Exception as error:  # whatever it is, it is the finding
        return {"outcome": FAILED, "reason": f"{type(error).__name__}: {_line(error)}"}
    return {"outcome": RIGHT, "reason": ""}


def _import(case: TestCase) -> ImportedModel:
    imported = import_model(case.model)
    for spec in (*imported.inputs, *imported.outputs):
        if not all(isinstance(extent, int) for extent in spec.shape):
            raise ModelError(f"'{spec.name}' has the symbolic shape {spec.shape}")
    return imported


def _array(value: Any) -> np.ndarray:
    """Stored value; those of types that NumPy lacks are ONNX tensors."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value)


def _smartmem(imported: ImportedModel, _device: Any) -> Any:
    artifact = compile_model(imported)
    return lambda inputs: list(artifact.run(inputs).values())


def _tvm(imported: ImportedModel, device: Any) -> Any:
    """``tvm.compile`` with nothing said but the target, on the same runtime and device."""
    executable = tvm.compile(imported.mod, tvm.target.Target("opencl", host="llvm"))
    build_kernels(executable.mod, device)
    return _machine(executable, device)


def _host(imported: ImportedModel, _device: Any) -> Any:
    return _machine(tvm.compile(imported.mod, tvm.target.Target("llvm")), tvm.cpu())


def _machine(executable: Any, device: Any) -> Any:
    machine = relax.VirtualMachine(executable, device)

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        result = machine["main"](*(tvm.runtime.tensor(value, device) for value in inputs))
        return [t.numpy() for t in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]

    return run


def _difference(ours: list[np.ndarray], stored: list[Any]) -> str:
    """First difference, in words; empty if there is none."""
    if len(ours) != len(stored):
        return f"{len(ours)} outputs, not {len(stored)}"
    for number, (mine, expected) in enumerate(zip(ours, stored, strict=True)):
        expected = _array(expected)
        if mine.shape != expected.shape or mine.dtype != expected.dtype:
            return (
                f"output {number} is {mine.dtype}{list(mine.shape)}, "
                f"not {expected.dtype}{list(expected.shape)}"
            )
        if expected.dtype.kind in "biu":
            same = mine == expected
        else:
            narrow = expected.dtype.itemsize < 4
            a, b = mine.astype(np.float64), expected.astype(np.float64)
            same = np.isclose(a, b, _HALF if narrow else _RELATIVE, _ABSOLUTE, equal_nan=True)
        if not np.all(same):
            worst = np.unravel_index(int(np.argmin(same)), same.shape)
            return (
                f"output {number} differs in {int((~same).sum())} of {same.size} elements, the "
                f"first is {mine[worst]} and not {expected[worst]}"
            )
    return ""


def _line(error: BaseException) -> str:
    """The line of a message that says what is wrong: tracebacks and compilers surround it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if " error: " in line] or lines[-1:]
    return (telling[0] if telling else "")[:400]
