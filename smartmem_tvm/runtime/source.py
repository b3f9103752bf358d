"""TVM modules from handwritten OpenCL C, for benchmarks, probes and tests."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import tvm
import tvm_ffi

from ..errors import DeviceError
from .loader import load

_TYPE_CODES = {"int": 0, "uint": 1, "float": 2, "handle": 3}


def source_module(
    source: str, kernels: Mapping[str, tuple[Sequence[str], Sequence[str]]]
) -> tvm.runtime.Module:
    """Make a module from OpenCL C source.

    Parameters
    ----------
    source
        The code of all kernels; each is compiled with the whole of it.
    kernels
        For each kernel its argument types (``"handle"`` for a buffer or image, ``"int32"`` …) and
        its launch axes (``"blockIdx.x"``, ``"threadIdx.x"`` …). A call passes the arguments, then
        one extent per axis: the number of work-groups and of work-items in each.

    Returns
    -------
    tvm.runtime.Module
        Call ``module[name](*arguments, *extents)``.
    """
    load()
    code = "".join(f"// Function: {name}\n{source}\n" for name in kernels)
    return tvm_ffi.get_global_func("ffi.Module.load_from_bytes.opencl")(
        serialize_module(code, kernels)
    )


def serialize_module(
    code: str, kernels: Mapping[str, tuple[Sequence[str], Sequence[str]]]
) -> bytes:
    """Return TVM's serialised form of an OpenCL module: format, function table, code."""
    out = [_text("cl"), struct.pack("<Q", len(kernels))]
    for name, (arg_types, axes) in kernels.items():
        out += [_text(name), _text(name), struct.pack("<Q", len(arg_types))]
        out += [_dtype(text) for text in arg_types]
        out += [struct.pack("<Q", len(axes)), *(_text(axis) for axis in axes)]
        out.append(struct.pack("<Q", 0))  # no extra tags
    out.append(_text(code))
    return b"".join(out)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _dtype(text: str) -> bytes:
    kind = text.rstrip("0123456789")
    bits = 64 if kind == "handle" else int(text[len(kind) :] or 0)
    if kind not in _TYPE_CODES or bits % 8 or not bits:
        raise DeviceError(
            f"a kernel argument of type {text!r} is not supported; use 'handle', 'int32', 'int64', "
            "'uint32', 'float32' …"
        )
    return struct.pack("<BBH", _TYPE_CODES[kind], bits, 1)
