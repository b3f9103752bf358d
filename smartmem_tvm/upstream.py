"""Workarounds for faults of Apache TVM 0.27, each with what it is and when it can go.

tests/test_upstream.py asserts that every fault is still there, so that an update of TVM that mends
one makes a test fail and the workaround is removed.

1. ``PIPELINE_MAP["adreno"]`` returns a pass where ``tirx.build`` unpacks (pass, host finaliser,
   device finaliser). `python/tvm/s_tir/backend/adreno/pipeline.py`, from apache/tvm#18523.
   Workaround: :func:`adreno_tir_pipeline`.
2. A vectorised store to a texture is split into scalars and each is broadcast to the four lanes of
   the texel: wrong values, no error. `src/tirx/transform/vectorize_loop.cc`, from the same change.
   Workaround: :class:`smartmem_tvm.passes.StageTextureStores`.
3. dlight's rules raise on functions that they should pass over, which ends compilation: the GEMV
   rule asserts on contractions whose loops have extent 1 (`dlight/analysis/gemv.py`) and reads
   ``.extent.value`` of a symbolic extent (apache/tvm#20047). Workaround: :data:`DLIGHT_ERRORS`,
   which ``smartmem_tvm.schedules.dlight`` turns into reasons.
4. An unscheduled function for an OpenCL target is built as host code that dereferences device
   handles; ``VerifyMemory`` lets it pass. Workaround:
   :class:`smartmem_tvm.passes.VerifyThreadBinding`.
5. A texture that a function allocates itself does not build: ``InjectTextureAlloc`` emits a
   ``DeclBuffer`` of the allocation where ``LowerTVMBuiltin`` looks for a ``Bind``, and the latter
   sets the arguments of the release before the allocation and lets launches overwrite them.
   Workaround: :func:`_lower_texture_allocations` in the host finaliser.
6. A module that TVM's Adreno pipeline has lowered fails deep inside the passes when it is lowered
   again ("Expect output type of call_tir"), which ``tvm.compile`` does with the result of a
   pipeline run by hand. Workaround: our pipeline marks what it has lowered and returns it as it is.
7. ``StaticPlanBlockMemory`` plans a texture as a flat number of bytes in the texture's scope, which
   no runtime can allocate, unless the target of its ``VDevice`` has the key "adreno"; then the
   storage is a buffer and the tensor a texture over it. Workaround: give that key to the targets of
   VDevices with texture scopes, on devices of any vendor.
8. ``ToMixedPrecision`` fails on a module that has a ``call_tir`` ("Expected TensorType, but got
   R.Callable"), which importers emit for operators without a Relax counterpart, such as pad.
   Workaround: :func:`mixed_precision`.
9. dlight's ``Reduction`` rule keeps a result in a local buffer and maps the epilogue's loops to the
   work-items in another order when the reduction splits a spatial axis, as a grouped 1×1
   convolution does: work-items read what others hold, wrong values without an error
   (`dlight/gpu/reduction.py`). Workaround: ``smartmem_tvm.schedules.dlight`` declines schedules for
   which :func:`smartmem_tvm.analysis.foreign_local_read` finds that.
10. dlight drops a reduction axis of extent 1 but keeps the block's initial value, and then inlines
   the epilogue into both the initial value and the update: a bias is added twice. Workaround:
   :class:`smartmem_tvm.passes.UnrollUnitReductions`.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.s_tir.schedule import ScheduleError
from tvm.tirx import compilation_pipeline

Finaliser = Callable[[], tvm.transform.Pass]

# What dlight's rules were seen to raise on functions they cannot handle (fault 3): their own
# asserts, attributes that a symbolic extent lacks, refused primitives, failed checks in C++.
DLIGHT_ERRORS = (AssertionError, AttributeError, ScheduleError, tvm.error.InternalError)


def mixed_precision(out_dtype: str) -> tvm.transform.Pass:
    """``relax.transform.ToMixedPrecision`` for modules with ``call_tir`` too (fault 8).

    While it runs, each ``call_tir(f, (a, b))`` is an ordinary call ``stand_in(a, b)``, whose
    arguments and result keep their types.
    """
    call_tir = tvm.ir.Op.get("relax.call_tir")

    @tvm.transform.module_pass(opt_level=0, name="smartmem.MixedPrecision")
    def run(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        originals: dict[relax.Var, relax.Call] = {}

        def hide(call: relax.Call) -> relax.Call:
            if not call.op.same_as(call_tir):
                return call
            arguments = list(call.args[1].fields)
            stand_in = relax.Var(
                f"stand_in_{len(originals)}", relax.FuncType([a.ty for a in arguments], call.ty)
            )
            originals[stand_in] = call
            return relax.Call(stand_in, arguments, ret_ty=call.ty)

        def restore(call: relax.Call) -> relax.Call:
            original = originals.get(call.op) if isinstance(call.op, relax.Var) else None
            if original is None:
                return call
            arguments = [original.args[0], relax.Tuple(call.args), *original.args[2:]]
            return relax.Call(
                call_tir, arguments, original.attrs, original.ty_args, ret_ty=original.ty
            )

        mod = _map_calls(mod, hide)
        mod = relax.transform.ToMixedPrecision(out_dtype=out_dtype)(mod)
        return relax.transform.Normalize()(_map_calls(mod, restore))

    return run


def _map_calls(mod: tvm.IRModule, change: Callable[[relax.Call], relax.Call]) -> tvm.IRModule:
    mod = mod.clone()
    for gv, func in list(mod.functions.items()):
        if isinstance(func, relax.Function):
            mod.update_func(gv, tvm_ffi.structural_map(func, (relax.Call, change)))
    return mod


def adreno_tir_pipeline() -> tuple[tvm.transform.Pass, Finaliser, Finaliser]:
    """TVM's TIR pipeline for textures in the form that ``tirx.build`` needs (faults 1 and 5)."""
    registered = compilation_pipeline.PIPELINE_MAP["adreno"]()
    if isinstance(registered, tuple):
        lower, finalise_host, finalise_device = registered
    else:
        lower = registered
        _, finalise_host, finalise_device = compilation_pipeline.PIPELINE_MAP["s_tir"]()

    def finalise_host_with_textures() -> tvm.transform.Pass:
        return tvm.transform.Sequential([_lower_texture_allocations(), finalise_host()])

    return lower, finalise_host_with_textures, finalise_device


def _lower_texture_allocations() -> tvm.transform.Pass:
    """Turn allocations of textures in host code into calls of the device API.

    ::

        T.decl_buffer(B, data=nd_mem_alloc_with_scope(…))     handle = device_api.X.alloc_nd(…)
        launches                                           →  T.decl_buffer(B, data=handle)
                                                              launches
                                                              device_api.X.free_nd(handle)
    """

    def transform(
        func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext
    ) -> tirx.PrimFunc:
        body = _TextureAllocations().run(func.body)
        return func if body.same_as(func.body) else func.with_body(body)

    return tirx.transform.prim_func_pass(
        transform, opt_level=0, name="smartmem.LowerTextureAllocations"
    )


class _TextureAllocations:
    """Mutator of one host function that knows the device of the statement it is at."""

    def __init__(self) -> None:
        self._allocate = tvm.ir.Op.get("tirx.nd_mem_alloc_with_scope")
        self._device: dict[str, tvm.ir.Expr] = {}

    def run(self, body: tirx.Stmt) -> tirx.Stmt:
        return tvm_ffi.structural_mutate(
            body, [(tirx.AttrStmt, self._attribute), (tirx.SeqStmt, self._sequence)]
        )

    def _attribute(self, stmt: tirx.AttrStmt, mutator: tvm_ffi.StructuralMutator) -> tirx.Stmt:
        outer = dict(self._device)
        if stmt.attr_key in ("device_type", "device_id"):
            self._device[stmt.attr_key] = stmt.value
        new = mutator.default_mutate(stmt)
        self._device = outer
        return new

    def _sequence(self, stmt: tirx.SeqStmt, mutator: tvm_ffi.StructuralMutator) -> tirx.Stmt:
        stmts: list[tirx.Stmt] = []
        releases: list[tirx.Stmt] = []
        for child in stmt.seq:
            if self._allocates(child):
                before, release = self._lower(child)
                stmts += before
                releases.insert(0, release)
            else:
                stmts.append(mutator.mutate(child))
        return tirx.SeqStmt([*stmts, *releases]) if releases else mutator.default_mutate(stmt)

    def _allocates(self, stmt: tirx.Stmt) -> bool:
        return (
            isinstance(stmt, tirx.DeclBuffer)
            and isinstance(stmt.data, tvm.ir.Call)
            and stmt.data.op.same_as(self._allocate)
        )

    def _lower(self, stmt: tirx.DeclBuffer) -> tuple[list[tirx.Stmt], tirx.Stmt]:
        device_type = self._device["device_type"]
        device = [device_type, self._device["device_id"]]
        api = f"device_api.{tvm.runtime.device(int(device_type), 0).type}"
        dtype = tvm.DataType(stmt.buffer.ty.dtype.dtype)
        handle = tirx.Var(f"{stmt.buffer.name}_handle", stmt.data.ty)
        packed = tvm.ir.Op.get("tirx.tvm_call_packed")
        allocation = tvm.ir.Call(
            packed,
            [
                tvm.ir.StringImm(f"{api}.alloc_nd"),
                *device,
                tirx.const(int(dtype.type_code), "int32"),
                tirx.const(dtype.bits, "int32"),
                *stmt.data.args,
            ],
            ret_ty=stmt.data.ty,
        )
        fail = tirx.Evaluate(tirx.call_intrin("int32", "tirx.tvm_throw_last_error"))
        release = tirx.call_packed(f"{api}.free_nd", *device, stmt.data.args[0], handle)
        return (
            [
                tirx.Bind(handle, allocation),
                tirx.IfThenElse(tirx.isnullptr(handle), fail, None),
                tirx.DeclBuffer(stmt.buffer, data=handle),
            ],
            tirx.Evaluate(release),
        )
