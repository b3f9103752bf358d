"""Scheduling, building and running one function with the package's own rules."""

from __future__ import annotations

import numpy as np
import tvm

from smartmem_tvm.analysis import find_launches
from smartmem_tvm.devices import load_profile
from smartmem_tvm.passes import VerifyThreadBinding
from smartmem_tvm.schedules import ApplySchedules, own_rules, refusals, rule_of


def schedule(func, profile="cpu", rules=None):
    """The function as our rules schedule it; it must become exactly one legal launch."""
    target = load_profile(profile).target()
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    with target:
        module = ApplySchedules(own_rules() if rules is None else rules)(module)
        scheduled = module["main"]
        assert rule_of(scheduled) is not None, refusals(scheduled)
        VerifyThreadBinding()(module)
    assert len(find_launches(scheduled)) == 1
    assert find_launches(scheduled)[0].repeats == 1
    return scheduled


def source_of(func, profile="cpu"):
    """OpenCL source of a scheduled function."""
    built = tvm.tirx.build(
        tvm.IRModule({"main": func}), target=load_profile(profile).target(), pipeline="smartmem"
    )
    return built, built.imports[0].inspect_source()


def run(func, inputs, outputs, device, profile="cpu"):
    """Results of a scheduled function; `outputs` are (shape, dtype) or arrays to fill."""
    built, source = source_of(func, profile)
    assert len(source) < 64 * 1024
    arguments = [tvm.runtime.tensor(np.ascontiguousarray(array), device) for array in inputs]
    results = [tvm.runtime.tensor(np.full(want.shape, 77, want.dtype), device) for want in outputs]
    built["main"](*arguments, *results)
    return [result.numpy() for result in results]


def check(func, inputs, expected, device, profile="cpu", rule=None, tolerance=2e-5):
    """Schedule, run and compare with NumPy's results; returns the scheduled function."""
    scheduled = schedule(func, profile)
    if rule is not None:
        assert rule_of(scheduled) == rule
    for got, want in zip(run(scheduled, inputs, expected, device, profile), expected, strict=True):
        assert got.dtype == want.dtype
        if want.dtype == bool:
            np.testing.assert_array_equal(got, want)
            continue
        scale = np.abs(want) + np.sqrt(np.mean(np.square(want, dtype="float64"))) + 1e-6
        assert float(np.max(np.abs(got - want) / scale)) < tolerance
    return scheduled


def normal(*shape, seed=0):
    """Seeded float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")
