"""Modules whose tensors are placed for a device with images, and what they compute."""

from __future__ import annotations

from dataclasses import replace

import tvm
from tvm import relax

from smartmem_tvm.analysis.tensor_layouts import read_tensor_layouts
from smartmem_tvm.devices import load_profile
from smartmem_tvm.passes import MapTextures
from smartmem_tvm.pipeline import pipeline_stages

ADRENO = load_profile("adreno-740")


def limited(**limits):
    return replace(ADRENO, texture=replace(ADRENO.texture, **limits))


def after(stage, mod, profile=ADRENO, *, weights=True, first=None):
    """The module after a stage of the pipeline, tensors placed for the profile.

    The first stage is that of the pipeline where no other is named.
    """
    placing = MapTextures(profile, weights=weights)
    target = profile.target()
    with target:
        for name, passes in pipeline_stages(target):
            first = None if name == first else first
            for one in passes if first is None else ():
                mod = (placing if one.info.name == "smartmem.MapTextures" else one)(mod)
            if name == stage:
                return mod
    raise LookupError(stage)


def scopes(mod):
    return {tensor.name: tensor.scope for tensor in read_tensor_layouts(mod) if not tensor.constant}


def run(mod, inputs, device, profile, first=None):
    target = profile.target()
    lowered = after("lower", mod, profile, first=first)
    with target:
        built = relax.build(
            lowered, target, relax_pipeline=tvm.transform.Sequential([]), tir_pipeline="smartmem"
        )
    machine = relax.VirtualMachine(built, [device, device])
    return machine["main"](*(tvm.runtime.tensor(x, device) for x in inputs)).numpy()
