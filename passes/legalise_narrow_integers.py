"""Compute with integers of 8 and 16 bits in 32 bits, and cut every result to its type.

::

    a + b                →   Cast("int8", Cast("int32", a) + Cast("int32", b))       a, b: int8

OpenCL C promotes the operands to int, as C does: a sum that should overflow does not before it is
stored, and a built-in function that is called with the sum and an int8 element is ambiguous.

Legal for sums, differences, products, quotients, remainders, shifts and bitwise operators.

Requires: PrimFuncs. Guarantees: the same values; no result of these operators is a narrow integer.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir.prim.expr import BitwiseNot
from tvm_ffi import structural_map

NARROW = ("int8", "uint8", "int16", "uint16")
KINDS = (
    tirx.Add,
    tirx.Sub,
    tirx.Mul,
    tirx.Div,
    tirx.Mod,
    tirx.FloorDiv,
    tirx.FloorMod,
    tirx.LShift,
    tirx.RShift,
    tirx.BitwiseAnd,
    tirx.BitwiseOr,
    tirx.BitwiseXor,
    BitwiseNot,
)


@tvm.transform.module_pass(opt_level=0, name="smartmem.LegaliseNarrowIntegers")
class LegaliseNarrowIntegers:
    """Cut the results of arithmetic on narrow integers to their type."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with arithmetic on narrow integers in 32 bits."""
        mod = mod.clone()
        for gv, func in list(mod.functions.items()):
            if isinstance(func, tirx.PrimFunc):
                body = structural_map(func.body, (KINDS, _widened))
                if not body.same_as(func.body):
                    mod.update_func(gv, func.with_body(body))
        return mod


def _widened(expr: Any) -> Any:
    dtype = str(expr.ty.dtype)
    if dtype not in NARROW:
        return expr
    wide = "uint32" if dtype.startswith("u") else "int32"
    operands = (expr.a,) if isinstance(expr, BitwiseNot) else (expr.a, expr.b)
    return tirx.Cast(dtype, type(expr)(*(tirx.Cast(wide, operand) for operand in operands)))
