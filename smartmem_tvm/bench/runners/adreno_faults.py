"""Faults of TVM's Relax pipeline for Adreno that end compilation or inference, mended.

1. It gives every 2-D convolution the layouts NCHW4c and OIHW4o. TOPI's computation for those
   divides channels into blocks of 4 *and* into groups, in integers: with more groups than blocks
   (every depthwise convolution) it divides by zero, and where groups do not divide the blocks it
   would read other channels than the convolution's. :func:`keep_plain` legalises these before::

       conv2d(x, w, groups=96)          conv2d_prim_func(x, w)       (a call_tir, plain layout)
       conv2d(y, v, groups=1)      →    conv2d(y, v, groups=1)       (packed by TVM afterwards)

2. ``SpecializePrimFuncBasedOnCallSite`` gives a PrimFunc the memory scopes of one of its calls. A
   function that is called on buffers and on textures then gets the wrong kind of memory at the
   other calls. :func:`split_by_scopes` gives each combination of scopes its own copy before::

       a: texture = add(p, q)           a: texture = add(p, q)
       b: buffer  = add(r, a)      →    b: buffer  = add_1(r, a)

3. What writes a texture without being a convolution, pooling or layout transformation is scheduled
   by the generic rule for GPUs, which spreads a texel's four lanes over four work-items: a store
   that cannot be right. The rules for textures that TVM leaves out of the pipeline, and that for
   pooling, vectorise a loop around a reduction, whose register then has one lane for all four (a
   maximum of negative numbers was the last lane's), and fail on sums over two axes.
   :class:`TextureStores` is one rule for all of these.

4. Its rule for convolutions inlines an elementwise epilogue only where every value has one reader,
   and does not schedule one of another shape. GELU and SiLU read a value twice, squeeze and
   excitation broadcasts one: loops are left that no thread runs. :class:`PackedConvolution` is that
   rule with every epilogue inlined into its last block, and with that one scheduled::

       a = conv(x); b = a + bias        a = conv(x)
       c = sigmoid(b); d = b * c        d = (a + bias) * sigmoid(a + bias)

5. It has no dispatch of sorting operators, which then reach the VM's code generator as operators:
   TVM's ``DispatchSortScan`` goes first, as in its pipeline for other GPUs.

6. ``ConvertLayout`` fails an internal check (out_tuple) on splits in CSwin, all of them along
   another axis than the channels': :func:`keep_plain` legalises such splits too.

All leave everything else as it is.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir.transform import Pass, Sequential
from tvm.s_tir import dlight

LANES = 4
_CHANNELS = 1
_TEXTURE = "global.texture"
_PACKED = "conv2d_NCHWc"
_WORK_GROUP = 64
_COPY_FOR = "smartmem.scopes"
_SCHEDULE = "ApplyDefaultSchedule"
_SPECIALISE = "SpecializePrimFuncBasedOnCallSite"


def mended_pipeline(target: tvm.target.Target) -> Pass:
    """TVM's Relax pipeline for the target with these faults mended."""
    adreno = relax.backend.adreno
    legalise: list[Pass] = []
    scheduled = False
    for each in adreno.legalize_passes(target):
        if each.info.name == _SPECIALISE:
            legalise.append(split_by_scopes)
        if each.info.name == _SCHEDULE and not scheduled:
            scheduled = True
            legalise += [
                dlight.ApplyDefaultSchedule(
                    PackedConvolution(), dlight.adreno.LayoutTransform(), TextureStores()
                ),
                each,
            ]
        else:
            legalise.append(each)
    return Sequential(
        [
            relax.backend.DispatchSortScan(),
            keep_plain,
            *adreno.library_dispatch_passes(target),
            *legalise,
            *adreno.dataflow_lower_passes(target),
            *adreno.finalize_passes(target),
        ]
    )


@tvm.transform.module_pass(opt_level=0, name="smartmem.KeepGroupedConvolutionsPlain")
def keep_plain(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
    """Legalise convolutions and splits that the packed layouts cannot express."""
    return _rewrite(_KeepPlain(mod), mod)


@tvm.transform.module_pass(opt_level=0, name="smartmem.SplitByScopes")
def split_by_scopes(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
    """Give calls with different memory scopes different functions."""
    return _rewrite(_SplitByScopes(mod), mod)


def _rewrite(mutator: Any, mod: tvm.IRModule) -> tvm.IRModule:
    for gv, func in list(mod.functions.items()):
        if isinstance(func, relax.Function):
            mutator.builder_.update_func(gv, mutator.visit_expr(func))
    return mutator.builder_.get().with_attrs(dict(mod.attrs) if mod.attrs else {})


class PackedConvolution(dlight.adreno.Conv2d):
    """TVM's rule for packed convolutions, with whatever follows them."""

    def apply(self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool) -> Any:
        """Schedule the function; None where it is no packed convolution."""
        schedule = tvm.s_tir.Schedule(func)
        schedule.work_on("main")
        following: set[str] = set()
        for block in _blocks(schedule):
            name = schedule.get(block).name_hint
            consumers = schedule.get_consumers(block)
            if _PACKED in name or name in following:
                following.update(schedule.get(consumer).name_hint for consumer in consumers)
            if name in following and consumers:
                schedule.compute_inline(block)
        if super().apply(schedule, target, tunable) is None:
            return None
        for block in _blocks(schedule):
            loops = schedule.get_loops(block)
            if all(schedule.get(loop).thread_binding is None for loop in loops):
                dlight.adreno.Fallback.schedule_default(schedule, block)
        return schedule


class TextureStores(dlight.base.ScheduleRule):
    """One work-item for each texel that a function writes, and all that it needs computed there."""

    def apply(self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool) -> Any:
        """Schedule the function; None where it writes no texture."""
        # The output comes last.
        scope = getattr(func.params[-1].ty, "storage_scope", "") if func.params else ""
        if not scope.startswith(_TEXTURE):
            return None
        schedule = tvm.s_tir.Schedule(func)
        reductions = []
        for block in _blocks(schedule):
            if _is_reduction(schedule, block):
                reductions.append(block)
            elif schedule.get_consumers(block):
                schedule.compute_inline(block)
        store = _blocks(schedule)[-1]
        if _is_reduction(schedule, store):
            schedule.cache_write(store, 0, "local")
            store = _blocks(schedule)[-1]
        *loops, lane = schedule.get_loops(store)
        group, item = schedule.split(schedule.fuse(*loops), [None, _WORK_GROUP])
        schedule.bind(group, "blockIdx.x")
        schedule.bind(item, "threadIdx.x")
        schedule.vectorize(lane)
        for block in reversed(reductions):
            schedule.set_scope(block, 0, "local")
            schedule.compute_at(block, item)
        return schedule


def _is_reduction(schedule: tvm.s_tir.Schedule, block: Any) -> bool:
    return any(v.iter_type == tirx.IterVar.CommReduce for v in schedule.get(block).iter_vars)


def _blocks(schedule: tvm.s_tir.Schedule) -> list[Any]:
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))


@relax.expr_functor.mutator
class _KeepPlain(relax.PyExprMutator):
    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if isinstance(call, relax.Call) and _is_unpackable(call):
            return call.op.get_attr("FLegalize")(self.builder_, call)
        return call


def _is_unpackable(call: relax.Call) -> bool:
    if call.op.same_as(tvm.ir.Op.get("relax.split")):
        return int(call.attrs.axis) != _CHANNELS
    if not call.op.same_as(tvm.ir.Op.get("relax.nn.conv2d")) or int(call.attrs.groups) == 1:
        return False
    channels = (call.args[0].ty.shape[1], call.args[1].ty.shape[0])
    # As TVM counts blocks: the last one may be filled up.
    blocks = [-(-int(extent) // LANES) for extent in channels]
    return any(count % int(call.attrs.groups) for count in blocks)


@relax.expr_functor.mutator
class _SplitByScopes(relax.PyExprMutator):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._mod = mod
        self._call_tir = tvm.ir.Op.get("relax.call_tir")
        self._functions: dict[str, dict[tuple[str, ...], tvm.ir.GlobalVar]] = {}

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = self.visit_expr_post_order(call)
        if not isinstance(call, relax.Call) or not call.op.same_as(self._call_tir):
            return call
        callee = call.args[0]
        by_scopes = self._functions.setdefault(callee.name_hint, {})
        scopes = (*_scopes(call.args[1].ty), *_scopes(call.ty))
        if scopes not in by_scopes:
            own = callee
            if by_scopes:
                # The attribute is for the builder, which returns an equal function it has.
                copy = self._mod[callee].with_attr(_COPY_FOR, ",".join(scopes))
                own = self.builder_.add_func(copy, callee.name_hint)
            by_scopes[scopes] = own
        arguments = [by_scopes[scopes], *call.args[1:]]
        return relax.Call(call.op, arguments, call.attrs, call.ty_args, ret_ty=call.ty)


def _scopes(ty: Any) -> tuple[str, ...]:
    fields = ty.fields if isinstance(ty, relax.TupleType) else [ty]
    return tuple("" if f.vdevice is None else str(f.vdevice.memory_scope) for f in fields)
