"""Functions of which TVM makes no vectors, by arithmetic.

::

    erf(x)        →        z = clamp(x, -4, 4); s = z * z; z * P(s) / Q(s)
    rsqrt(x)      →        1 / sqrt(x)

OpenCL's own error function must be right to 16 units in the last place for every argument, and TVM
calls it once for each lane: it takes 7 to 50 times as long as the quotient of polynomials (TOPI's
``fast_erf``, absolute error below 5e-7). GELU has one for each element of a transformer's widest
tensors. TVM itself lowers rsqrt to what is written here, but after it has given up the vector.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import tvm
import tvm_ffi
from tvm import te, tirx, topi
from tvm.ir.expr import TensorLoad
from tvm.ir.prim import expr as prim
from tvm_ffi import structural_equal, structural_map, structural_walk

from smartmem_tvm.analysis.expressions import dtype_of
from smartmem_tvm.analysis.index_reading import IF_THEN_ELSE

_ERF = tvm.ir.Op.get("tirx.erf")
_RSQRT = tvm.ir.Op.get("tirx.rsqrt")


def by_arithmetic(value: Any, keep: Callable[[Any], Any]) -> Any:
    """Value without error functions and reciprocal square roots.

    Parameters
    ----------
    value
        An expression.
    keep
        Computes an expression of float32 into a register, ahead of the value, and gives the
        register's load. Not called for what is computed under a condition: that may read what
        must not be read elsewhere.
    """

    def visit(node: Any, mutator: Any) -> Any:
        if _is_choice(node):
            return structural_map(node, (tvm.ir.Call, lambda c: _expanded(c, lambda part: part)))
        changed = mutator.default_mutate(node)
        return _expanded(changed, keep) if isinstance(changed, tvm.ir.Call) else changed

    if not _has_any(value):
        return value
    return tvm_ffi.structural_mutate(value, (tvm.ir.Expr, visit))


def _has_any(value: Any) -> bool:
    found: list[Any] = []
    structural_walk(value, (tvm.ir.Call, found.append))
    return any(call.op.same_as(_ERF) or call.op.same_as(_RSQRT) for call in found)


def _is_choice(node: Any) -> bool:
    if isinstance(node, tvm.ir.Call):
        return bool(node.op.same_as(IF_THEN_ELSE))
    return isinstance(node, tirx.Select)


def _expanded(call: tvm.ir.Call, keep: Callable[[Any], Any]) -> Any:
    dtype = dtype_of(call)
    if call.op.same_as(_RSQRT):
        return tirx.const(1, dtype) / tirx.sqrt(call.args[0])
    if not call.op.same_as(_ERF):
        return call
    (argument,) = call.args
    if dtype == "float16":
        return tirx.Cast(dtype, _quotient(tirx.Cast("float32", argument), keep))
    return _quotient(argument, keep) if dtype == "float32" else call


def _quotient(argument: Any, keep: Callable[[Any], Any]) -> Any:
    """TOPI's expression of the argument, with its square in a register of its own."""
    element, clamped, value = _stated()
    kept = keep(
        structural_map(
            clamped, (TensorLoad, lambda e: argument if e.source.same_as(element) else e)
        )
    )
    square = keep(kept * kept)
    marker = tirx.Var("clamped", "float32")
    value = structural_map(
        value, (prim.Max, lambda e: marker if structural_equal(e, clamped) else e)
    )

    def squared(product: prim.Mul) -> Any:
        twice = product.a.same_as(marker) and product.b.same_as(marker)
        return square if twice else product

    value = structural_map(value, (prim.Mul, squared))
    return structural_map(value, (tvm.ir.Var, lambda v: kept if v.same_as(marker) else v))


@cache
def _stated() -> tuple[Any, Any, Any]:
    """The buffer whose element is the argument, the clamped argument, and the whole."""
    place = te.placeholder((1,), "float32", "argument")
    func = te.create_prim_func([place, topi.fast_erf(place)])
    stores: list[Any] = []
    structural_walk(func.body, (tirx.BufferStore, stores.append))
    (store,) = stores
    clamps: list[Any] = []
    structural_walk(store.value, (prim.Max, clamps.append))
    return func.params[0], clamps[0], store.value
