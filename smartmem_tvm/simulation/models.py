"""From a module of Relax operators to its simulation."""

from __future__ import annotations

from collections.abc import Callable, Collection

import tvm

from ..pipeline import pipeline_stages
from .configurations import CacheConfigurations
from .results import Simulation
from .simulate import simulate

_LAST = "verify"


def scheduled_module(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    dtype: str = "float32",
    disable: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
) -> tvm.IRModule:
    """The module after the pipeline's stage ``"verify"``: scheduled, textures not yet flattened."""
    with target:
        for name, passes in pipeline_stages(target, dtype, disable):
            if progress is not None:
                progress(name)
            mod = tvm.transform.Sequential(passes)(mod)
            if name == _LAST:
                return mod
    raise LookupError(f"the pipeline has no stage '{_LAST}'")


def simulate_model(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    configurations: CacheConfigurations | None = None,
    *,
    dtype: str = "float32",
    disable: Collection[str] = (),
    sample: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Simulation:
    """Run the pipeline up to scheduled kernels, then :func:`.simulate.simulate` them."""
    scheduled = scheduled_module(mod, target, dtype, disable, progress)
    return simulate(scheduled, target, configurations, sample=sample, progress=progress)
