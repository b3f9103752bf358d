"""The "smartmem" pipelines: registration, stages, targets, both TIR pipelines, numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T
from tvm.tirx import compilation_pipeline

from smartmem_tvm.analysis import list_kernels
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.pipeline import pipeline, pipeline_stages, register, tir_pipeline

OPENCL = tvm.target.Target("opencl", host="llvm")
# TVM plans storage for textures only for targets with this key (smartmem_tvm/upstream.py, fault 7).
ADRENO = {"kind": "opencl", "keys": ["adreno", "opencl", "gpu"]}


@I.ir_module
class Block:
    """A window-attention block: norm, windows, attention, projection, residual, MLP."""

    @R.function
    def main(
        x: R.Tensor((1, 196, 32), "float32"),
        scale: R.Tensor((32,), "float32"),
        shift: R.Tensor((32,), "float32"),
        wqkv: R.Tensor((32, 96), "float32"),
        bqkv: R.Tensor((96,), "float32"),
        wo: R.Tensor((32, 32), "float32"),
        w1: R.Tensor((32, 128), "float32"),
        w2: R.Tensor((128, 32), "float32"),
    ):
        with R.dataflow():
            n = R.nn.layer_norm(x, scale, shift, axes=[-1])
            a = R.permute_dims(R.reshape(n, (1, 2, 7, 2, 7, 32)), [0, 1, 3, 2, 4, 5])
            q = R.add(R.matmul(R.reshape(a, (4, 49, 32)), wqkv), bqkv)
            h = R.permute_dims(R.reshape(q, (4, 49, 3, 2, 16)), [2, 0, 3, 1, 4])
            s = R.split(h, 3, axis=0)
            k = R.permute_dims(R.squeeze(s[1], axis=[0]), [0, 1, 3, 2])
            d = R.multiply(R.squeeze(s[0], axis=[0]), R.const(0.25, "float32"))
            p = R.nn.softmax(R.matmul(d, k), axis=-1)
            o = R.permute_dims(R.matmul(p, R.squeeze(s[2], axis=[0])), [0, 2, 1, 3])
            j = R.matmul(R.reshape(o, (4, 49, 32)), wo)
            w = R.permute_dims(R.reshape(j, (1, 2, 2, 7, 7, 32)), [0, 1, 3, 2, 4, 5])
            r = R.add(x, R.reshape(w, (1, 196, 32)))
            f = R.matmul(R.nn.gelu(R.matmul(r, w1)), w2)
            y = R.add(r, f)
            R.output(y)
        return y


def _values():
    rng = np.random.default_rng(0)
    values = [
        rng.standard_normal([int(d) for d in p.ty.shape.values]).astype("float32")
        for p in Block["main"].params
    ]
    return [values[0], *(0.3 * v for v in values[1:])]


@pytest.fixture(scope="module")
def bound():
    """The block with its weights as constants."""
    names = [p.name for p in Block["main"].params]
    return relax.transform.BindParams("main", dict(zip(names[1:], _values()[1:], strict=True)))(
        Block
    )


def _reference():
    cpu = tvm.target.Target("llvm")
    vm = relax.VirtualMachine(tvm.compile(Block, cpu), tvm.cpu())
    return vm["main"](*(tvm.runtime.tensor(v) for v in _values())).numpy()


def _relative_error(ours, reference):
    scale = np.abs(reference) + np.sqrt(np.mean(np.square(reference)))
    return float(np.max(np.abs(ours - reference) / scale))


def _run(mod, device, **how):
    vm = relax.VirtualMachine(tvm.compile(mod, OPENCL, **how), device)
    return vm["main"](tvm.runtime.tensor(_values()[0], device)).numpy()


def test_registration_is_repeatable_and_keeps_tvm_names():
    relax_names = dict(relax.pipeline.PIPELINE_MAP)
    tir_names = dict(compilation_pipeline.PIPELINE_MAP)
    register()
    register()
    for name in ("zero", "default", "default_build", "static_shape_tuning"):
        assert relax.pipeline.PIPELINE_MAP[name] is relax_names[name]
        assert relax_names[name].__module__.startswith("tvm.")
    for name in ("default", "tirx", "s_tir", "adreno"):
        assert compilation_pipeline.PIPELINE_MAP[name] is tir_names[name]
        assert tir_names[name].__module__.startswith("tvm.")
    assert compilation_pipeline.PIPELINE_MAP["smartmem"] is tir_pipeline


@pytest.mark.parametrize("relax_pipeline", ["smartmem", "pass"])
@pytest.mark.parametrize("tir", ["default", "smartmem"])
def test_compiles_by_name_and_as_a_pass(bound, relax_pipeline, tir):
    register()
    chosen = pipeline(OPENCL) if relax_pipeline == "pass" else relax_pipeline
    built = tvm.compile(bound, OPENCL, relax_pipeline=chosen, tir_pipeline=tir)
    kernels = built.mod.imports[0].imports
    assert [module.kind for module in kernels] == ["opencl"]


def test_by_name_needs_a_target(bound):
    register()
    with pytest.raises(SmartMemError, match="needs a target"):
        relax.get_pipeline("smartmem")(bound)


def test_accepts_profiles_and_their_names():
    from smartmem_tvm.devices import load_profile

    by_name = pipeline_stages("adreno-740")
    assert [name for name, _ in by_name] == [
        n for n, _ in pipeline_stages(load_profile("adreno-740"))
    ]


def test_host_targets_and_unknown_dtypes_are_refused():
    with pytest.raises(SmartMemError, match="'llvm' runs code on the host"):
        pipeline(tvm.target.Target("llvm"))
    with pytest.raises(SmartMemError, match="dtype 'int4' is not supported: choose float32 or"):
        pipeline(OPENCL, "int4")


def test_lowered_module_comes_back_unchanged_or_is_refused(bound):
    register()
    lowered = pipeline(OPENCL)(bound)
    tvm.ir.assert_structural_equal(pipeline(OPENCL)(lowered), lowered)
    tvm.compile(lowered, OPENCL, relax_pipeline="smartmem")
    other = tvm.target.Target({"kind": "opencl", "max_num_threads": 64}, host="llvm")
    with pytest.raises(SmartMemError, match="already lowered, for target"):
        pipeline(other)(lowered)


def test_stages_are_instrumented(bound):
    seen = []

    @tvm.ir.instrument.pass_instrument
    class Record:
        def run_after_pass(self, mod, info):
            seen.append(str(info.name))

    with tvm.transform.PassContext(instruments=[Record()]):
        pipeline(OPENCL, "float16")(bound)
    stages = [name for name in seen if name.startswith("smartmem.") and name[9].isdigit()]
    assert stages == [
        "smartmem.1_simplify",
        "smartmem.2_cast_to_half",
        "smartmem.3_legalise",
        "smartmem.4_eliminate",
        "smartmem.5_layouts",
        "smartmem.6_schedule",
        "smartmem.7_verify",
        "smartmem.8_lower",
    ]
    assert {
        "smartmem.ApplySchedules",
        "smartmem.FuseOperators",
        "smartmem.RewriteLayouts",
        "smartmem.SelectLayouts",
        "smartmem.StageTextureStores",
    } <= set(seen)


def _verified(mod, dtype):
    with OPENCL:
        for name, passes in pipeline_stages(OPENCL, dtype):
            if name == "lower":
                return mod
            mod = tvm.transform.Sequential(passes)(mod)
    raise AssertionError("no stage 'lower'")


def test_storage_is_half_where_asked(bound):
    """More than half of the bytes between kernels and of the weights are float16."""
    tensors = {"float16": 0, "float32": 0}

    def count(node):
        if isinstance(node, relax.Call) and node.op.same_as(tvm.ir.Op.get("relax.call_tir")):
            for value in (node, *node.args[1].fields):
                ty = value.ty
                for tensor in ty.fields if isinstance(ty, relax.TupleType) else [ty]:
                    size = int(np.prod([int(d) for d in tensor.shape.values]))
                    tensors[str(tensor.dtype.dtype)] += size

    mod = _verified(bound, "float16")
    relax.analysis.post_order_visit(mod["main"], count)
    assert tensors["float16"] > tensors["float32"] > 0
    single, half = (
        sum(k.calls * k.footprint_bytes for k in list_kernels(_verified(bound, dtype)))
        for dtype in ("float32", "float16")
    )
    assert half < 0.75 * single
    main = pipeline(OPENCL, "float16")(bound)["main"]
    assert [str(p.ty.dtype.dtype) for p in main.params] == ["float32"]


@pytest.mark.device
@pytest.mark.parametrize("tir", ["default", "smartmem"])
def test_right_in_float32(bound, opencl_device, tir):
    register()
    ours = _run(bound, opencl_device, relax_pipeline="smartmem", tir_pipeline=tir)
    assert _relative_error(ours, _reference()) < 1e-4


@pytest.mark.device
def test_right_in_float16(bound, opencl_device):
    from smartmem_tvm import runtime

    if not runtime.list_devices()[opencl_device.index].fp16:
        pytest.skip("the device has no fp16")
    ours = _run(bound, opencl_device, relax_pipeline=pipeline(OPENCL, "float16"))
    assert ours.dtype == np.float32
    error = _relative_error(ours, _reference())
    assert 1e-6 < error < 2e-2  # not bit-equal either: half is really in use


@I.ir_module
class ThroughTexture:
    I.module_global_infos(
        {"vdevice": [I.vdevice(ADRENO, 0, "global"), I.vdevice(ADRENO, 0, "global.texture")]}
    )

    @T.prim_func(private=True, s_tir=True)
    def up(
        A: T.Buffer((6, 20), "float32"), C: T.Buffer((6, 5, 4), "float32", scope="global.texture")
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for i in T.thread_binding(6, thread="blockIdx.x"):
            for j in T.thread_binding(5, thread="threadIdx.x"):
                for k in T.vectorized(4):
                    with T.sblock("c"):
                        vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                        C[vi, vj, vk] = A[vi, vj * 4 + vk] + T.float32(1)

    @T.prim_func(private=True, s_tir=True)
    def down(
        A: T.Buffer((6, 5, 4), "float32", scope="global.texture"), C: T.Buffer((6, 20), "float32")
    ):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        for i in T.thread_binding(6, thread="blockIdx.x"):
            for j in T.thread_binding(20, thread="threadIdx.x"):
                with T.sblock("c"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    C[vi, vj] = A[vi, vj // 4, vj % 4] * T.float32(2)

    @R.function
    def main(x: R.Tensor((6, 20), "float32", "opencl:0:global")):
        cls = ThroughTexture
        with R.dataflow():
            y = R.call_tir(
                cls.up, (x,), out_ty=R.Tensor((6, 5, 4), "float32", "opencl:1:global.texture")
            )
            z = R.call_tir(cls.down, (y,), out_ty=R.Tensor((6, 20), "float32", "opencl:0:global"))
            R.output(z)
        return z


@pytest.mark.device
@pytest.mark.parametrize("tir", ["default", "smartmem"])
def test_texture_between_kernels_with_either_tir_pipeline(opencl_device, tir):
    register()
    built = tvm.compile(ThroughTexture, OPENCL, relax_pipeline="smartmem", tir_pipeline=tir)
    source = built.mod.imports[0].imports[0].inspect_source()
    assert "write_imagef" in source
    assert "READ_IMAGEF(A_ptr" in source
    vm = relax.VirtualMachine(built, [opencl_device, opencl_device])
    x = np.random.default_rng(0).random((6, 20), "float32")
    got = vm["main"](tvm.runtime.tensor(x, opencl_device)).numpy()
    np.testing.assert_allclose(got, (x + 1) * 2, rtol=1e-6)


def test_texture_store_that_cannot_be_right_stops_compilation():
    broken = ThroughTexture.clone()
    func = broken["up"]
    loop = func.body.block.body.body.body
    assert loop.kind == tirx.ForKind.VECTORIZED
    threads = tvm.s_tir.Schedule(tvm.IRModule({"main": func}))
    [block] = threads.get_child_blocks(threads.get_sblock("root"))
    threads.bind(threads.get_loops(block)[-1], "threadIdx.y")
    broken.update_func(broken.get_global_var("up"), threads.mod["main"])
    with pytest.raises(SmartMemError, match="'up' cannot write texture 'C'"):
        pipeline(OPENCL)(broken)
