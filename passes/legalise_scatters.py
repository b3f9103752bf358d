"""Write scatters so that TVM's kernels for GPUs compute them, and compute them rightly.

::

    R.scatter_nd(x, indices, updates)             →  t = R.permute_dims(indices, last axis first)
                                                     call_tir(scatter_nd_gpu, (x, t, updates))
    R.scatter_elements(x, indices, updates, axis) →  R.scatter_nd(x, coordinates, updates)
        where indices have fewer elements than x         with the coordinates of every update
        along another axis

TVM legalises ``scatter_nd`` to one function that transposes the indices in an unscheduled block and
scatters in a scheduled one; no schedule rule takes both. Its ``scatter_elements`` steps through
the data with the strides of the indices where the two differ.

Legal for static shapes of the indices, where they are rewritten.

Requires: Relax operators, before LegalizeOps; a target. Guarantees: the same values; updates of one
element are applied in their order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx, topi
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm_ffi import structural_equal

from smartmem_tvm.errors import SmartMemError

from ._relax_functions import rewrite_functions

SCATTER_ND = tvm.ir.Op.get("relax.scatter_nd")
SCATTER_ELEMENTS = tvm.ir.Op.get("relax.scatter_elements")


@tvm.transform.module_pass(opt_level=0, name="smartmem.LegaliseScatters")
class LegaliseScatters:
    """Turn ``scatter_nd``, and ``scatter_elements`` of part of the lines, into kernels."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with these scatters written as scheduled PrimFuncs."""
        return rewrite_functions(mod, _Rewriter(mod))


@mutator
class _Rewriter(PyExprMutator):
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
            return call
        if call.op.same_as(SCATTER_ND):
            return self._scatter(*call.args, str(call.attrs.reduction))
        if call.op.same_as(SCATTER_ELEMENTS):
            return self._scatter_lines(call)
        return call

    def _scatter(self, data: Any, indices: Any, updates: Any, reduction: str) -> Any:
        rank = len(indices.ty.shape.values)
        if rank > 1:
            axes = [rank - 1, *range(rank - 1)]
            indices = self.builder_.emit(relax.op.permute_dims(indices, axes))
        return self.builder_.call_te(topi.gpu.scatter_nd, data, indices, updates, reduction)

    def _scatter_lines(self, call: Any) -> Any:
        data, indices, updates = call.args
        shape, part = list(data.ty.shape.values), list(indices.ty.shape.values)
        axis = int(call.attrs.axis) % len(shape)
        others = [number for number in range(len(shape)) if number != axis]
        if all(structural_equal(shape[number], part[number]) for number in others):
            return call
        if not all(isinstance(extent, tirx.IntImm) for extent in part):
            raise SmartMemError(
                f"scatter_elements has indices of shape {part} and data of shape {shape}: where "
                "they differ along another axis than the scattered one, the indices' shape must be "
                "known. Give static shapes for the inputs."
            )
        coordinates = self._coordinates(data, indices, axis)
        flat = self.builder_.emit(relax.op.reshape(updates, [-1]))
        return self._scatter(data, coordinates, flat, str(call.attrs.reduction))

    def _coordinates(self, data: Any, indices: Any, axis: int) -> Any:
        """Place of each update in the data: its own, but along the axis the index."""
        shape = [int(extent) for extent in indices.ty.shape.values]
        dtype, rank = str(indices.ty.dtype), len(shape)
        grid = np.moveaxis(np.indices(shape), 0, -1).reshape(-1, rank)
        flat = self.builder_.emit(relax.op.reshape(indices, [-1, 1]))
        extent = relax.const(int(data.ty.shape.values[axis]), dtype)
        negative = self.builder_.emit(relax.op.less(flat, relax.const(0, dtype)))
        counted = self.builder_.emit(
            relax.op.where(negative, self.builder_.emit(relax.op.add(flat, extent)), flat)
        )
        columns = np.arange(rank) == axis
        return self.builder_.emit(
            relax.op.where(
                relax.const(np.broadcast_to(columns, grid.shape).copy(), "bool"),
                counted,
                relax.const(grid, dtype),
            )
        )
