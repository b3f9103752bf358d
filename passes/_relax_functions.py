"""Rewriting the Relax functions of a module, for the passes that legalise calls of operators."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator


def rewrite_functions(mod: tvm.IRModule, rewriter: PyExprMutator) -> tvm.IRModule:
    """Return the rewriter's module with every Relax function visited by it."""
    for global_var, func in mod.functions.items():
        if isinstance(func, relax.Function):
            rewriter.builder_.update_func(global_var, rewriter.visit_expr(func))
    return rewriter.builder_.get()
