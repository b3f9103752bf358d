"""Moves the tensor constants of a lowered model out of the executable.

    def main(x):                              def main(x, parameters):
        matmul(x, const, out)       ──►           w = parameters[0]
        return out                                matmul(x, w, out)
                                                  return out

                                              def bind_parameters(p0, p1, …):
                                                  return (p0, p1, …)

Constants inside an executable are written into the shared library and copied to the device by
every virtual machine that loads it. As one tuple argument they live in a file of their own and
are uploaded once. ``bind_parameters`` exists for remote execution: an RPC client can hand over
tensors one by one but cannot build a tuple on the server.

Requires the form that the virtual machine's code generator takes (it runs after every pass that
wants to see constants); guarantees that only constants below ``SMALLEST`` bytes are left in
``main``.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir.expr import GenericConst

ENTRY = "main"
BIND = "bind_parameters"
SMALLEST = 64
"""Constants below this many bytes stay where they are: a register costs less than a tuple field."""


def lift_parameters(mod: tvm.IRModule) -> tuple[tvm.IRModule, dict[str, tvm.runtime.Tensor]]:
    """Turn the tensor constants of ``main`` into the fields of one tuple parameter.

    Parameters
    ----------
    mod : tvm.IRModule
        A module lowered for the virtual machine, with a function ``main``.

    Returns
    -------
    tuple[tvm.IRModule, dict[str, tvm.runtime.Tensor]]
        The module whose ``main`` takes one more parameter, a tuple, and the values of its fields
        by name, in the tuple's order. Both functions exist even where nothing was lifted.
    """
    mutator = _LiftConstants(mod)
    main = mutator.lift(mod[ENTRY])
    lifted = tvm.IRModule(mod.functions, attrs=mod.attrs, global_infos=mod.global_infos)
    lifted[mod.get_global_var(ENTRY)] = main
    lifted[BIND] = _bind_function([constant.ty for constant in mutator.constants])
    values = {f"p{i}": constant.value for i, constant in enumerate(mutator.constants)}
    return lifted, values


@relax.expr_functor.mutator
class _LiftConstants(relax.PyExprMutator):
    """Replaces each large constant by a variable that a leading block reads from the tuple."""

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.constants: list[GenericConst] = []
        self._variables: dict[GenericConst, relax.Var] = {}

    def lift(self, func: relax.Function) -> relax.Function:
        body = self.visit_expr(func.body)
        fields = [constant.ty for constant in self.constants]
        parameters = relax.Var("parameters", relax.TupleType(fields))
        reads = [
            relax.VarBinding(self._variables[constant], relax.TupleGetItem(parameters, i))
            for i, constant in enumerate(self.constants)
        ]
        body = relax.SeqExpr([relax.BindingBlock(reads), *body.blocks], body.body)
        return relax.Function(
            [*func.params, parameters], body, func.ret_ty, func.is_pure, func.attrs
        )

    def visit_generic_const_(self, op: GenericConst) -> relax.Expr:
        if not isinstance(op.value, tvm.runtime.Tensor) or _bytes(op.value) < SMALLEST:
            return op
        if op not in self._variables:
            self._variables[op] = relax.Var(f"p{len(self.constants)}", op.ty)
            self.constants.append(op)
        return self._variables[op]


def _bytes(tensor: tvm.runtime.Tensor) -> int:
    dtype = tvm.DataType(tensor.dtype)
    count = 1
    for extent in tensor.shape:
        count *= int(extent)
    return (count * dtype.bits * dtype.lanes + 7) // 8


def _bind_function(types: list[tvm.ir.Type]) -> relax.Function:
    params = [relax.Var(f"p{i}", ty) for i, ty in enumerate(types)]
    result = relax.Tuple(params)
    body = relax.SeqExpr([], result)
    attrs = {"global_symbol": BIND, "relax.force_pure": True}
    return relax.Function(params, body, relax.TupleType(types)).with_attrs(attrs)


__all__ = ["BIND", "ENTRY", "lift_parameters"]
