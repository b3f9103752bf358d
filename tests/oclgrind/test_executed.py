"""Artefacts under Oclgrind; skipped where it is not installed."""

from __future__ import annotations

import shutil

import pytest
import tvm
from small_models import mlp, mlp_input

import smartmem_tvm
from smartmem_tvm import SmartMemError, zoo
from smartmem_tvm.frontend import import_model
from smartmem_tvm.pipeline import as_target, pipeline_stages
from smartmem_tvm.traffic import estimate, executed

installed = pytest.mark.skipif(shutil.which("oclgrind") is None, reason="oclgrind is not installed")


def scheduled(imported):
    target = as_target("cpu")
    mod = imported.mod
    with target:
        for stage, passes in pipeline_stages(target):
            if stage == "lower":
                return mod
            mod = tvm.transform.Sequential(passes)(mod)
    raise LookupError("lower")


def near(imported, counts):
    """How many kernels' estimates are within 15 % of what was executed, and of how many."""
    guesses = {kernel.name: kernel for kernel in estimate(scheduled(imported)).kernels}
    good = 0
    for kernel in counts.kernels:
        guess = guesses[kernel.name]
        if guess.bytes is not None:
            good += abs(guess.bytes * kernel.launches - kernel.traffic) <= 0.15 * kernel.traffic
    return good, len(counts.kernels)


@installed
def test_one_inference_is_counted():
    artifact = smartmem_tvm.compile(mlp(), "cpu")
    counts = executed(artifact, mlp_input())
    assert counts.total.launches == artifact.manifest.launches
    assert {k.name for k in counts.kernels} == {k.name for k in artifact.manifest.kernels}
    footprint = sum(k.calls * k.footprint_bytes for k in artifact.manifest.kernels)
    # Whatever is touched is accessed at least once; every output is stored at least once.
    assert counts.bytes >= footprint
    assert counts.total.global_stored >= 4 * (3 * 8 + 3 * 32)
    assert executed(artifact, mlp_input()) == counts


@installed
def test_weights_in_images_are_uploaded():
    artifact = smartmem_tvm.compile(mlp(), "adreno-740")
    assert artifact.manifest.parameter_scopes
    counts = executed(artifact, mlp_input())
    assert counts.total.launches == artifact.manifest.launches
    assert counts.total.image_read > 0


@installed
def test_estimate_of_a_small_model():
    imported = import_model(mlp())
    counts = executed(smartmem_tvm.compile(imported, "cpu"))
    good, kernels = near(imported, counts)
    assert good == kernels > 0


@installed
@pytest.mark.slow
def test_estimates_over_the_micro_zoo():
    good = kernels = 0
    for entry in zoo.list_models():
        imported = import_model(f"zoo:{entry['name']}/micro")
        counts = executed(smartmem_tvm.compile(imported, "cpu"))
        near_here, here = near(imported, counts)
        good, kernels = good + near_here, kernels + here
    assert good >= 0.9 * kernels


@installed
def test_slow_models_are_given_up():
    with pytest.raises(SmartMemError, match=r"not done in Oclgrind after 0.1 s"):
        executed(smartmem_tvm.compile(mlp(), "cpu"), timeout_s=0.1)


def test_missing_program_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SmartMemError, match="apt install oclgrind"):
        executed("anything")


@installed
def test_half_precision_is_refused():
    artifact = smartmem_tvm.compile(mlp(), "adreno-740", dtype="float16")
    with pytest.raises(SmartMemError, match="no half precision"):
        executed(artifact)
