"""ONNX's own node tests through a pipeline: import, compile, run, compare."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import tvm
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from smartmem_tvm.compiler import compile as compile_model
from smartmem_tvm.errors import ModelError, SmartMemError
from smartmem_tvm.execution import build_kernels
from smartmem_tvm.frontend import ImportedModel, import_model
from smartmem_tvm.frontend.narrow_types import FLOATS, INTEGERS, NARROW

# What a test may end with; only the first two say that the pipeline computed something.
RIGHT, WRONG, REFUSED, FAILED = "right", "wrong", "refused", "failed"
NOT_IMPORTED = "not imported"
# "tvm" and "host" are TVM's importer and default pipeline, on the device and on the processor.
PIPELINES = ("smartmem", "tvm", "host")
_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
_HALF = 1e-2  # of types with 11 bits or fewer


@functools.cache
def node_tests() -> dict[str, TestCase]:
    """ONNX's node tests by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind="node")}


def run_test(name: str, pipeline: str, device: Any) -> dict[str, Any]:
    """Outcome of one test, the reason where it is not :data:`RIGHT`, and whether TVM imports it.

    TVM's pipelines begin with TVM's importer, this project's with its own. What the latter refuses
    and the former takes is :data:`REFUSED`.
    """
    case = node_tests()[name]
    upstream = _upstream_import(case)
    outcome, reason = _run(case, pipeline, device, upstream)
    return {"outcome": outcome, "reason": reason, "tvm_imports": not isinstance(upstream, str)}


def _run(
    case: TestCase, pipeline: str, device: Any, upstream: tvm.IRModule | str
) -> tuple[str, str]:
    try:
        if pipeline == "smartmem":
            run = _smartmem(_import(case))
        elif isinstance(upstream, str):
            return NOT_IMPORTED, upstream
        else:
            run = {"tvm": _tvm, "host": _host}[pipeline](upstream, device)
        for inputs, outputs in case.data_sets:
            expected = [_array(value) for value in outputs]
            reason = _difference(run([_array(value) for value in inputs]), expected)
            if reason:
                return WRONG, reason
    except ModelError as error:
        return NOT_IMPORTED if isinstance(upstream, str) else REFUSED, _line(error)
    except SmartMemError as error:
        return REFUSED, _line(error)
    except Exception as error:  # whatever it is, it is the finding
        return FAILED, f"{type(error).__name__}: {_line(error)}"
    return RIGHT, ""


def _import(case: TestCase) -> ImportedModel:
    imported = import_model(case.model)
    for spec in (*imported.inputs, *imported.outputs):
        if not all(isinstance(extent, int) for extent in spec.shape):
            raise ModelError(f"'{spec.name}' has the symbolic shape {spec.shape}")
    return imported


def _upstream_import(case: TestCase) -> tvm.IRModule | str:
    """What TVM's importer makes of a test, or why it does not import it with static shapes."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mod = from_onnx(case.model)
    except Exception as error:  # an importer's fault is no pipeline's
        return f"{type(error).__name__}: {_line(error)}"
    main = mod["main"]
    for ty in (*(param.ty for param in main.params), main.ret_ty):
        if not _is_static(ty):
            return f"{ty} is not static"
    return mod


def _is_static(ty: Any) -> bool:
    if isinstance(ty, relax.TupleType):
        return all(_is_static(field) for field in ty.fields)
    return (
        isinstance(ty, relax.TensorType)
        and ty.dtype is not None
        and isinstance(ty.shape, relax.ShapeExpr)
        and all(isinstance(extent, tvm.tirx.IntImm) for extent in ty.shape.values)
    )


def _array(value: Any) -> np.ndarray:
    """Stored value; those of types that NumPy lacks are ONNX tensors."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value)


def _smartmem(imported: ImportedModel) -> Any:
    artifact = compile_model(imported)
    return lambda inputs: list(artifact.run([_carried(value) for value in inputs]).values())


def _carried(value: np.ndarray) -> np.ndarray:
    """Bytes in which a tensor of a type that devices lack is passed; others as they are."""
    kind = _narrow_kind(value)
    if kind is None:
        return value
    return value.view("uint8") if kind in FLOATS else value.astype(_bytes_of(kind))


def _uncarried(value: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The tensor of the expected type that bytes stand for; others as they are."""
    kind = _narrow_kind(expected)
    if kind is None or value.dtype != _bytes_of(kind):
        return value
    return value.view(expected.dtype) if kind in FLOATS else value.astype(expected.dtype)


def _narrow_kind(value: np.ndarray) -> int | None:
    if value.dtype.kind in "OSU":
        return None
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return kind if kind in NARROW else None


def _bytes_of(kind: int) -> str:
    return "int8" if kind in INTEGERS and INTEGERS[kind][1] else "uint8"


def _tvm(mod: tvm.IRModule, device: Any) -> Any:
    """``tvm.compile`` with nothing said but the target, on the same runtime and device."""
    executable = tvm.compile(mod, tvm.target.Target("opencl", host="llvm"))
    build_kernels(executable.mod, device)
    return _machine(executable, device)


def _host(mod: tvm.IRModule, _device: Any) -> Any:
    return _machine(tvm.compile(mod, tvm.target.Target("llvm")), tvm.cpu())


def _machine(executable: Any, device: Any) -> Any:
    machine = relax.VirtualMachine(executable, device)

    def run(inputs: list[np.ndarray]) -> list[np.ndarray]:
        result = machine["main"](*(tvm.runtime.tensor(value, device) for value in inputs))
        return [t.numpy() for t in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]

    return run


def _difference(ours: list[np.ndarray], stored: list[np.ndarray]) -> str:
    """First difference, in words; empty if there is none."""
    if len(ours) != len(stored):
        return f"{len(ours)} outputs, not {len(stored)}"
    for number, (mine, expected) in enumerate(zip(ours, stored, strict=True)):
        mine = _uncarried(mine, expected)
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
