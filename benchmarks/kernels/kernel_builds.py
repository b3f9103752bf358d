"""The two versions of a kernel as libraries: our schedule and TVM's.

``ours`` is the function with its layouts, scheduled by our rules and lowered as in our pipeline.
``tvm`` is the plain function, scheduled by the rules of TVM's default GPU pipeline and built by
``tvm.compile`` with nothing said but the target; a rule that fails is passed over. Both compute the
same values.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.execution import opencl_modules
from smartmem_tvm.passes import VerifyThreadBinding
from smartmem_tvm.pipeline import pipeline_stages
from smartmem_tvm.schedules import ApplySchedules, dlight_rules, refusals, rule_of
from smartmem_tvm.schedules.base import IS_SCHEDULED, first_line
from smartmem_tvm.schedules.choice import choice_of
from smartmem_tvm.upstream import DLIGHT_ERRORS

VERSIONS = ("ours", "tvm")
FUNCTION = {"ours": "laid_out", "tvm": "plain"}  # as the pool names its files
ENTRY = "kernel"
# Parts of the package that decide what `ours` becomes, once the function is in the pool.
PARTS = ("schedules", "analysis", "passes", "pipeline", "upstream", "devices")
_LONGEST_REASON = 200
_STAGES = ("schedule", "verify")


def schedule_ours(func: tirx.PrimFunc, target: tvm.target.Target) -> tuple[Any, dict[str, Any]]:
    """Module with the scheduled function, and what is known of it: rule, tile, refusals."""
    mod = tvm.IRModule({ENTRY: func.with_attr("global_symbol", ENTRY)})
    with target:
        for name, passes in pipeline_stages(target):
            if name in _STAGES:
                mod = tvm.transform.Sequential(passes)(mod)
    scheduled = mod[ENTRY]
    rule, choice = rule_of(scheduled), choice_of(scheduled)
    facts = {
        "rule": rule,
        "tile": None if choice is None else asdict(choice.tile),
        "refusals": refusals(scheduled),
    }
    return mod, facts


def build_ours(func: tirx.PrimFunc, target: tvm.target.Target, library: Path) -> dict[str, Any]:
    """Schedule and build our version; returns what is known of it."""
    mod, facts = schedule_ours(func, target)
    built = tvm.compile(mod, target=target, tir_pipeline="smartmem")
    built.export_library(str(library))
    return {**facts, "source_bytes": _source_bytes(built)}


def build_tvm(func: tirx.PrimFunc, library: Path) -> dict[str, Any]:
    """Schedule and build TVM's version, by the first of its rules whose result builds.

    TVM would end with an error where a rule raises, or makes what cannot be lowered.
    """
    target = tvm.target.Target("opencl", host="llvm")
    mod = tvm.IRModule({ENTRY: func.with_attr("global_symbol", ENTRY)})
    reasons: list[str] = []
    for rule in dlight_rules():
        try:
            with target:
                scheduled = ApplySchedules([rule])(mod)
                func = scheduled[ENTRY]
                if not func.attrs.get(IS_SCHEDULED):
                    reasons += [text[:_LONGEST_REASON] for text in refusals(func)]
                    continue
                # What has no thread bindings would run on the host, with the device's pointers.
                VerifyThreadBinding()(scheduled)
            built = tvm.compile(scheduled, target=target)
        except (SmartMemError, ValueError, *DLIGHT_ERRORS) as error:
            reasons.append(f"{rule.name}: {first_line(error)}"[:_LONGEST_REASON])
            continue
        built.export_library(str(library))
        return {"rule": rule.name, "refusals": reasons, "source_bytes": _source_bytes(built)}
    raise SmartMemError(f"no rule of TVM's gives a kernel: {'; '.join(reasons)}")


def build_reference(func: tirx.PrimFunc) -> Any:
    """Unscheduled function for the host, to tell which of two versions is wrong."""
    mod = tvm.IRModule({ENTRY: func.with_attr("global_symbol", ENTRY)})
    return tvm.compile(mod, target="llvm")[ENTRY]


def _source_bytes(built: Any) -> int:
    module = getattr(built, "mod", built)
    total = sum(len(part.inspect_source().encode()) for part in opencl_modules(module))
    if not total:
        raise SmartMemError("the build has no OpenCL kernel")
    return total
