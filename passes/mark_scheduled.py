"""Keep functions that arrive with a schedule out of fusion and out of the schedule rules.

::

    @T.prim_func                                      attributes  tirx.is_scheduled = 1
    def f(A, C):                                  →               op_pattern = opaque
        for i in T.thread_binding(8, "blockIdx.x"):
            ...

TVM's fusion inlines a scheduled elementwise function into its neighbour like any other: the
schedule is lost, and with it the memory scopes that it was written for.

Requires: nothing. Guarantees: every function with a launch is marked as scheduled and stays as it
is until it is lowered. Changes attributes only.
"""

from __future__ import annotations

import tvm
from tvm import tirx

from smartmem_tvm.analysis import find_launches

OPAQUE = 8  # relax's OpPatternKind.kOpaque: never fused


@tvm.transform.module_pass(opt_level=0, name="smartmem.MarkScheduled")
class MarkScheduled:
    """Mark functions that have thread bindings as scheduled and not fusable."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with the attributes set."""
        mod = mod.clone()
        for gv, func in list(mod.functions.items()):
            if isinstance(func, tirx.PrimFunc) and (
                func.attrs.get("tirx.is_scheduled") or find_launches(func)
            ):
                mod.update_func(
                    gv, func.with_attr({"tirx.is_scheduled": True, "op_pattern": OPAQUE})
                )
        return mod
