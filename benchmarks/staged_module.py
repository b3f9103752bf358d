"""A model's module as it is before a stage of the pipeline."""

from __future__ import annotations

from collections.abc import Collection

import tvm

from smartmem_tvm.pipeline import pipeline_stages


def module_before(
    stage: str,
    mod: tvm.IRModule,
    target: tvm.target.Target,
    disable: Collection[str] = (),
    dtype: str = "float32",
) -> tvm.IRModule:
    """The module after all stages that come before the named one."""
    with target:
        for name, passes in pipeline_stages(target, dtype, disable):
            if name == stage:
                return mod
            mod = tvm.transform.Sequential(passes)(mod)
    raise LookupError(f"the pipeline has no stage '{stage}'")
