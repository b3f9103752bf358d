"""Give what a kernel writes to an image, and where it reads one, a variable of its own.

::

    t[0:4] = a; write(image, x, t[0:4])              t[0:4] = a; v1 = t[0:4]; write(image, x, v1)
    t[0:4] = b; write(image, y, t[0:4])        →     t[0:4] = b; v2 = t[0:4]; write(image, y, v2)

TVM's generator keeps texels in variables by the text of their expressions and takes one for the
other where the text occurs again, although a register in it has changed meanwhile
(smartmem_tvm.upstream, fault 18).

Legal everywhere. Requires: device functions after all other lowering. Guarantees: no value that is
written, and no place that is read, names memory.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm_ffi import structural_map, structural_mutate

from smartmem_tvm.analysis.expressions import loads_of

_STORE = tvm.ir.Op.get("tirx.texture2d_store")
_LOAD = tvm.ir.Op.get("tirx.texture2d_load")


@tvm.transform.module_pass(opt_level=0, name="smartmem.BindTexels")
class BindTexels:
    """Bind the values of image writes, and the places of image reads, to variables."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with variables for texels."""
        mod = mod.clone()
        for gv, func in list(mod.functions.items()):
            if isinstance(func, tirx.PrimFunc):
                body = structural_mutate(func.body, ((tirx.Evaluate, tirx.BufferStore), _bound))
                if not body.same_as(func.body):
                    mod.update_func(gv, func.with_body(body))
        return mod


def _bound(stmt: Any, _mutator: Any) -> Any:
    """Statement after the variables that it needs."""
    before: list[Any] = []

    def named(expr: Any) -> Any:
        if not loads_of(expr):
            return expr
        var = tirx.Var(f"texel_{len(before)}", expr.ty)
        before.append(tirx.Bind(var, expr))
        return var

    def call(node: tvm.ir.Call) -> Any:
        arguments = list(node.args)
        if node.op.same_as(_STORE):
            arguments[-1] = named(arguments[-1])
        elif node.op.same_as(_LOAD):
            arguments[1:] = [named(argument) for argument in arguments[1:]]
        else:
            return node
        return tvm.ir.Call(node.op, arguments, node.attrs, ret_ty=node.ty)

    changed = structural_map(stmt, (tvm.ir.Call, call))
    return tirx.SeqStmt([*before, changed]) if before else stmt
