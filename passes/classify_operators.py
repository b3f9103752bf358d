"""Write every function's layout class into its attributes.

::

    def matmul(A, B, C): ...   →   attributes  smartmem.layout_class = "ILD"
                                               smartmem.reduced = [[2], [0], []]

The class is derived from the function's blocks (:mod:`smartmem_tvm.analysis.layout_class`); the
second attribute lists, for each parameter, the dimensions that reduced axes run along. An opaque
function also says why, in ``smartmem.opaque_reason``.

Requires: PrimFuncs. Guarantees: attributes on every PrimFunc; nothing else changes. Source:
SmartMem, section 3.1, table 4.
"""

from __future__ import annotations

import tvm
from tvm import tirx

from smartmem_tvm.analysis.layout_class import Classification, classify

LAYOUT_CLASS = "smartmem.layout_class"
REDUCED = "smartmem.reduced"
OPAQUE_REASON = "smartmem.opaque_reason"


@tvm.transform.module_pass(opt_level=0, name="smartmem.ClassifyOperators")
class ClassifyOperators:
    """Annotate every PrimFunc with its layout class."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with the attributes set."""
        mod = mod.clone()
        for gv, func in list(mod.functions.items()):
            if isinstance(func, tirx.PrimFunc):
                mod.update_func(gv, func.with_attr(_attributes(classify(func))))
        return mod


def _attributes(found: Classification) -> dict[str, object]:
    attributes: dict[str, object] = {LAYOUT_CLASS: found.layout_class.value}
    if found.reason:
        attributes[OPAQUE_REASON] = found.reason
    else:
        attributes[REDUCED] = [list(dimensions) for dimensions in found.reduced]
    return attributes
