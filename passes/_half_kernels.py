"""Kernels of Relax operators that read float16 and compute in float32.

::

    add(x: float32, b: float32)   →   C[i] = Cast("float32", x16[i]) + Cast("float32", b16[i])

A cast of its own would join the kernel that makes the tensor, and float32 would lie between them.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir.expr import TensorLoad, TensorRegion
from tvm_ffi import structural_map

_CALL_TIR = "relax.call_tir"


class HalfKernels:
    """Makes PrimFuncs in one module."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self._builder = relax.BlockBuilder(mod)

    def module(self) -> tvm.IRModule:
        """The module with all PrimFuncs that were made."""
        return self._builder.get()

    def call(self, call: Any, halves: dict[Any, Any]) -> Any | None:
        """Call of a PrimFunc that does the same and reads some operands as float16.

        Parameters
        ----------
        call
            Call of an operator or a PrimFunc, with float32 operands.
        halves
            Float16 form of each operand that has one.

        Returns
        -------
        call
            None where the operator has no rule that makes one PrimFunc of it.
        """
        stand_ins: dict[Any, Any] = {}
        ty = call.ty
        args = [_replaced(arg, halves, stand_ins) for arg in call.args]
        call = relax.Call(call.op, args, call.attrs, call.ty_args, ret_ty=ty)
        if not call.op.same_as(tvm.ir.Op.get(_CALL_TIR)):
            legalise = call.op.get_attr("FLegalize")
            call = call if legalise is None else legalise(self._builder, call)
        if not isinstance(call, relax.Call) or not call.op.same_as(tvm.ir.Op.get(_CALL_TIR)):
            return None
        callee, operands, *rest = call.args
        func = self._builder.get()[callee]
        found = [stand_ins.get(operand) for operand in operands.fields]
        if not isinstance(func, tirx.PrimFunc) or not any(f is not None for f in found):
            return None
        read = {func.params[place] for place, half in enumerate(found) if half is not None}
        callee = self._builder.add_func(_reading_half(func, read), callee.name_hint)
        chosen = [
            operand if half is None else half
            for operand, half in zip(operands.fields, found, strict=True)
        ]
        return relax.Call(
            call.op, [callee, relax.Tuple(chosen), *rest], call.attrs, call.ty_args, ret_ty=ty
        )


def _replaced(arg: Any, halves: dict[Any, Any], stand_ins: dict[Any, Any]) -> Any:
    """Argument with a variable of its own for every operand that has a float16 form."""
    if isinstance(arg, relax.Tuple):
        return relax.Tuple([_replaced(entry, halves, stand_ins) for entry in arg.fields])
    if arg not in halves:
        return arg
    name = arg.name if isinstance(arg, relax.Var) else "constant"
    stand_in = relax.Var(name, relax.TensorType(arg.ty.shape, "float32"))
    stand_ins[stand_in] = halves[arg]
    return stand_in


def _reading_half(func: tirx.PrimFunc, read: set[Any]) -> tirx.PrimFunc:
    """PrimFunc whose parameters in ``read`` are float16, cast where they are loaded."""
    new = {
        old: tirx.decl_buffer(old.shape, "float16", old.name, layout=None)
        for old in func.params
        if old in read
    }

    def load(node: Any) -> Any:
        if node.source not in new:
            return node
        return tirx.Cast("float32", tirx.BufferLoad(new[node.source], node.indices))

    def region(node: Any) -> Any:
        return tirx.BufferRegion(new[node.source], node.region) if node.source in new else node

    body = structural_map(func.body, [(TensorLoad, load), (TensorRegion, region)])
    params = [new.get(param, param) for param in func.params]
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)
