"""Write a top-k of short rows as one kernel that ranks, instead of a sort in several launches.

::

    v, i = R.topk(x, k)   →   rank[r, n] = number of m with x[r, m] before x[r, n]
                              if rank[r, n] < k:  v[r, rank[r, n]] = x[r, n];  i[r, rank[r, n]] = n

TVM's sort for GPUs copies the values and the indices, merges in several launches and cuts the
result out: of its kernels most only move data. Ranking costs the square of the row's length, which
for rows up to :data:`LONGEST` is less than those launches. Equal values keep their order.

Legal for static shapes; other calls stay for TVM's legalisation.

Requires: Relax operators, before LegalizeOps. Guarantees: the same values; equal elements come in
the order of their positions; NaN counts as the largest value.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from smartmem_tvm.analysis.computation import Axis, Stage, Store

from ._emit_function import build_prim_func
from ._graph import Node
from ._relax_functions import rewrite_functions

LONGEST = 4096
TOPK = tvm.ir.Op.get("relax.topk")


@tvm.transform.module_pass(opt_level=0, name="smartmem.LegaliseSorts")
class LegaliseSorts:
    """Turn ``topk`` of short rows into a ranking kernel."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with short sorts written as PrimFuncs."""
        return rewrite_functions(mod, _Rewriter(mod))


@mutator
class _Rewriter(PyExprMutator):
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if not isinstance(call, relax.Call) or not call.op.same_as(TOPK):
            return call
        data = call.args[0]
        shape = _static_shape(data.ty)
        axis = int(call.attrs.axis)
        if not shape or shape[axis] > LONGEST:
            return call
        axis %= len(shape)
        k = int(call.attrs.k)
        kept = shape[axis] if k < 1 else min(k, shape[axis])
        dtypes = {"values": str(data.ty.dtype), "indices": str(call.attrs.dtype)}
        wanted = dtypes if call.attrs.ret_type == "both" else [str(call.attrs.ret_type)]
        node, source = _ranking(
            shape,
            axis,
            kept,
            bool(call.attrs.largest),
            {name: dtypes[name] for name in wanted},
            dtypes["values"],
        )
        global_var = self.builder_.add_func(build_prim_func(node, [source], []), "topk")
        types = [relax.TensorType(list(b.shape), str(b.dtype)) for b in node.outputs]
        return relax.call_tir(global_var, relax.Tuple([data]), types)


def _static_shape(ty: Any) -> list[int] | None:
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return None
    extents = list(ty.shape.values)
    if not all(isinstance(extent, tirx.IntImm) for extent in extents):
        return None
    return [int(extent) for extent in extents]


def _ranking(
    shape: list[int], axis: int, kept: int, largest: bool, outputs: dict[str, str], dtype: str
) -> tuple[Node, Any]:
    """Node of the two stages, and the buffer that it reads."""
    source = tirx.decl_buffer(_extents(shape), dtype, "data", layout=None)
    rank = tirx.decl_buffer(_extents(shape), "int32", "rank", layout=None)
    point = _axes(shape)
    other = Axis(tirx.Var("v_m", "int64"), tirx.const(shape[axis], "int64"), reduced=True)
    here = [a.var for a in point]
    there = [other.var if number == axis else var for number, var in enumerate(here)]
    mine, theirs = tirx.BufferLoad(source, here), tirx.BufferLoad(source, there)
    before = theirs > mine if largest else theirs < mine
    same = theirs.equal(mine)
    if "float" in dtype:  # NaN is the largest, as in NumPy: every element needs a place of its own
        unordered = (tirx.isnan(theirs), tirx.isnan(mine))
        first_is_nan, last_is_nan = unordered if largest else unordered[::-1]
        before = tirx.Or(before, tirx.And(first_is_nan, tirx.Not(last_is_nan)))
        same = tirx.Or(same, tirx.And(*unordered))
    first = tirx.Or(before, tirx.And(same, other.var < here[axis]))
    count = tirx.BufferLoad(rank, here) + tirx.Cast("int32", first)
    ranking = Stage(
        "rank", (*point, other), (Store(rank, tuple(here), count),), (tirx.const(0, "int32"),)
    )
    sink_axes = _axes(shape)
    at = [a.var for a in sink_axes]
    place = tirx.BufferLoad(rank, at)
    target = [tirx.Cast("int64", place) if number == axis else var for number, var in enumerate(at)]
    values = {"values": tirx.BufferLoad(source, at), "indices": at[axis]}
    made, stores = [], []
    for name, kind in outputs.items():
        result = [kept if number == axis else extent for number, extent in enumerate(shape)]
        buffer = tirx.decl_buffer(_extents(result), kind, name, layout=None)
        value = values[name] if name == "values" else tirx.Cast(kind, values[name])
        made.append(buffer)
        stores.append(Store(buffer, tuple(target), value, place < tirx.const(kept, "int32")))
    sink = Stage("topk", sink_axes, tuple(stores))
    return Node("topk", [ranking, sink], made), source


def _extents(shape: list[int]) -> list[Any]:
    return [tirx.const(extent, "int64") for extent in shape]


def _axes(shape: list[int]) -> tuple[Axis, ...]:
    return tuple(
        Axis(tirx.Var(f"v_{number}", "int64"), tirx.const(extent, "int64"))
        for number, extent in enumerate(shape)
    )
