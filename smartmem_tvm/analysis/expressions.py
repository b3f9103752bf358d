"""Variables, loads and constants in expressions: replacing, finding and making them."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map, structural_walk


def substitute(expr: Any, values: dict[Any, Any]) -> Any:
    """Expression with variables replaced; variables in the replacements stay."""
    if not values:
        return expr
    return structural_map(expr, (tvm.ir.Var, lambda var: values.get(var, var)))


def uses(expr: Any, var: Any) -> bool:
    """Whether the variable occurs in the expression."""
    found: list[Any] = []
    structural_walk(expr, (tvm.ir.Var, lambda v: found.append(v) if v.same_as(var) else None))
    return bool(found)


def loads_of(expr: Any) -> list[TensorLoad]:
    """Every load in an expression or a list of them, those inside of indices included."""
    found: list[TensorLoad] = []
    structural_walk(expr, (TensorLoad, found.append))
    return found


def simplify_indices(expr: Any, analyzer: sym.Analyzer) -> Any:
    """Expression whose loads have simplified indices; what is done with them stays as it is."""

    def simpler(load: TensorLoad) -> TensorLoad:
        return tirx.BufferLoad(load.source, [analyzer.simplify(i) for i in load.indices])

    return structural_map(expr, (TensorLoad, simpler))


def static(extent: Any) -> int | None:
    """Extent as an int, None when it is symbolic."""
    return int(extent) if isinstance(extent, (int, tirx.IntImm)) else None


def dtype_of(expr: Any) -> str:
    """Type of an expression, or of the elements of a buffer."""
    return str(getattr(expr.ty.dtype, "dtype", expr.ty.dtype))


def const(value: int, like: Any) -> tirx.IntImm:
    """Integer constant of the type of `like`."""
    return tirx.IntImm(dtype_of(like), value)
