"""Start maxima at minus infinity and minima at infinity.

::

    with init(): y[i] = -3.4e38                   with init(): y[i] = -inf
    y[i] = max(y[i], x[i, k])              →      y[i] = max(y[i], x[i, k])

TVM starts at the least finite value, so that the maximum of a row of minus infinity, a row of an
attention mask that masks everything, is a number that the model then does not recognise.

Legal where a block keeps the larger, or the smaller, of its own element and another one.

Requires: unscheduled functions (s_tir blocks). Guarantees: the same values for finite elements.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlock
from tvm_ffi import structural_map

INFINITE = {tirx.Max: float("-inf"), tirx.Min: float("inf")}


@tvm.transform.module_pass(opt_level=0, name="smartmem.LegaliseExtremes")
class LegaliseExtremes:
    """Give maxima and minima of floats the infinite initial value."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with initial values replaced."""
        mod = mod.clone()
        for gv, func in list(mod.functions.items()):
            if isinstance(func, tirx.PrimFunc):
                body = structural_map(func.body, (SBlock, _from_infinity))
                if not body.same_as(func.body):
                    mod.update_func(gv, func.with_body(body))
        return mod


def _from_infinity(block: SBlock) -> SBlock:
    store, init = block.body, block.init
    if not isinstance(init, tirx.BufferStore) or not isinstance(store, tirx.BufferStore):
        return block
    start = INFINITE.get(type(store.value))
    if start is None or not isinstance(init.value, tirx.FloatImm):
        return block
    operands = (store.value.a, store.value.b)
    if not any(isinstance(o, TensorLoad) and o.source.same_as(store.buffer) for o in operands):
        return block
    value: Any = tirx.const(start, init.value.ty.dtype)
    return SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        block.body,
        tirx.BufferStore(init.buffer, value, init.indices),
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )
