"""Parts of a value that no loop around it changes, computed before the loops.

::

    for j in range(768):                                    d = rsqrt(s / 768.0 + 1e-6)
        O[j] = (x[j] - m) * rsqrt(s / 768.0 + 1e-6)   →     for j in range(768):
                                                                O[j] = (x[j] - m) * d

    for k in range(32): a += q[k] * K[at[i] // 7, k]   →    first = at[i] // 7
                                                            for k in range(32): a += … K[first, k]

Quotients and calls of registers alone, and what data say of an index. A compiler would move the
former itself if it did not have to prove that no store in the loop changes the registers, and may
not move the latter.

Legal for what is under no condition: it may not be read elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.ir.prim import expr as prim
from tvm.tirx import BufferLoad
from tvm_ffi import structural_walk

from smartmem_tvm.analysis.expressions import loads_of, uses
from smartmem_tvm.analysis.index_reading import IF_THEN_ELSE

from .lanes import is_float


def hoisted(value: Any, inner: Sequence[Any], register: Callable[[Any], Any]) -> Any:
    """Value with such parts in registers.

    Parameters
    ----------
    value
        An expression.
    inner
        Variables of the loops around it, and of its lanes.
    register
        Computes an expression before the loops and gives the register's load.
    """

    def rests(node: Any) -> bool:
        return not any(uses(node, var) for var in inner)

    def index(node: Any, mutator: Any) -> Any:
        if loads_of(node) and rests(node):
            return register(node)
        return node if isinstance(node, TensorLoad) else mutator.default_mutate(node)

    def visit(node: Any, mutator: Any) -> Any:
        if isinstance(node, TensorLoad) and any(loads_of(i) for i in node.indices):
            indices = [tvm_ffi.structural_mutate(i, (tvm.ir.Expr, index)) for i in node.indices]
            return BufferLoad(node.source, indices)
        if isinstance(node, (TensorLoad, tirx.Select)) or not is_float(node):
            return node
        if isinstance(node, tvm.ir.Call) and node.op.same_as(IF_THEN_ELSE):
            return node
        return register(node) if _is_costly(node) and rests(node) else mutator.default_mutate(node)

    return tvm_ffi.structural_mutate(value, (tvm.ir.Expr, visit))


def _is_costly(expr: Any) -> bool:
    """Whether a value is a quotient or a call whose operands are all in registers."""
    found: list[Any] = []
    structural_walk(expr, ((prim.Div, tvm.ir.Call), found.append))
    loads: list[Any] = []
    structural_walk(expr, (TensorLoad, loads.append))
    return bool(found) and all(load.source.ty.storage_scope == "local" for load in loads)
