"""From a module of Relax operators to its simulation."""

from __future__ import annotations

from collections.abc import Callable, Collection

import tvm

from ..pipeline import module_before
from .configurations import CacheConfigurations
from .results import Simulation
from .simulate import simulate


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
    scheduled = module_before("lower", mod, target, dtype, disable, progress)
    return simulate(scheduled, target, configurations, sample=sample, progress=progress)
