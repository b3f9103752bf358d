"""Give what a long kernel computes again and again a name.

::

    s[0] = s[0] + a[min(g*14 + l*7, 9)*216 + r]         int i = min(g*14 + l*7, 9);
    s[1] = s[1] + a[min(g*14 + l*7, 9)*216 + r + 24]  →  int j = i*216 + r;
    …                                                    s[0] = s[0] + a[j]; s[1] = s[1] + a[j + 24]

TVM names them too, but its finaliser for devices writes them out again wherever they are read
(smartmem_tvm.upstream, fault 20): an unrolled kernel becomes up to five times longer than it need
be. Compilers find such expressions themselves, but those of phones take 64 KB of source. Kernels
that are surely shorter stay as they are: with all of them named, Swin and ViT were 1 to 7 % slower
on Intel's in seven of nine alternating runs.

Legal everywhere. Requires: device functions after all other lowering, as the code generator is
given them. Guarantees: the same values; functions of up to :data:`MOST_EXPRESSIONS` are untouched.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm_ffi import structural_walk

from smartmem_tvm.analysis.launches import THREAD_EXTENT
from smartmem_tvm.opencl_source import LARGEST_SOURCE

# An expression of a long source is 5 to 8 bytes (3,942 schedules of eight models of the zoo).
MOST_EXPRESSIONS = LARGEST_SOURCE // 9
# What the number of a work-item or group is as long as: ``(convert_int(get_local_id(0)))``.
_OF_THREAD = 3


@tvm.transform.module_pass(opt_level=0, name="smartmem.NameExpressions")
class NameExpressions:
    """Name the common subexpressions of functions whose source would be too long."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with shorter functions."""
        long = {
            gv: func
            for gv, func in mod.functions.items()
            if isinstance(func, tirx.PrimFunc) and length(func) > MOST_EXPRESSIONS
        }
        if not long:
            return mod
        mod = mod.clone()
        mod.update(tirx.transform.CommonSubexprElim()(tvm.IRModule(long)))
        return mod


def length(func: tirx.PrimFunc) -> int:
    """Expressions in a function's source, long ones counted as several."""
    threads: set[Any] = set()
    found = 0

    def thread(stmt: tirx.AttrStmt) -> None:
        if stmt.attr_key == THREAD_EXTENT:
            threads.add(stmt.node.var)

    def expression(expr: Any) -> None:
        nonlocal found
        found += _OF_THREAD if isinstance(expr, tirx.Var) and expr in threads else 1

    visits = [(tirx.AttrStmt, thread), (tvm.ir.Expr, expression)]
    structural_walk(func.body, visits, order="pre")
    return found
