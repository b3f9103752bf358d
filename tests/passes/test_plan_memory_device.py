"""Storages of images, and what a device allocates for planned modules."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi
from planned_memory import GENERIC, PLACED, STORAGE, calls, storages
from small_models import mlp
from tvm import relax
from tvm.relax import op

from smartmem_tvm import runtime
from smartmem_tvm.analysis.memory_plan import read_memory
from smartmem_tvm.devices import load_profile
from smartmem_tvm.explaining import explain
from smartmem_tvm.frontend import import_model
from smartmem_tvm.passes import PlanMemory
from smartmem_tvm.pipeline import pipeline

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from runtime_helpers import image_or_skip, on_device
from texture_model import SHAPE, ThroughTextures, expected


def textures(extents, dtype="float32"):
    """A chain of textures in main: extents of each, between an input and an output in buffers."""
    builder = relax.BlockBuilder()
    keys = ["adreno", "opencl", "gpu"]
    target = tvm.target.Target({"kind": "opencl", "keys": keys}, host="llvm")
    buffer, texture = (relax.VDevice(target, 0, s) for s in ("global", "global.texture"))
    x = relax.Var("x", relax.TensorType((4,), dtype, buffer))
    extern = relax.ExternFunc("somewhere.write")
    with builder.function("main", [x]):
        before = x
        for shape in extents:
            made = op.builtin.alloc_tensor(relax.ShapeExpr(shape), dtype, 1, "global.texture")
            made = builder.emit(
                relax.Call(made.op, made.args, ty_args=[relax.TensorType(shape, dtype, texture)])
            )
            builder.emit(relax.Call(extern, [before, made], ty_args=[relax.TupleType([])]))
            before = made
        builder.emit_func_output(x)
    mod = builder.get()
    mod.update_global_info("vdevice", [buffer, texture])
    return mod


def test_images_share_with_their_equals_alone():
    shapes = [(6, 5, 4), (5, 6, 4), (6, 5, 4), (2, 3, 5, 4), (6, 5, 4), (6, 4, 4)]
    after = PlanMemory()(textures(shapes))
    kept = [call.args[0] for call in calls(after["main"], PLACED)]
    assert kept[0].same_as(kept[2])
    assert kept[2].same_as(kept[4])
    assert len(set(kept)) == len(storages(after)) == 4
    texels = [30, 30, 30, 30, 30, 24]
    memory = read_memory(after).scopes["global.texture"]
    assert memory.planned == 16 * (30 + 30 + 30 + 24)
    assert memory.live == 16 * 60
    assert memory.unplanned == 16 * sum(texels)


@pytest.mark.parametrize(("dtype", "row"), [("float32", 128), ("float16", 64)])
def test_storages_of_images_are_buffers_with_whole_rows(dtype, row):
    """As LowerAllocTensor makes them; the type of the tensor says that it is an image."""
    mod = textures([(6, 5, 4), (2, 3, 5, 4)], dtype)
    after, alone = PlanMemory()(mod), relax.transform.LowerAllocTensor()(mod)
    assert storages(after) == storages(alone) == [6 * row, 6 * row]
    for wanted in (STORAGE, PLACED):
        found, other = calls(after["main"], wanted), calls(alone["main"], wanted)
        for one, two in zip(found, other, strict=True):
            tvm.ir.assert_structural_equal(list(one.args[1:]), list(two.args[1:]))


def test_explained_is_what_the_pipeline_plans():
    mod, target = import_model(mlp()).mod, tvm.target.Target("opencl", host="llvm")
    memory = explain(mod, target).memory
    assert memory == read_memory(pipeline(target)(mod))
    assert memory.scopes["global"].planned > 0
    assert {reason for _, reason in memory.refused} == {"a result of the function"}


def pool_of(device):
    gc.collect()
    runtime.release_pool(device)
    return lambda: runtime.pool_stats(device)


COUNTERS = ("images_created", "buffers_created", "peak_bytes", "in_use_bytes")


@pytest.mark.parametrize("keys", [["adreno", "opencl", "gpu"], ["opencl", "gpu"]])
def test_textures_on_a_device(opencl_device, keys):
    """Also where TVM's planner asks for a flat texture, which no runtime has."""
    array = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
    image_or_skip(array, opencl_device, "global.texture")
    target = tvm.target.Target({"kind": "opencl", "keys": keys}, host="llvm")
    mod, old = ThroughTextures.clone(), ThroughTextures.global_infos["vdevice"]
    new = [relax.VDevice(target, 0, str(device.memory_scope)) for device in old]
    renamed = {str(device.memory_scope): other for device, other in zip(old, new, strict=True)}
    main = tvm_ffi.structural_map(
        mod["main"], (relax.VDevice, lambda device: renamed[str(device.memory_scope)])
    )
    mod.update_func(mod.get_global_var("main"), main)
    mod.update_global_info("vdevice", new)
    passes = [relax.transform.ToNonDataflow(), relax.transform.RemovePurityChecking()]
    passes += [relax.transform.CallTIRRewrite(), PlanMemory()]
    passes += [p for p in GENERIC.finalize_passes(target) if "Static" not in p.info.name]
    with target:
        lower = tvm.transform.Sequential(passes)
        built = relax.build(mod, target, relax_pipeline=lower, tir_pipeline="smartmem")
    stats = pool_of(opencl_device)
    machine = relax.VirtualMachine(built, [opencl_device, opencl_device])
    x = on_device(array, opencl_device)
    start = stats()
    for _ in range(2):
        np.testing.assert_array_equal(machine["main"](x).numpy(), expected(array))
    second = stats()
    assert second["images_created"] == start["images_created"] + 2
    for _ in range(3):
        np.testing.assert_array_equal(machine["main"](x).numpy(), expected(array))
    assert {c: stats()[c] for c in COUNTERS} == {c: second[c] for c in COUNTERS}


def test_a_model_through_the_pipeline(opencl_device):
    """The pipeline's plan is this one; it is all that the device allocates, and only once."""
    imported = import_model("zoo:vit/micro")
    target = load_profile("cpu").target()
    names = []

    @tvm.instrument.pass_instrument
    class Passes:
        def run_before_pass(self, mod, info):
            names.append(info.name)

    with tvm.transform.PassContext(opt_level=3, instruments=[Passes()]):
        lowered = pipeline(target)(imported.mod)
    assert names.count("smartmem.PlanMemory") == 1
    assert "StaticPlanBlockMemory" not in names
    memory = read_memory(lowered).scopes["global"]
    assert memory.live <= memory.planned < memory.unplanned / 3
    built = tvm.compile(lowered, target, relax_pipeline=tvm.transform.Sequential([]))
    machine = relax.VirtualMachine(built, opencl_device)
    (param,) = lowered["main"].params
    x = tvm.runtime.tensor(
        np.ones([int(e) for e in param.ty.shape.values], "float32"), opencl_device
    )
    stats = pool_of(opencl_device)
    before = stats()["in_use_bytes"]
    first = machine["main"](x).numpy()
    np.testing.assert_array_equal(machine["main"](x).numpy(), first)
    second = stats()
    outputs = 2 * first.nbytes  # the machine holds its last result until the next is there
    assert second["in_use_bytes"] + second["free_bytes"] - before <= memory.planned + outputs
    for _ in range(3):
        np.testing.assert_array_equal(machine["main"](x).numpy(), first)
    assert {c: stats()[c] for c in COUNTERS} == {c: second[c] for c in COUNTERS}
