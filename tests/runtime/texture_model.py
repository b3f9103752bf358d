"""A Relax model whose intermediates are textures, planned and run by the VM."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

ADRENO = {"kind": "opencl", "device": "adreno", "keys": ["adreno", "opencl", "gpu"]}
KERNELS = ["up_kernel", "mid_kernel", "down_kernel"]
SHAPE = (6, 5, 4)


@I.ir_module
class ThroughTextures:
    I.module_global_infos(
        {"vdevice": [I.vdevice(ADRENO, 0, "global"), I.vdevice(ADRENO, 0, "global.texture")]}
    )

    @T.prim_func(private=True, s_tir=True)
    def up(
        A: T.Buffer((6, 5, 4), "float32"), C: T.Buffer((6, 5, 4), "float32", scope="global.texture")
    ):
        L = T.sblock_alloc_buffer((4,), "float32", scope="local")
        for i in T.thread_binding(6, thread="blockIdx.x"):
            for j in T.thread_binding(5, thread="threadIdx.x"):
                for k in T.serial(4):
                    with T.sblock("l"):
                        vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                        L[vk] = A[vi, vj, vk] + T.float32(1)
                with T.sblock("c"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    T.reads(L[0:4])
                    T.writes(C[vi, vj, 0:4])
                    C[vi, vj, T.ramp(0, 1, 4)] = L[T.ramp(0, 1, 4)]

    @T.prim_func(private=True, s_tir=True)
    def mid(
        A: T.Buffer((6, 5, 4), "float32", scope="global.texture"),
        C: T.Buffer((5, 6, 4), "float32", scope="global.texture"),
    ):
        L = T.sblock_alloc_buffer((4,), "float32", scope="local")
        for i in T.thread_binding(5, thread="blockIdx.x"):
            for j in T.thread_binding(6, thread="threadIdx.x"):
                for k in T.serial(4):
                    with T.sblock("l"):
                        vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                        L[vk] = A[vj, vi, vk] * T.float32(2)
                with T.sblock("c"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    T.reads(L[0:4])
                    T.writes(C[vi, vj, 0:4])
                    C[vi, vj, T.ramp(0, 1, 4)] = L[T.ramp(0, 1, 4)]

    @T.prim_func(private=True, s_tir=True)
    def down(
        A: T.Buffer((5, 6, 4), "float32", scope="global.texture"), C: T.Buffer((5, 6, 4), "float32")
    ):
        for i in T.thread_binding(5, thread="blockIdx.x"):
            for j in T.thread_binding(6, thread="threadIdx.x"):
                for k in T.serial(4):
                    with T.sblock("c"):
                        vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                        C[vi, vj, vk] = A[vi, vj, vk]

    @R.function
    def main(x: R.Tensor((6, 5, 4), "float32", "opencl:0:global")):
        cls = ThroughTextures
        with R.dataflow():
            a = R.call_tir(
                cls.up, (x,), out_ty=R.Tensor((6, 5, 4), "float32", "opencl:1:global.texture")
            )
            b = R.call_tir(
                cls.mid, (a,), out_ty=R.Tensor((5, 6, 4), "float32", "opencl:1:global.texture")
            )
            c = R.call_tir(cls.down, (b,), out_ty=R.Tensor((5, 6, 4), "float32", "opencl:0:global"))
            R.output(c)
        return c


def expected(x: np.ndarray) -> np.ndarray:
    return ((x + 1) * 2).transpose(1, 0, 2)


def virtual_machine(device) -> relax.VirtualMachine:
    lower = tvm.transform.Sequential(
        [
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )
    target = tvm.target.Target(ADRENO, host="llvm")
    with target:
        built = relax.build(ThroughTextures, target, relax_pipeline=lower, tir_pipeline="smartmem")
    return relax.VirtualMachine(built, [device, device])
