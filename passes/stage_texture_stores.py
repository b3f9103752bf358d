"""Write textures one whole texel at a time.

::

    for k in T.vectorized(4):                      C_texel = alloc_buffer((4,), scope="local")
        C[i, j, k] = A[i, j, k] + 1.0       →      for k in T.vectorized(4):
                                                       C_texel[k] = A[i, j, k] + 1.0
                                                   C[i, j, 0:4] = C_texel[0:4]   # one 4-lane store

An image is written by whole texels. TVM 0.27 turns any other store into single lanes and then
writes each of them to all four: wrong values without an error (smartmem_tvm.upstream, fault 2).

A store to a texture is rewritten when it lies in a *lane loop*: a loop of extent 4, run by one
work-item, over which the last index takes each of 0, 1, 2, 3 once while the other indices stay the
same. Between the loop and the store there may be blocks, conditions that are the same for all lanes
and loops that do not move the store. A store that already writes lanes 0 to 3 as one ramp is kept.
All else is refused with the function, the buffer, the reason and the remedy, in particular:

- no lane loop, one of another extent or step, or one that may be left early;
- lanes spread over work-items; texels that every work-item of a bound thread axis writes;
- a condition per lane, a position that depends on data, the init of a reduction;
- several stores in one lane loop to the same texture that do not walk over the lanes together: they
  would change places; a lane loop inside a vectorized loop, whose iterations would share a texel;
- texels that are not float32 or float16 by four lanes;
- an image that the same kernel also reads, or one with several names: a view (match_buffer), a
  second buffer over its data, a pointer.

Requires: scheduled functions (s_tir blocks or plain loops), before TextureFlatten.
Guarantees: every remaining store to a texture writes lanes 0 to 3 of one texel.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import tvm
from tvm import tirx
from tvm.ir import Range
from tvm.s_tir import SBlock, SBlockRealize
from tvm_ffi import structural_mutate

from smartmem_tvm.analysis.expressions import substitute
from smartmem_tvm.analysis.texels import LANES, is_texture

from ._texture_access import (
    check_block,
    check_function,
    check_ramp,
    check_texels,
    refused,
    textures_stored,
)
from ._texture_legality import Frame, block_values, check_owner, find_lane_loop


@tvm.transform.module_pass(opt_level=0, name="smartmem.StageTextureStores")
class StageTextureStores:
    """Rewrite stores to texture-scoped buffers into whole-texel stores."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with every texture store staged."""
        mod = mod.clone()
        for gv, func in list(mod.functions.items()):
            if isinstance(func, tirx.PrimFunc) and textures_stored(func.body):
                check_function(gv.name_hint, func)
                body = _Stager(gv.name_hint).run(func.body)
                mod.update_func(gv, tirx.PrimFunc(func.params, body, func.ret_type, func.attrs))
        return mod


class _Stager:
    """Mutator of one function body; descends with the statements around it at hand."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frames: list[Frame] = []
        self.bound: dict[Any, Any] = {}

    def run(self, body: tirx.Stmt) -> tirx.Stmt:
        return structural_mutate(
            body,
            [
                (tirx.For, self._loop),
                (tirx.IfThenElse, self._branch),
                ((tirx.While, tirx.AttrStmt), self._opaque),
                (SBlockRealize, self._realize),
                (SBlock, self._block),
                (tirx.Bind, self._bind),
                (tirx.BufferStore, self._store),
            ],
        )

    def _within(self, frame: Frame, mutator: Any, node: Any, default: bool = True) -> Any:
        self.frames.append(frame)
        result = mutator.default_mutate(node) if default else mutator.mutate(node)
        self.frames.pop()
        return result

    def _loop(self, loop: tirx.For, mutator: Any) -> tirx.Stmt:
        frame = Frame(loop)
        rewritten = self._within(frame, mutator, loop)
        if not frame.texel_stores:
            return rewritten
        for buffer in frame.orders:
            if buffer in frame.written:
                raise self._out_of_order(buffer, loop)
        in_block = any(isinstance(f.node, SBlock) for f in self.frames)
        before = [] if in_block else [tirx.AllocBuffer(local) for local in frame.local]
        after = [store if in_block else _plain(store) for store in frame.texel_stores]
        return tirx.SeqStmt([*before, rewritten, *after])

    def _opaque(self, stmt: tirx.Stmt, mutator: Any) -> tirx.Stmt:
        return self._within(Frame(stmt), mutator, stmt)

    def _bind(self, stmt: tirx.Bind, mutator: Any) -> tirx.Stmt:
        self.bound[stmt.var] = substitute(stmt.value, self.bound)
        return mutator.default_mutate(stmt)

    def _branch(self, stmt: tirx.IfThenElse, mutator: Any) -> tirx.Stmt:
        then = self._within(Frame(stmt, stmt.condition), mutator, stmt.then_case, default=False)
        otherwise = stmt.else_case
        if otherwise is not None:
            otherwise = self._within(
                Frame(stmt, tirx.Not(stmt.condition)), mutator, otherwise, default=False
            )
        return tirx.IfThenElse(stmt.condition, then, otherwise)

    def _realize(self, stmt: SBlockRealize, mutator: Any) -> tirx.Stmt:
        return self._within(Frame(stmt, stmt.predicate), mutator, stmt)

    def _block(self, block: SBlock, mutator: Any) -> tirx.Stmt:
        check_block(self.name, block)
        frame = Frame(block)
        new = self._within(frame, mutator, block)
        if not frame.local and not frame.moved:
            return new
        writes = []
        for region in new.writes:
            writes += frame.moved.get(region.source, [region])
        return SBlock(
            new.iter_vars,
            new.reads,
            writes,
            new.name_hint,
            new.body,
            new.init,
            [*new.alloc_buffers, *frame.local],
            new.match_buffers,
            new.annotations,
        )

    def _store(self, store: tirx.BufferStore, mutator: Any) -> tirx.Stmt:
        buffer, last = store.buffer, store.indices[-1]
        if not is_texture(buffer):
            return store
        check_texels(self.name, buffer)
        if isinstance(last, tirx.Ramp):
            check_ramp(self.name, buffer, last)
            check_owner(self.name, store, self.frames, self.bound)
            for frame in self.frames:
                frame.written.add(buffer)
            return store
        lanes = find_lane_loop(self.name, store, self.frames, self.bound)
        check_owner(self.name, store, self.frames, self.bound)
        local = tirx.decl_buffer(
            (LANES,), buffer.ty.dtype.dtype, f"{buffer.name}_texel", scope="local", layout=None
        )
        loop = self.frames[lanes.at]
        if loop.orders.setdefault(buffer, lanes.order) != lanes.order:
            raise self._out_of_order(buffer, loop.node)
        loop.texel_stores.append(_texel_store(buffer, lanes.texel, lanes.conditions, local))
        self._allocate(lanes.at, local)
        for frame in self.frames[: lanes.at]:
            frame.written.add(buffer)
        for frame in self.frames[lanes.at + 1 :]:
            frame.moved.setdefault(buffer, []).append(_all_lanes(local))
        return tirx.BufferStore(local, store.value, [last])

    def _allocate(self, at: int, local: Any) -> None:
        for frame in reversed(self.frames[:at]):
            if isinstance(frame.node, SBlock):
                frame.local.append(local)
                return
        self.frames[at].local.append(local)

    def _out_of_order(self, buffer: Any, loop: tirx.For) -> Exception:
        """Stores that would change places when those of the lane loop move behind it."""
        return refused(
            self.name,
            buffer,
            f"loop '{loop.loop_var.name}' over its lanes has several stores to it, which do not "
            "walk over the lanes together",
            "give each store a loop over the lanes of its own",
        )


def _texel_store(buffer: Any, texel: list[Any], conditions: list[Any], local: Any) -> SBlockRealize:
    """A block that copies the staged lanes to the texel, guarded by the conditions."""
    iter_vars, values = [], []
    for number, (index, extent) in enumerate(zip(texel, buffer.ty.shape, strict=False)):
        var = tirx.Var(f"v{number}", extent.ty)
        zero = tirx.IntImm(extent.ty, 0)
        iter_vars.append(
            tirx.IterVar(Range.from_min_extent(zero, extent), var, tirx.IterVar.DataPar)
        )
        values.append(index if index.ty == extent.ty else index.astype(extent.ty.dtype))
    lanes = tirx.Ramp(tirx.const(0, "int32"), tirx.const(1, "int32"), LANES)
    variables = [iter_var.var for iter_var in iter_vars]
    body = tirx.BufferStore(buffer, tirx.BufferLoad(local, [lanes]), [*variables, lanes])
    points = [Range.from_min_extent(var, tirx.IntImm(var.ty, 1)) for var in variables]
    writes = [tirx.BufferRegion(buffer, [*points, _all_lanes(local).region[0]])]
    predicate = reduce(tirx.And, conditions) if conditions else tirx.const(True, "bool")
    return SBlockRealize(
        values,
        predicate,
        SBlock(iter_vars, [_all_lanes(local)], writes, f"{local.name}_store", body),
    )


def _all_lanes(local: Any) -> Any:
    return tirx.BufferRegion(
        local, [Range.from_min_extent(tirx.const(0, "int32"), tirx.const(LANES, "int32"))]
    )


def _plain(realize: SBlockRealize) -> tirx.Stmt:
    """The same store for a function without blocks."""
    body = substitute(realize.block.body, block_values(realize))
    if isinstance(realize.predicate, tirx.IntImm) and int(realize.predicate) == 1:
        return body
    return tirx.IfThenElse(realize.predicate, body, None)
