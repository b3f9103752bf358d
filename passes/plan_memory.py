"""Tensors that are never in use at the same time share memory.

::

    a = R.builtin.alloc_tensor((64, 64))        s = R.memory.alloc_storage(16384)
    f(x, a)                                     a = R.memory.alloc_tensor(s, offset 0, (64, 64))
    b = R.builtin.alloc_tensor((64,))           f(x, a)
    g(a, b)                                 →   t = R.memory.alloc_storage(256)
    c = R.builtin.alloc_tensor((32, 64))        b = R.memory.alloc_tensor(t, offset 0, (64,))
    h(b, c)                                     g(a, b)
                                                c = R.memory.alloc_tensor(s, offset 0, (32, 64))
                                                h(b, c)

In place of ``relax.transform.StaticPlanBlockMemory``, which takes tensors in the order of the
program and keeps element types apart: :mod:`smartmem_tvm.analysis.liveness` says when a tensor is
in use, :mod:`smartmem_tvm.analysis.memory_plan` which may share,
:mod:`smartmem_tvm.analysis.memory_colouring` which do. Every tensor starts at the first byte of its
storage, because a kernel argument has no offset.

Left as they are, with a reason, for ``LowerAllocTensor``: results of the function or of a branch,
which outlive the plan, and images whose extents are known only at run time. The branches
of a conditional share what is free around it. The storage of an image is a buffer that only names
memory: the runtime makes an image of the tensor's own extents when it is bound. Images of one
storage have the same extents and format, so the runtime's pool has one image for all of them.

As TVM's pass does, this one takes extents from the function's attribute ``tir_var_upper_bound``,
and where ``relax.memory_plan_dynamic_func_output`` is set, gives results the size of their bound.

Requires: ``call_tir`` lowered by ``CallTIRRewrite``; to be followed by ``LowerAllocTensor`` and
``KillAfterLastUse``. Guarantees: the same values; bytes by scope recorded in the module. Source:
TOpLib (memory colouring); SmartMem, section 3.3 (textures).
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from smartmem_tvm.analysis.liveness import Allocation, Liveness, read_liveness
from smartmem_tvm.analysis.memory_plan import Storage, count_memory, plan_memory, with_memory

# Set on functions whose results are to have storages of constant size.
_BOUND_RESULTS = "relax.memory_plan_dynamic_func_output"
_ROW_ALIGNMENT = "image_base_address_alignment"
_DEFAULT_ROW_ALIGNMENT = 64


@tvm.transform.module_pass(opt_level=0, name="smartmem.PlanMemory")
class PlanMemory:
    """Place tensors into shared storages, the least bytes per memory scope that it finds."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with storages."""
        updated = mod.clone()
        planned = []
        for gv, func in list(mod.functions.items()):
            if not isinstance(func, relax.Function):
                continue
            liveness = read_liveness(func, mod)
            storages = plan_memory(liveness)
            planned.append((liveness, storages))
            if _plans_results(func):
                storages = [*storages, *_bounded_results(liveness)]
            updated.update_func(gv, _Rewriter(storages).function(func))
        return with_memory(updated, count_memory(planned))


def _plans_results(func: relax.Function) -> bool:
    return func.attrs is not None and bool(func.attrs.get(_BOUND_RESULTS))


def _bounded_results(liveness: Liveness) -> list[Storage]:
    """Storages of their own for results whose extents are not constant but have bounds."""
    return [
        Storage(allocation.bytes, None, (allocation,))
        for allocation, _ in liveness.refused
        if allocation.factor is None and _is_open(allocation)
    ]


def _is_open(allocation: Allocation) -> bool:
    return not all(isinstance(extent, tvm.tirx.IntImm) for extent in allocation.var.ty.shape.values)


class _Rewriter:
    """Writes storages into one function.

    Each stands before the first tensor that it holds, or where they are of several branches, before
    the binding of the function's own sequence that has the first one inside.
    """

    def __init__(self, storages: list[Storage]) -> None:
        self._builder = relax.BlockBuilder()
        self._storage: dict[relax.Var, relax.Var] = {}  # of each tensor
        self._made: dict[relax.Var, list[relax.Binding]] = {}  # before each binding
        for storage in storages:
            first = storage.members[0]
            together = all(m.sequence.same_as(first.sequence) for m in storage.members)
            made = relax.op.memory.alloc_storage(*_reserved(storage))
            made = self._builder.normalize(made)
            var = relax.Var("storage", made.ty)
            place = first.var if together else first.outermost
            self._made.setdefault(place, []).append(relax.VarBinding(var, made))
            self._storage.update((member.var, var) for member in storage.members)

    def function(self, func: relax.Function) -> relax.Function:
        """The function with its storages."""
        if self._storage:
            body = self._sequence(func.body)
            func = relax.Function(
                func.params, body, func.ret_ty, func.is_pure, func.attrs, func.span
            )
        return func.without_attr(_BOUND_RESULTS) if _plans_results(func) else func

    def _sequence(self, sequence: relax.SeqExpr) -> relax.SeqExpr:
        blocks = []
        for block in sequence.blocks:
            bindings: list[relax.Binding] = []
            for binding in block.bindings:
                bindings += [*self._made.get(binding.var, ()), self._binding(binding)]
            blocks.append(type(block)(bindings))
        return self._builder.normalize(relax.SeqExpr(blocks, sequence.body, sequence.span))

    def _binding(self, binding: relax.Binding) -> relax.Binding:
        value = binding.value
        if isinstance(value, relax.If):
            branches = [
                self._sequence(branch) if isinstance(branch, relax.SeqExpr) else branch
                for branch in (value.true_branch, value.false_branch)
            ]
            value = relax.If(value.cond, *branches, value.span)
        elif binding.var in self._storage:
            shape, dtype, device, _ = value.args
            storage = self._storage[binding.var]
            value = relax.op.memory.alloc_tensor(storage, 0, shape, dtype, device)
        else:
            return binding
        return relax.VarBinding(binding.var, self._builder.normalize(value))


def _reserved(storage: Storage) -> tuple[relax.ShapeExpr, int, str, str]:
    """Arguments of ``alloc_storage``.

    Rows of an image are padded, as ``LowerAllocTensor`` does it, for runtimes that make images
    from buffers.
    """
    first = storage.members[0]
    if first.image is None:
        size: Any = tvm.tirx.IntImm("int64", storage.bytes)
        if storage.factor is not None:
            size = size * storage.factor.astype("int64")
        return relax.ShapeExpr([size]), first.device, first.scope, "uint8"
    row = first.image.columns * first.image.texel_bytes
    alignment = _row_alignment(first)
    padded = -(-row // alignment) * alignment * first.image.rows * first.image.layers
    return relax.ShapeExpr([padded]), first.device, "global", "uint8"


def _row_alignment(allocation: Allocation) -> int:
    device = getattr(allocation.var.ty, "vdevice", None)
    found = None if device is None else device.target.attrs.get(_ROW_ALIGNMENT)
    return _DEFAULT_ROW_ALIGNMENT if found is None else int(found)
