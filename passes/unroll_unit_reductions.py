"""Write reductions over one element as plain computations.

::

    for k in range(1):                             with block("matmul"):
        with block("matmul"):               →          vi = axis.spatial(8, i)
            vi, vk = axis.remap("SR", [i, k])          vk = axis.spatial(1, k)
            with init(): C[vi] = 0.0                   C[vi] = 0.0 + A[vi, vk] * B[vk]
            C[vi] = C[vi] + A[vi, vk] * B[vk]

TVM drops axes of extent 1 from such a block, keeps its initial value, and then inlines an epilogue
into both: a bias is added twice (smartmem_tvm.upstream, fault 10). Without a reduction there is no
initial value, and nothing to get wrong.

Legal when every reduction axis of the block has extent 1 and the block is one store whose initial
value goes to the same element. Other blocks stay as they are.

Requires: unscheduled functions (s_tir blocks).
Guarantees: the same values; no block of that form has reduction axes.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlock
from tvm_ffi import structural_equal, structural_map

from smartmem_tvm.analysis.computation import is_int


@tvm.transform.module_pass(opt_level=0, name="smartmem.UnrollUnitReductions")
class UnrollUnitReductions:
    """Turn blocks that reduce over one element into blocks without a reduction."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with unit reductions written as plain computations."""
        mod = mod.clone()
        for gv, func in list(mod.functions.items()):
            if isinstance(func, tirx.PrimFunc):
                body = structural_map(func.body, (SBlock, _unrolled))
                if not body.same_as(func.body):
                    mod.update_func(gv, tirx.PrimFunc(func.params, body, func.ret_type, func.attrs))
        return mod


def _unrolled(block: SBlock) -> SBlock:
    reduces = [v for v in block.iter_vars if int(v.iter_type) == tirx.IterVar.CommReduce]
    store, init = block.body, block.init
    if (
        not reduces
        or any(not is_int(axis.dom.extent, 1) for axis in reduces)
        or not isinstance(store, tirx.BufferStore)
        or not isinstance(init, tirx.BufferStore)
        or not init.buffer.same_as(store.buffer)
        or not _same(store.buffer, init.indices, store.indices)
    ):
        return block

    def initial(load: TensorLoad) -> Any:
        own = load.source.same_as(store.buffer) and _same(store.buffer, load.indices, store.indices)
        return init.value if own else load

    value = structural_map(store.value, (TensorLoad, initial))
    iter_vars = [
        tirx.IterVar(v.dom, v.var, tirx.IterVar.DataPar) if v in reduces else v
        for v in block.iter_vars
    ]
    return SBlock(
        iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        tirx.BufferStore(store.buffer, value, store.indices),
        None,
        block.alloc_buffers,
        block.match_buffers,
        block.annotations,
    )


def _same(buffer: Any, one: Any, other: Any) -> bool:
    """Whether two indices name one element; where there is only one, any index is it."""
    return len(one) == len(other) and all(
        is_int(extent, 1) or structural_equal(a, b)
        for extent, a, b in zip(buffer.shape, one, other, strict=True)
    )
