"""Write running sums and products as kernels in which a work-item scans one line.

::

    y = R.cumsum(x, axis=1)   →   for line in threads:  sum = 0
                                    for k:  sum = sum + x[line, k];  y[line, k] = sum

TVM's scans for GPUs exchange partial sums inside of a work-group, and are wrong on devices that run
the work-items of a group one after another (PoCL, rusticl). A line per work-item needs no exchange.

Legal for any shape; a scan without an axis runs over the flattened tensor.

Requires: Relax operators, before LegalizeOps and TVM's dispatch of scans; a target.
Guarantees: the same values, added in the order of the elements; the kernels are scheduled.
"""

from __future__ import annotations

from math import prod
from typing import Any

import tvm
from tvm import relax, te, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from ._relax_functions import rewrite_functions

CUMSUM = tvm.ir.Op.get("relax.cumsum")
CUMPROD = tvm.ir.Op.get("relax.cumprod")
GROUP = 64  # work-items in a group, which any device has


@tvm.transform.module_pass(opt_level=0, name="smartmem.LegaliseScans")
class LegaliseScans:
    """Turn ``cumsum`` and ``cumprod`` into kernels that scan line by line."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with scans written as scheduled PrimFuncs."""
        return rewrite_functions(mod, _Rewriter(mod))


@mutator
class _Rewriter(PyExprMutator):
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
            return call
        product = call.op.same_as(CUMPROD)
        if not product and not call.op.same_as(CUMSUM):
            return call
        data, axis = call.args[0], call.attrs.axis
        if axis is None:
            data, axis = self.builder_.emit(relax.op.reshape(data, [-1])), 0
        return self.builder_.call_te(
            scan,
            data,
            int(axis) % len(data.ty.shape.values),
            str(call.ty.dtype),
            product=product,
            exclusive=bool(call.attrs.exclusive),
            primfunc_name_hint="cumprod" if product else "cumsum",
        )


def scan(data: te.Tensor, axis: int, dtype: str, *, product: bool, exclusive: bool) -> te.Tensor:
    """Running sums or products along an axis.

    Parameters
    ----------
    data
        The elements.
    axis
        Not negative.
    dtype
        Of the result; sums and products are formed in it.
    product
        Whether elements are multiplied and not added.
    exclusive
        Whether each result leaves out the element at its own place.
    """
    shape = list(data.shape)
    one = tirx.const(1, "int64")
    length = shape[axis]
    inner, outer = prod(shape[axis + 1 :], start=one), prod(shape[:axis], start=one)

    def generate(source: Any, target: Any) -> Any:
        read, write = T.buffer_proxy(source), T.buffer_proxy(target)
        with IRBuilder() as builder:
            item, group = te.thread_axis("threadIdx.x"), te.thread_axis("blockIdx.x")
            groups = tirx.ceildiv(outer * inner, GROUP)
            with T.frame_scope(
                [T.attr(group, "thread_extent", groups), T.attr(item, "thread_extent", GROUP)]
            ):
                line = group * GROUP + item
                total = T.buffer_proxy(T.decl_buffer([1], dtype, scope="local"))
                with T.If(line < outer * inner), T.Then():
                    total[0] = tirx.const(int(product), dtype)
                    with T.serial(0, length) as k:
                        at = (line // inner * length + k) * inner + line % inner
                        if exclusive:
                            write[at] = total[0]
                        element = read[at].astype(dtype)
                        total[0] = total[0] * element if product else total[0] + element
                        if not exclusive:
                            write[at] = total[0]
            return builder.get()

    return te.extern(
        [shape],
        [data],
        lambda ins, outs: generate(ins[0], outs[0]),
        dtype=dtype,
        out_buffers=[tirx.decl_buffer(shape, dtype, "scanned", layout=None)],
        name="scan",
    )
