"""One candidate: a kernel scheduled by a choice, checked against a device's limits, and built.

::

    func + Choice(Tile(rows=((0, 4),), lane=1, width=16, …))
      --schedule, verify-->  s_tir, one launch  --tvm.compile-->  host code + OpenCL C

The stages are the pipeline's own, so a candidate is what a compilation with this choice would make
of the function. No device is needed: the OpenCL C is compiled where it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir.schedule import ScheduleError
from tvm.target import Target

from smartmem_tvm.analysis import find_launches
from smartmem_tvm.analysis.fused_kernel import NotAKernel
from smartmem_tvm.schedules import RuleDeclined, rule_of
from smartmem_tvm.schedules.base import first_line
from smartmem_tvm.schedules.choice import Choice, choice_of, schedule_by

from ..devices import DeviceProfile, profile_for
from ..errors import SmartMemError
from ..execution import opencl_modules
from ..opencl_source import LARGEST_SOURCE, source_kernels
from ..pipeline import pipeline_stages

ENTRY = "kernel"


@tvm_ffi.register_error  # so that it passes through callbacks of TVM as itself
class IllegalCandidate(SmartMemError):
    """A choice that does not fit the kernel, or a kernel that the device could not run."""


@dataclass(frozen=True)
class Candidate:
    """A kernel that is ready to be launched or exported.

    Attributes
    ----------
    executable : tvm.runtime.Executable
        With the function :data:`ENTRY`, which takes the kernel's tensors.
    facts : dict[str, Any]
        ``rule``, ``choice`` (what was chosen in the end, None for rules of TVM), ``work_group``,
        ``source_bytes``, ``local_bytes`` and ``arguments``: the largest of its launches.
    """

    executable: Any
    facts: dict[str, Any] = field(default_factory=dict)


class ByChoice:
    """A schedule rule that does as a choice says and never leaves a function to other rules."""

    name = "ByChoice"

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def apply(self, func: tirx.PrimFunc, _target: Target, _tunable: bool) -> s_tir.Schedule:
        """Return the schedule; raise IllegalCandidate where the choice does not fit."""
        try:
            return schedule_by(func, self._choice)
        except (RuleDeclined, NotAKernel, ScheduleError) as error:
            raise IllegalCandidate(f"the schedule does not fit: {first_line(error)}") from error


def build_candidate(func: tirx.PrimFunc, target: Target, choice: Choice | None) -> Candidate:
    """Schedule a function by a choice and build it.

    Parameters
    ----------
    func : tvm.tirx.PrimFunc
        As it reaches the schedule rules of the pipeline: laid out, unscheduled, of static shapes.
    target : tvm.target.Target
        Of a device profile, with the host that launches the kernel.
    choice : Choice or None
        None for what this package's rules choose.

    Raises
    ------
    IllegalCandidate
        If the choice does not fit the function, or the kernel breaks a limit of the profile: work
        items of a group, local memory, arguments, or :data:`LARGEST_SOURCE` bytes of source.
    SmartMemError
        If no rule takes the function (only where `choice` is None).
    """
    profile = profile_for(target)
    mod = tvm.IRModule({ENTRY: func.with_attr("global_symbol", ENTRY)})
    rules = [] if choice is None else [ByChoice(choice)]
    stages = dict(pipeline_stages(target, rules=rules))
    with target:
        mod = tvm.transform.Sequential(stages["schedule"])(mod)
        work_group = _check_groups(mod[ENTRY], profile)
        mod, executable = _built(mod, target, stages["verify"], choice)
    sources = [module.inspect_source() for module in opencl_modules(executable.mod)]
    chosen = choice_of(mod[ENTRY])
    facts = {
        "rule": rule_of(mod[ENTRY]),
        "choice": None if chosen is None else chosen.to_dict(),
        "work_group": work_group,
        **check_sources(sources, profile),
    }
    return Candidate(executable, facts)


def _built(
    mod: tvm.IRModule, target: Target, verify: list[Any], choice: Choice | None
) -> tuple[tvm.IRModule, Any]:
    """Verify and lower; what a pass refuses is the choice's fault where there is one."""
    try:
        mod = tvm.transform.Sequential(verify)(mod)
        return mod, tvm.compile(mod, target=target, tir_pipeline="smartmem")
    except SmartMemError as error:
        if choice is None:
            raise
        raise IllegalCandidate(first_line(error)) from error


def _check_groups(func: tirx.PrimFunc, profile: DeviceProfile) -> int:
    """The largest work-group of a scheduled function."""
    limits, largest = profile.work_group, 0
    for launch in find_launches(func):
        size = launch.work_group()
        if size is None:
            raise SmartMemError("the kernel has symbolic extents: only static shapes are measured.")
        largest = max(largest, size)
        extents = [launch.threads.get(f"threadIdx.{axis}", 1) for axis in "xyz"]
        too_long = any(int(n) > most for n, most in zip(extents, limits.max_dims, strict=True))
        if size > limits.max_size or too_long:
            shape = " x ".join(str(int(n)) for n in extents)
            most = " x ".join(map(str, limits.max_dims))
            raise IllegalCandidate(
                f"a work-group of {shape} work-items is larger than device '{profile.name}' allows "
                f"({limits.max_size}, at most {most})"
            )
    return largest


def check_sources(sources: Sequence[str], profile: DeviceProfile) -> dict[str, int]:
    """Facts of generated OpenCL C; raises IllegalCandidate where it breaks a limit.

    Returns
    -------
    dict
        ``source_bytes``, ``local_bytes`` (bytes of local memory) and ``arguments`` of the largest
        module and kernel.
    """
    kernels = [kernel for text in sources for kernel in source_kernels(text)]
    if not kernels:
        raise SmartMemError("the build has no OpenCL kernel: nothing of it would run on a device.")
    facts = {
        "source_bytes": max(len(text.encode()) for text in sources),
        "local_bytes": max(kernel.local_bytes for kernel in kernels),
        "arguments": max(kernel.arguments for kernel in kernels),
    }
    limits = {
        "source_bytes": (LARGEST_SOURCE, "bytes of source"),
        "local_bytes": (profile.local_memory.bytes, "bytes of local memory"),
        "arguments": (profile.compute.max_kernel_arguments, "kernel arguments"),
    }
    for name, (limit, what) in limits.items():
        if facts[name] > limit:
            raise IllegalCandidate(
                f"{facts[name]} {what} are more than device '{profile.name}' takes ({limit})"
            )
    return facts
