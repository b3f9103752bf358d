"""Read, write and fill whole vectors by one OpenCL built-in each.

::

    float16(p[i], p[i + 1], … p[i + 15])        →    vload16(0, &p[i])
    p[i] = v.s0; p[i + 1] = v.s1; …             →    vstore16(v, 0, &p[i])
    float16(x, x, … x)                          →    (float16)(x)

TVM's code generator writes a vector element by element where it cannot prove that the first one is
a multiple of the lanes, as in most tensors of odd width; OpenCL's built-ins ask for no more than an
element's alignment. Not every driver puts the elements together again, and each of such texts is
as long as the vector is wide.

Legal for vectors of consecutive elements in buffers; other gathers stay as they are.

Requires: device functions after all other lowering, as the code generator is given them.
Guarantees: the same values. Source: OpenCL C 1.2, sections 6.1.6 and 6.12.7.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad
from tvm_ffi import structural_map

from smartmem_tvm.analysis.expressions import dtype_of, static

LANES = (2, 3, 4, 8, 16)
# OpenCL C has vectors of these.
NAMES = {"float32": "float", "float16": "half", "int32": "int", "uint32": "uint"}


@tvm.transform.module_pass(opt_level=0, name="smartmem.LowerVectors")
class LowerVectors:
    """Use OpenCL's built-ins for vectors that lie in one piece."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with vector accesses lowered."""
        mod = mod.clone()
        for gv, func in list(mod.functions.items()):
            if isinstance(func, tirx.PrimFunc):
                body = structural_map(func.body, (tuple(_LOWERED), _lowered))
                if not body.same_as(func.body):
                    mod.update_func(gv, func.with_body(body))
        return mod


def _lowered(node: Any) -> Any:
    return _LOWERED[type(node)](node)


def _loaded(load: TensorLoad) -> Any:
    lanes = _unproved_lanes(load.source, load.indices)
    if lanes is None:
        return load
    return tirx.call_pure_extern(
        f"{load.source.dtype}x{lanes}", f"vload{lanes}", 0, _first(load.source, load.indices)
    )


def _stored(store: tirx.BufferStore) -> Any:
    lanes = _unproved_lanes(store.buffer, store.indices)
    if lanes is None:
        return store
    place = _first(store.buffer, store.indices)
    return tirx.Evaluate(tirx.call_extern("void", f"vstore{lanes}", store.value, 0, place))


def _filled(broadcast: tirx.Broadcast) -> Any:
    lanes = static(broadcast.lanes)
    name = NAMES.get(dtype_of(broadcast.value))
    if name is None or lanes not in LANES:
        return broadcast
    return tirx.call_pure_extern(
        f"{dtype_of(broadcast.value)}x{lanes}", f"({name}{lanes})", broadcast.value
    )


def _unproved_lanes(buffer: Any, indices: Any) -> int | None:
    """Lanes of a vector in one piece that the generator would take apart, else None."""
    ramp = indices[-1]
    if len(indices) != 1 or not isinstance(ramp, tirx.Ramp) or static(ramp.stride) != 1:
        return None
    lanes = static(ramp.lanes)
    if lanes not in LANES or str(buffer.dtype) not in NAMES:
        return None
    known = sym.Analyzer().modular_set(ramp.base)
    proved = known.coeff % lanes == 0 and known.base % lanes == 0
    return None if proved else lanes


def _first(buffer: Any, indices: Any) -> Any:
    return tirx.address_of(BufferLoad(buffer, [indices[-1].base]))


_LOWERED = {TensorLoad: _loaded, tirx.BufferStore: _stored, tirx.Broadcast: _filled}
