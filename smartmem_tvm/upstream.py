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
   handles; VerifyMemory passes it. Workaround: :class:`smartmem_tvm.passes.VerifyThreadBinding`.
5. A texture that a function allocates itself does not build: ``InjectTextureAlloc`` emits a
   ``DeclBuffer`` of the allocation where ``LowerTVMBuiltin`` looks for a ``Bind``, and the latter
   sets the arguments of the release before the allocation and lets launches overwrite them.
   Workaround: :func:`_lower_texture_allocations` in the host finaliser.
6. A module that TVM's Adreno pipeline has lowered fails deep inside the passes when it is lowered
   again ("Expect output type of call_tir"), which ``tvm.compile`` does with the result of a
   pipeline run by hand. Workaround: our pipeline marks what it has lowered and returns it as it is.
7. ``StaticPlanBlockMemory`` plans a texture as a flat number of bytes in the texture's scope, which
   no runtime can allocate, unless the target of its ``VDevice`` has the key "adreno". Workaround:
   :class:`smartmem_tvm.passes.PlanMemory`.
9. dlight's ``Reduction`` rule keeps a result in a local buffer and maps the epilogue's loops to the
   work-items in another order when the reduction splits a spatial axis, as a grouped 1×1
   convolution does: work-items read what others hold, wrong values without an error
   (`dlight/gpu/reduction.py`). Workaround: ``smartmem_tvm.schedules.dlight`` declines schedules for
   which :func:`smartmem_tvm.analysis.foreign_local_read` finds that.
10. dlight drops a reduction axis of extent 1 but keeps the block's initial value, and then inlines
   the epilogue into both the initial value and the update: a bias is added twice. Workaround:
   :class:`smartmem_tvm.passes.UnrollUnitReductions`.
11. ``IterMapSimplify`` loses offsets in dividends: ``(17 - x) % 6`` becomes ``x % -6 * -1``, which
   reads before the tensor, ``((2*x + y + 14) // 3 + 15) % 8`` becomes ``(2*x + y + 9) % 24 // 3``.
   ``FlattenBuffer`` and the layout primitives of schedules apply it to every index, so a flip that
   a reshape follows is lowered wrong (``SplitFloorModConst`` and ``PadDividendToDivisor`` in
   https://github.com/apache/tvm/blob/main/src/arith/iter_affine_map.cc). Workaround: PrimFuncs that
   we write have :func:`nonnegative_dividends`, and once they are scheduled
   :func:`truncate_divisions` leaves it nothing to simplify where it could be wrong.
12. Inverse trigonometric and hyperbolic functions, ``tan`` and a few others have no rule for
   OpenCL: C names reach the kernel. Workaround: :func:`register_opencl_functions`.
13. The OpenCL generator makes one number of the lanes of a vector of bytes that it gathers, as CUDA
   stores them: wrong values, no error. Workaround: ``smartmem_tvm.schedules.choose.moves_bytes``.
14. Maxima start at the least finite number: that of infinite elements is finite. Workaround:
   :class:`smartmem_tvm.passes.LegaliseExtremes`.
15. Arithmetic on integers of 8 and 16 bits is printed as it is, so that OpenCL C promotes it and it
   does not overflow. Workaround: :class:`smartmem_tvm.passes.LegaliseNarrowIntegers`.
16. ``scatter_nd`` becomes one function of which a part is scheduled and a part is not, and
   ``scatter_elements`` steps through the data with the strides of the indices. Workaround:
   :class:`smartmem_tvm.passes.LegaliseScatters`.
17. With a sub-group size in the target, ``LowerThreadAllreduce`` puts barriers into the branch of a
   part of a work-group. Workaround: targets of profiles have ``thread_warp_size`` 1.
18. The OpenCL generator takes two texels that it writes for one where their texts are equal and a
   register has changed: wrong values. Workaround: :class:`smartmem_tvm.passes.BindTexels`.
19. ``TuneContext`` imports ``tvm.s_tir.tensor_intrin``, which parses some 500 functions for other
   targets: 5 to 30 seconds of a process. `python/tvm/s_tir/meta_schedule/tune_context.py`.
   Workaround: :func:`without_tensor_intrinsics`.
20. What ``CommonSubexprElim`` names, ``StmtSimplify`` in the device finaliser writes out again
   wherever it is read, and leaves the names (`python/tvm/s_tir/pipeline.py`): unrolled kernels
   become up to five times longer, and compilers of phones refuse long ones. Workaround:
   :class:`smartmem_tvm.passes.NameExpressions`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import tvm
import tvm_ffi
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlock
from tvm.s_tir.schedule import ScheduleError
from tvm.tirx import compilation_pipeline

Finaliser = Callable[[], tvm.transform.Pass]

# What dlight's rules were seen to raise on functions they cannot handle (fault 3): their own
# asserts, attributes that a symbolic extent lacks, refused primitives, failed checks in C++.
DLIGHT_ERRORS = (AssertionError, AttributeError, ScheduleError, tvm.error.InternalError)


# Functions of OpenCL C without a rule of TVM's, all under the same name there.
OPENCL_FUNCTIONS = (
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "copysign", "hypot", "log1p",
    "nextafter", "tan",
)  # fmt: skip


@contextmanager
def without_tensor_intrinsics() -> Iterator[None]:
    """Let a ``TuneContext`` be made without TVM's tensor intrinsics, unless they are there."""
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


@functools.cache
def register_opencl_functions() -> None:
    """Lower the functions that OpenCL C has and TVM gives no rule for (fault 12)."""
    for name in OPENCL_FUNCTIONS:
        tirx.register_intrin_lowering(
            f"tirx.{name}",
            target="opencl",
            f=lambda call, name=name: tirx.call_pure_extern(str(call.ty.dtype), name, *call.args),
        )


def nonnegative_dividends(tree: Any) -> Any:
    """Expression or statement in which no iterator is subtracted inside a dividend (fault 11).

    ::

        (17 - x) % 6       →  5 - x % 6                 only subtracted: a % n = n-1 - (-a-1) % n
        (17 - x) // 6      →  2 - x // 6
        (4*y - x + 7) % 8  →  (4*y + 7*x + 7) % 8       both: -x = 7*x - 8*x
        (4*y - x + 7) // 8 →  (4*y + 7*x + 7) // 8 - x
    """
    return tvm_ffi.structural_map(tree, ((tirx.FloorDiv, tirx.FloorMod), _nonnegative_dividend))


def truncate_divisions() -> tvm.transform.Pass:
    """Write divisions of sums with an offset, in indices, as truncated ones (fault 11).

    ::

        A[(x + 3) % 6]  →  A[truncmod(x + 3, 6)]        where x + 3 is proved not to be negative

    Both mean the same there, and ``IterMapSimplify`` passes over truncated divisions. To be run on
    scheduled functions: before, schedule rules want to see the maps.
    """

    def transform(
        func: tirx.PrimFunc, _mod: tvm.IRModule, _ctx: tvm.transform.PassContext
    ) -> tirx.PrimFunc:
        analyzer = sym.Analyzer()

        def bind(node: Any) -> None:
            if isinstance(node, tirx.For):
                analyzer.bind(node.loop_var, tvm.ir.Range.from_min_extent(node.min, node.extent))
            else:
                for axis in node.iter_vars:
                    analyzer.bind(axis.var, axis.dom)

        def truncated(division: Any) -> Any:
            return _truncated(division, analyzer)

        def in_indices(node: Any) -> Any:
            kinds = ((tirx.FloorDiv, tirx.FloorMod), truncated)
            indices = [tvm_ffi.structural_map(index, kinds) for index in node.indices]
            if all(new.same_as(old) for new, old in zip(indices, node.indices, strict=True)):
                return node
            if isinstance(node, TensorLoad):
                return tirx.BufferLoad(node.source, indices)
            return tirx.BufferStore(node.buffer, node.value, indices)

        tvm_ffi.structural_walk(func.body, ((tirx.For, SBlock), bind))
        body = tvm_ffi.structural_map(func.body, ((TensorLoad, tirx.BufferStore), in_indices))
        return func if body.same_as(func.body) else func.with_body(body)

    return tirx.transform.prim_func_pass(transform, opt_level=0, name="smartmem.TruncateDivisions")


def _truncated(division: Any, analyzer: sym.Analyzer) -> Any:
    terms: list[tuple[Any, int]] = []
    if division.a.ty.dtype.lanes != 1 or not isinstance(division.b, tirx.IntImm):
        return division
    if not _add_terms(division.a, 1, terms) and all(factor > 0 for _, factor in terms):
        return division
    if int(division.b) <= 0:
        return division
    if analyzer.const_int_bound(division.a).min_value < 0:
        better = _nonnegative_dividend(division)
        if better is division:
            return division
        kinds = (tirx.FloorDiv, tirx.FloorMod)
        return tvm_ffi.structural_map(better, (kinds, lambda inner: _truncated(inner, analyzer)))
    make = tirx.Div if isinstance(division, tirx.FloorDiv) else tirx.Mod
    return make(division.a, division.b)


def _nonnegative_dividend(division: Any) -> Any:
    dividend, divisor = division.a, division.b
    dtype = dividend.ty.dtype
    if dtype.lanes != 1:
        return division
    terms: list[tuple[Any, int]] = []
    constant = _add_terms(dividend, 1, terms)
    if not any(factor < 0 and not _has_loads(term) for term, factor in terms):
        return division
    is_quotient = isinstance(division, tirx.FloorDiv)
    size = int(divisor) if isinstance(divisor, tirx.IntImm) else None
    if all(factor < 0 for _, factor in terms):
        mirrored = [(term, -factor) for term, factor in terms]
        value = _divided(is_quotient, mirrored, -constant - 1, divisor, size)
        return (-1 if is_quotient else divisor - 1) - value
    if size is None or size <= 0:
        return division
    taken = []
    lifted = []
    for term, factor in terms:
        times = -(factor // size) if factor < 0 and not _has_loads(term) else 0
        lifted.append((term, factor + times * size))
        taken.append((term, -times))
    value = _divided(is_quotient, lifted, constant, divisor, size)
    return value + _sum(taken, 0, dtype) if is_quotient else value


def _divided(
    is_quotient: bool, terms: list[tuple[Any, int]], constant: int, divisor: Any, size: int | None
) -> Any:
    """Quotient or remainder of a sum, whose constant stays below the divisor where that is one."""
    dtype = divisor.ty.dtype
    if size is None or size <= 0:
        total = _sum(terms, constant, dtype)
        return tirx.floordiv(total, divisor) if is_quotient else tirx.floormod(total, divisor)
    total = _sum(terms, constant % size, dtype)
    if is_quotient:
        return tirx.floordiv(total, divisor) + tirx.const(constant // size, dtype)
    return tirx.floormod(total, divisor)


def _add_terms(expr: Any, sign: int, terms: list[tuple[Any, int]]) -> int:
    """Split a sum into terms with integer factors; return its constant."""
    if isinstance(expr, tirx.IntImm):
        return sign * int(expr)
    if isinstance(expr, tirx.Add):
        return _add_terms(expr.a, sign, terms) + _add_terms(expr.b, sign, terms)
    if isinstance(expr, tirx.Sub):
        return _add_terms(expr.a, sign, terms) + _add_terms(expr.b, -sign, terms)
    if isinstance(expr, tirx.Mul) and isinstance(expr.b, tirx.IntImm):
        return _add_terms(expr.a, sign * int(expr.b), terms)
    if isinstance(expr, tirx.Mul) and isinstance(expr.a, tirx.IntImm):
        return _add_terms(expr.b, sign * int(expr.a), terms)
    if sign:
        terms.append((expr, sign))
    return 0


def _sum(terms: list[tuple[Any, int]], constant: int, dtype: Any) -> Any:
    total = tirx.const(constant, dtype)
    for term, factor in terms:
        if factor:
            product = term if factor == 1 else term * tirx.const(factor, dtype)
            total = total + product
    return total


def _has_loads(expr: Any) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(expr, (TensorLoad, found.append))
    return bool(found)


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
        # Statements are visited once: twice at every level would be exponential in the depth.
        if not any(self._allocates(child) for child in stmt.seq):
            return mutator.default_mutate(stmt)
        stmts: list[tirx.Stmt] = []
        releases: list[tirx.Stmt] = []
        for child in stmt.seq:
            if self._allocates(child):
                before, release = self._lower(child)
                stmts += before
                releases.insert(0, release)
            else:
                stmts.append(mutator.mutate(child))
        return tirx.SeqStmt([*stmts, *releases])

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
