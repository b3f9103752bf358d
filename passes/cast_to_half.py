"""Store tensors as float16 and compute in float32.

::

    c = conv2d(x, w)                      c = conv2d(half(x), w16, out_dtype="float32")
    a = add(c, b)                         a = add(c, b)                  stays in a register
    s = sigmoid(a)                   →    s = sigmoid(a)
    y = multiply(a, s)                    y = multiply(a, s);  y16 = half(y)
    z = layer_norm(y, …)                  z = layer_norm(single(y16), …);  z16 = half(z)

An operator computes in float32, whatever its tensors are stored in; casts at both ends fuse into
its kernel. So a tensor is rounded where it goes from kernel to kernel, and only there. What an
operator makes

1. stays float32 where its readers are elementwise and come together again, in one of them or in a
   reduction with no other reduction before it: fusion leaves no tensor there. What lies before a
   result of the model is such a place too;
2. is float16 where a contraction reads it, or more kernels than one. Operators that only move or
   choose elements then move float16;
3. is float32, stored so, where its elements may exceed 65504 (sums, powers, exponentials, what is
   added to or multiplied with such); where the indices of a sort, top-k or cast to integers are
   computed from it; where it is a result of the model itself; where the profile keeps an operator.

Scores with a mask's constant added that only a softmax reads saturate at 65504 and are float16.
Contractions read float16 and accumulate in float32. Their constants become float16 unless they
exceed its range, are whole numbers that it cannot tell apart, or too small for it; so do those of
other operators that have several elements.

Requires: Relax operators in dataflow blocks. Guarantees: inputs and results keep their types; what
was not float32 is as before. Records every choice (``smartmem_tvm.analysis.half_storage``). Source:
SmartMem, section 4 (all models run in half precision); mixed precision after Micikevicius (2018).
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.ir.expr import GenericConst
from tvm.target import Target

from smartmem_tvm.analysis.half_storage import Choice, with_choices
from smartmem_tvm.devices import DeviceProfile, profile_for

from ._half_flow import MOVES, Flow, Stored, is_single
from ._half_kernels import HalfKernels
from ._half_rules import LARGEST, Kind


@tvm.transform.module_pass(opt_level=0, name="smartmem.CastToHalf")
class CastToHalf:
    """Store tensors as float16 where that is safe.

    Parameters
    ----------
    profile
        Device profile with the operators to keep; that of the current target when not given.
    """

    def __init__(self, profile: DeviceProfile | None = None) -> None:
        self.profile = profile

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with float16 between its kernels."""
        half = (self.profile or profile_for(Target.current(allow_none=True))).half
        keep = frozenset() if half is None else frozenset(half.keep_float32)
        choices: list[Choice] = []
        kernels = HalfKernels(mod.clone())
        changed = {}
        for gv, func in list(mod.functions.items()):
            if not isinstance(func, relax.Function) or not isinstance(func.body, relax.SeqExpr):
                continue
            flow = Flow(func, mod, keep)
            casts = _Casts(flow, kernels)
            blocks = [casts.block(block) for block in func.body.blocks]
            body = relax.SeqExpr(blocks, func.body.body)
            changed[gv] = relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)
            choices += casts.choices
        result = kernels.module()
        for gv, func in changed.items():
            result.update_func(gv, func)
        return with_choices(relax.transform.Normalize()(result), choices)


class _Casts:
    """Writes the bindings of one function with the casts that its flow asks for.

    A variable stays what its float32 form is bound to, so that nothing outside the dataflow blocks
    has to change.
    """

    def __init__(self, flow: Flow, kernels: HalfKernels) -> None:
        self.flow = flow
        self._kernels = kernels
        self.choices: list[Choice] = []
        self._bindings: list[Any] = []
        self._halves: dict[Any, Any] = {}
        self._rounded: dict[Any, Any] = {}
        self._unbound: set[Any] = set()  # made as float16, without a float32 form so far

    def block(self, block: Any) -> Any:
        """Block with casts; only dataflow blocks have some."""
        if not isinstance(block, relax.DataflowBlock):
            return block
        self._bindings = []
        for binding in block.bindings:
            self._write(binding)
        return relax.DataflowBlock(self._bindings)

    def _write(self, binding: Any) -> None:
        var, value = binding.var, binding.value
        plan = self.flow.plans[var]
        moved = plan.half and plan.kind in MOVES
        if isinstance(value, relax.Call):
            self._record(value, var, plan.half)
        if moved and is_single(var.ty):
            half = relax.DataflowVar(var.name, _halved(var.ty))
            self._bindings.append(relax.VarBinding(half, self._reading(value, plan, half.ty)))
            self._halves[var] = half
            self._unbound.add(var)
            if not isinstance(var, relax.DataflowVar):
                self._single(var)
            return
        if isinstance(binding, relax.MatchCast):
            value = self._reading(value, plan, None)
            self._bindings.append(relax.MatchCast(var, value, binding.ty))
            return
        self._bindings.append(relax.VarBinding(var, self._reading(value, plan, var.ty)))

    def _reading(self, value: Any, plan: Any, ty: Any) -> Any:
        """The value with its operands in the form that it reads."""
        if isinstance(value, relax.Call):
            if plan.kind in (Kind.ELEMENTWISE, Kind.REDUCTION) and plan.rounded:
                halves = {operand: self._half(operand) for operand in plan.rounded}
                call = self._kernels.call(value, halves)
                if call is not None:
                    return call
            args = [self._reading(arg, plan, None) for arg in value.args]
            attrs = value.attrs
            if plan.half and plan.kind is Kind.CONTRACTION:
                attrs = _with_out_dtype(attrs)
            return relax.Call(value.op, args, attrs, value.ty_args, ret_ty=ty)
        if isinstance(value, relax.Tuple):
            return relax.Tuple([self._reading(entry, plan, None) for entry in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(self._reading(value.tuple_value, plan, None), value.index)
        if not isinstance(value, (relax.Var, GenericConst)) or not is_single(value.ty):
            return value
        if plan.half:
            return self._half(value)
        if isinstance(value, GenericConst):
            return value
        return self._round(value) if value in plan.rounded else self._single(value)

    def _half(self, value: Any) -> Any:
        if isinstance(value, GenericConst):
            return relax.const(value.value.numpy().astype("float16"), "float16")
        if value not in self._halves:
            source = value
            if value in self.flow.plans and self.flow.plans[value].saturates:
                source = relax.DataflowVar(f"{value.name}_clipped", value.ty)
                clip = _typed(relax.op.clip(value, -LARGEST, LARGEST), value.ty)
                self._bindings.append(relax.VarBinding(source, clip))
            self._halves[value] = self._cast(source, "float16", f"{value.name}_half")
        return self._halves[value]

    def _single(self, value: Any) -> Any:
        if value in self._unbound:
            self._unbound.discard(value)
            cast = relax.op.astype(self._halves[value], "float32")
            self._bindings.append(relax.VarBinding(value, _typed(cast, value.ty)))
        return value

    def _round(self, value: Any) -> Any:
        half = self._half(value)
        if value in self._unbound:
            return self._single(value)
        if self.flow.plans[value].half and self.flow.plans[value].kind in MOVES:
            return value
        if value not in self._rounded:
            self._rounded[value] = self._cast(half, "float32", f"{value.name}_rounded")
        return self._rounded[value]

    def _cast(self, value: Any, dtype: str, name: str) -> Any:
        var = relax.DataflowVar(name, relax.TensorType(value.ty.shape, dtype))
        self._bindings.append(relax.VarBinding(var, _typed(relax.op.astype(value, dtype), var.ty)))
        return var

    def _record(self, call: Any, var: Any, half: bool) -> None:
        if not is_single(var.ty) or not isinstance(call.op, tvm.ir.Op):
            return
        found = self.flow.values[var]
        stored = Stored.SINGLE if found.stored is Stored.ANY else found.stored
        reads = "float16" if half or self.flow.plans[var].rounded else "float32"
        name = call.op.name.removeprefix("relax.")
        self.choices.append(Choice(name, reads, stored.value, found.reason))


def _halved(ty: Any) -> Any:
    if isinstance(ty, tvm.ir.TupleType):
        return tvm.ir.TupleType([_halved(item) for item in ty.fields])
    return relax.TensorType(ty.shape, "float16")


def _typed(call: Any, ty: Any) -> Any:
    return relax.Call(call.op, call.args, call.attrs, call.ty_args, ret_ty=ty)


def _with_out_dtype(attrs: Any) -> Any:
    info = type(attrs).__tvm_ffi_type_info__
    fields = {item.name: getattr(attrs, item.name) for item in info.fields}
    return tvm.ir.make_node(info.type_key, **{**fields, "out_dtype": "float32"})
