"""Refuse functions that the device cannot run as they are scheduled.

::

    @T.prim_func                      # target: opencl
    def f(A, C):
        for i in range(8):        →   SmartMemError: function 'f' reads or writes 'A' and 'C' on
            C[i] = A[i] + 1.0         the host, but they live on the device …

TVM builds such a function as host code that dereferences device handles: the process's memory is
corrupted and no error is raised. Also refused is a work-group larger than the target allows, which
a driver reports only at the launch, if at all.

Requires: scheduled functions, with a target of their own or ``Target.current()``.
Guarantees: every access to device memory is inside a launch; every static work-group fits. Changes
nothing.
"""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.target import Target

from smartmem_tvm.analysis import accesses_outside_launches, find_launches, is_host_function
from smartmem_tvm.errors import SmartMemError


@tvm.transform.module_pass(opt_level=0, name="smartmem.VerifyThreadBinding")
class VerifyThreadBinding:
    """Check thread bindings and work-group sizes of all device functions."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return `mod` itself, or raise SmartMemError."""
        current = Target.current(allow_none=True)
        for gv, func in mod.functions.items():
            if not isinstance(func, tirx.PrimFunc):
                continue
            own = func.attrs.get("target")
            target = own if own is not None else current
            if target is not None and not is_host_function(func, target):
                _check_bindings(gv.name_hint, func)
                _check_work_groups(gv.name_hint, func, target)
        return mod


def _check_bindings(name: str, func: tirx.PrimFunc) -> None:
    touched = [buffer.name for buffer in accesses_outside_launches(func)]
    if not touched:
        return
    buffers = ", ".join(f"'{buffer}'" for buffer in touched)
    reasons = [str(reason) for reason in func.attrs.get("smartmem.schedule_refusals") or []]
    tried = f" (schedule rules that declined it: {'; '.join(reasons)})" if reasons else ""
    raise SmartMemError(
        f"function '{name}' reads or writes {buffers} outside of any thread binding, so it would "
        f"run on the host, where device memory cannot be accessed{tried}: bind its loops to "
        "blockIdx and threadIdx, or apply a schedule rule that takes it"
    )


def _check_work_groups(name: str, func: tirx.PrimFunc, target: Target) -> None:
    limit = target.attrs.get("max_num_threads")
    if limit is None:
        return
    for index, launch in enumerate(find_launches(func)):
        size = launch.work_group()
        if size is not None and size > int(limit):
            axes = ", ".join(
                f"{tag} {extent}"
                for tag, extent in launch.threads.items()
                if tag.startswith("threadIdx.")
            )
            raise SmartMemError(
                f"kernel {index} of function '{name}' has a work-group of {size} work-items "
                f"({axes}), more than the {int(limit)} of target attribute max_num_threads: split "
                "the bound loops further"
            )
