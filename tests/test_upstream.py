"""Each fault of TVM that has a workaround is still there: a failure here means one was mended.

Then remove the workaround (smartmem_tvm/upstream.py says which) and the test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, te, tirx, topi
from tvm.ir.expr import TensorLoad
from tvm.s_tir import dlight
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T
from tvm.tirx import compilation_pipeline
from tvm.tirx.build import split_host_device_mods
from tvm_ffi import structural_walk

from smartmem_tvm.analysis import foreign_local_read
from smartmem_tvm.pipeline import pipeline
from smartmem_tvm.upstream import DLIGHT_ERRORS, adreno_tir_pipeline, mixed_precision

sys.path.insert(0, str(Path(__file__).parent / "passes"))
from texture_kernels import add_one, conv_relu_conv

OPENCL = tvm.target.Target("opencl", host="llvm")
ADRENO = {"kind": "opencl", "keys": ["adreno", "opencl", "gpu"]}
MENDED = "TVM has mended this: see smartmem_tvm/upstream.py, fault"


def test_fault_1_adreno_entry_is_not_a_triple():
    registered = compilation_pipeline.PIPELINE_MAP["adreno"]()
    assert not isinstance(registered, tuple), f"{MENDED} 1"
    with pytest.raises(TypeError):
        tvm.tirx.build(add_one((1, 2, 2, 4)), target=OPENCL, pipeline="adreno")


@pytest.mark.device
def test_fault_2_vectorised_texture_store_is_wrong(opencl_device):
    lower, finalise_host, finalise_device = adreno_tir_pipeline()
    compilation_pipeline.register_tir_pipeline(
        "test.upstream_texture", lambda: (lower, finalise_host, finalise_device)
    )
    try:
        built = tvm.tirx.build(
            add_one((1, 4, 4, 4)), target=OPENCL, pipeline="test.upstream_texture"
        )
    finally:
        del compilation_pipeline.PIPELINE_MAP["test.upstream_texture"]
    a = np.random.default_rng(0).random((1, 4, 4, 4), "float32")
    source, result = (
        tvm.runtime.empty(a.shape, "float32", opencl_device, "global.texture") for _ in range(2)
    )
    source.copyfrom(a)
    built["main"](source, result)
    assert np.abs(result.numpy() - a - 1).max() > 0.1, f"{MENDED} 2"


def _degenerate_depthwise():
    data, kernel = te.placeholder((1, 4, 1, 1)), te.placeholder((4, 1, 3, 3))
    return te.create_prim_func(
        [data, kernel, topi.nn.relu(topi.nn.group_conv2d_nchw(data, kernel, 1, 1, 1, 4))]
    )


def test_fault_3_gemv_asserts_on_loops_of_extent_one():
    with OPENCL, pytest.raises(AssertionError):
        dlight.gpu.GEMV().apply(_degenerate_depthwise(), OPENCL, False)
    assert AssertionError in DLIGHT_ERRORS


def test_fault_4_unscheduled_function_builds_as_host_code():
    @I.ir_module
    class Unscheduled:
        @T.prim_func(s_tir=True)
        def main(A: T.Buffer((8,), "float32"), C: T.Buffer((8,), "float32")):
            for i in range(8):
                with T.sblock("c"):
                    vi = T.axis.remap("S", [i])
                    C[vi] = A[vi] + T.float32(1)

    built = tvm.tirx.build(Unscheduled, target=OPENCL)
    assert not built.imports, f"{MENDED} 4"


def test_fault_5_inner_texture_does_not_build():
    mod = tvm.tirx.transform.BindTarget(OPENCL)(conv_relu_conv(4, 2, 2))
    lower, _, _ = adreno_tir_pipeline()
    host, _ = split_host_device_mods(lower(mod))
    with pytest.raises(tvm.error.InternalError, match="tvm_stack_make_shape"):
        tirx.transform.LowerTVMBuiltin()(host)


def test_fault_6_lowering_twice_fails():
    @I.ir_module
    class Model:
        @R.function
        def main(x: R.Tensor((1, 8, 6, 6), "float32"), w: R.Tensor((8, 8, 3, 3), "float32")):
            with R.dataflow():
                y = R.nn.conv2d(x, w, padding=[1, 1])
                R.output(y)
            return y

    upstream = relax.get_default_pipeline(
        tvm.target.Target("qcom/adreno-opencl-texture", host="llvm")
    )
    lowered = upstream(Model)
    with pytest.raises(tvm.error.InternalError, match="output type of call_tir"):
        upstream(lowered)
    ours = pipeline(OPENCL)
    once = ours(Model)
    tvm.ir.assert_structural_equal(ours(once), once)


@I.ir_module
class WithCallTir:
    @T.prim_func(private=True, s_tir=True)
    def pad(A: T.Buffer((4, 6), "float32"), C: T.Buffer((4, 8), "float32")):
        for i, j in T.grid(4, 8):
            with T.sblock("pad"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = T.if_then_else(vj < 6, A[vi, vj], T.float32(0))

    @R.function
    def main(x: R.Tensor((4, 6), "float32"), w: R.Tensor((6, 6), "float32")):
        cls = WithCallTir
        with R.dataflow():
            product = R.matmul(x, w)
            padded = R.call_tir(cls.pad, (product,), out_ty=R.Tensor((4, 8), "float32"))
            y = R.exp(padded)
            R.output(y)
        return y


@I.ir_module
class IntoTexture:
    I.module_global_infos(
        {"vdevice": [I.vdevice(ADRENO, 0, "global"), I.vdevice(ADRENO, 0, "global.texture")]}
    )

    @T.prim_func(private=True, s_tir=True)
    def copy(
        A: T.Buffer((6, 5, 4), "float32"), C: T.Buffer((6, 5, 4), "float32", scope="global.texture")
    ):
        for i in T.thread_binding(6, thread="blockIdx.x"):
            for j in T.thread_binding(5, thread="threadIdx.x"):
                for k in T.vectorized(4):
                    with T.sblock("c"):
                        vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                        C[vi, vj, vk] = A[vi, vj, vk]

    @R.function
    def main(x: R.Tensor((6, 5, 4), "float32", "opencl:0:global")):
        cls = IntoTexture
        with R.dataflow():
            y = R.call_tir(
                cls.copy, (x,), out_ty=R.Tensor((6, 5, 4), "float32", "opencl:1:global.texture")
            )
            R.output(y)
        return y


def test_fault_8_mixed_precision_fails_on_call_tir():
    with pytest.raises(tvm.error.InternalError, match="Expected TensorType"):
        relax.transform.ToMixedPrecision(out_dtype="float32")(WithCallTir)
    after = mixed_precision("float32")(WithCallTir)
    relax.analysis.well_formed(after)  # raises when it is not
    text = after.script()
    assert 'out_ty=R.Tensor((4, 8), dtype="float32")' in text
    assert 'R.Tensor((4, 6), dtype="float16")' in text


def test_fault_7_textures_are_planned_as_flat_bytes_without_the_adreno_key():
    texture = I.vdevice({"kind": "opencl"}, 0, "global.texture")
    with OPENCL:
        planned = tvm.transform.Sequential(
            [
                relax.transform.UpdateVDevice(texture, 1),
                relax.transform.ToNonDataflow(),
                relax.transform.CallTIRRewrite(),
                relax.transform.StaticPlanBlockMemory(),
                relax.transform.LowerAllocTensor(),
            ]
        )(IntoTexture)
    scopes = []

    def visit(node):
        alloc = tvm.ir.Op.get("relax.memory.alloc_storage")
        if isinstance(node, relax.Call) and node.op.same_as(alloc):
            scopes.append(str(node.args[2].value))

    relax.analysis.post_order_visit(planned["main"], visit)
    assert scopes == ["global.texture"], f"{MENDED} 7"


@I.ir_module
class GroupedPointwise:
    """A 1x1 convolution of 16 channels in four groups, with a bias."""

    @T.prim_func(s_tir=True)
    def main(
        X: T.Buffer((16, 7, 7), "float32"),
        W: T.Buffer((32, 4), "float32"),
        B: T.Buffer((32,), "float32"),
        Y: T.Buffer((32, 7, 7), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        P = T.sblock_alloc_buffer((32, 7, 7), "float32")
        for f, y, x, c in T.grid(32, 7, 7, 4):
            with T.sblock("convolution"):
                vf, vy, vx, vc = T.axis.remap("SSSR", [f, y, x, c])
                with T.init():
                    P[vf, vy, vx] = T.float32(0)
                P[vf, vy, vx] = P[vf, vy, vx] + X[vf // 8 * 4 + vc, vy, vx] * W[vf, vc]
        for f, y, x in T.grid(32, 7, 7):
            with T.sblock("bias"):
                vf, vy, vx = T.axis.remap("SSS", [f, y, x])
                Y[vf, vy, vx] = P[vf, vy, vx] + B[vf]


@I.ir_module
class UnitReduction:
    """One product plus a bias, as a reduction over one element."""

    @T.prim_func(s_tir=True)
    def main(
        X: T.Buffer((8, 1), "float32"),
        B: T.Buffer((8,), "float32"),
        Y: T.Buffer((8,), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        P = T.sblock_alloc_buffer((8,), "float32")
        for i, k in T.grid(8, 1):
            with T.sblock("sum"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    P[vi] = T.float32(0)
                P[vi] = P[vi] + X[vi, vk]
        for i in range(8):
            with T.sblock("bias"):
                vi = T.axis.spatial(8, i)
                Y[vi] = P[vi] + B[vi]


def test_fault_9_dlight_reduction_reads_what_other_work_items_hold():
    schedule = dlight.gpu.Reduction().apply(GroupedPointwise["main"], OPENCL, False)
    assert schedule is not None, f"{MENDED} 9"
    assert foreign_local_read(schedule.mod["main"]) is not None, f"{MENDED} 9"


def test_fault_10_dlight_adds_an_epilogue_to_the_initial_value_too():
    schedule = dlight.gpu.Fallback().apply(UnitReduction["main"], OPENCL, False)
    biases = []
    structural_walk(
        schedule.mod["main"].body,
        (TensorLoad, lambda load: biases.append(load) if load.source.name == "B" else None),
    )
    assert len(biases) == 2, f"{MENDED} 10"
