"""Cache simulation of scheduled kernels: what a mobile GPU's memory would see, without a phone.

::

    scheduled PrimFunc ── lowering ──► flat memory, vectors ── trace_kernel ──► host function
         LLVM runs it ──► places of each instruction's work-items ── cache model (C++) ──► counts

docs/simulation.md says what is counted.
"""

from __future__ import annotations

from .cache_model import CacheModel
from .configurations import CacheConfiguration, CacheConfigurations, CacheShape, load_configurations
from .models import simulate_model
from .results import Accesses, CacheCounts, Counts, KernelSimulation, LevelCounts, Simulation
from .simulate import simulate, simulate_function

__all__ = [
    "Accesses",
    "CacheConfiguration",
    "CacheConfigurations",
    "CacheCounts",
    "CacheModel",
    "CacheShape",
    "Counts",
    "KernelSimulation",
    "LevelCounts",
    "Simulation",
    "load_configurations",
    "simulate",
    "simulate_function",
    "simulate_model",
]
