"""list_kernels and kernel_names against TVM's own lowering and code generator."""

from __future__ import annotations

import re

import pytest
import tvm
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from smartmem_tvm.analysis import kernel_names, list_kernels
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.pipeline import SWITCHES, pipeline_stages

OPENCL = tvm.target.Target("opencl", host="llvm")


@I.ir_module
class Attention:
    @R.function
    def main(x: R.Tensor((4, 6, 8), "float32"), w: R.Tensor((8, 24), "float32")):
        with R.dataflow():
            q = R.matmul(x, w)
            s = R.split(R.reshape(q, (4, 6, 3, 8)), 3, axis=2)
            k = R.permute_dims(R.squeeze(s[1], axis=[2]), [0, 2, 1])
            p = R.nn.softmax(R.matmul(R.squeeze(s[0], axis=[2]), k), axis=-1)
            o = R.matmul(p, R.squeeze(s[2], axis=[2]))
            r = R.exp(R.exp(R.permute_dims(o, [1, 0, 2])))
            t = R.permute_dims(r, [1, 0, 2])
            R.output(t)
        return t


def _scheduled(mod, disable=()):
    with OPENCL:
        for name, passes in pipeline_stages(OPENCL, disable=disable):
            mod = tvm.transform.Sequential(passes)(mod)
            if name == "verify":
                return mod
    raise AssertionError("no stage 'verify'")


def _generated_kernels(mod):
    """Kernel names that TVM's code generator emits for the PrimFuncs of the module."""
    prim_funcs = tvm.IRModule(
        {gv: f for gv, f in mod.functions.items() if isinstance(f, tirx.PrimFunc)}
    )
    built = tvm.tirx.build(relax.transform.AttachGlobalSymbol()(prim_funcs), target=OPENCL)
    source = built.imports[0].inspect_source()
    return set(re.findall(r"__kernel void (\w+)\(", source))


@I.ir_module
class TwoLaunches:
    @T.prim_func(private=True, s_tir=True)
    def twice(A: T.Buffer((8,), "float32"), C: T.Buffer((8,), "float32")):
        B = T.sblock_alloc_buffer((8,), "float32")
        for i in T.thread_binding(8, thread="threadIdx.x"):
            with T.sblock("b"):
                v = T.axis.remap("S", [i])
                B[v] = A[v] + T.float32(1)
        for i in T.thread_binding(8, thread="threadIdx.x"):
            with T.sblock("c"):
                v = T.axis.remap("S", [i])
                C[v] = B[7 - v]

    @R.function
    def main(x: R.Tensor((8,), "float32")) -> R.Tensor((8,), "float32"):
        with R.dataflow():
            y = R.call_tir(TwoLaunches.twice, (x,), out_ty=R.Tensor((8,), "float32"))
            R.output(y)
        return y


@pytest.mark.parametrize("disable", [(), tuple(SWITCHES)])
def test_names_of_a_model_are_those_of_the_generated_source(disable):
    mod = _scheduled(Attention, disable)
    assert {kernel.name for kernel in list_kernels(mod)} == _generated_kernels(mod)


def test_names_are_those_of_the_generated_source():
    mod = _scheduled(TwoLaunches)
    kernels = list_kernels(mod)
    assert {kernel.name for kernel in kernels} == _generated_kernels(mod)
    assert len(kernels) > len({kernel.func for kernel in kernels})


def test_only_data_movement_counts_as_layout():
    layout = {k.func: k.layout_only for k in list_kernels(_scheduled(Attention, SWITCHES))}
    assert layout["softmax"] is False
    assert sum(layout.values()) >= 1


def test_no_layout_kernel_is_left():
    assert not any(kernel.layout_only for kernel in list_kernels(_scheduled(Attention)))


@I.ir_module
class Handwritten:
    @T.prim_func(private=True, s_tir=True)
    def copy(A: T.Buffer((8,), "float32"), C: T.Buffer((8,), "float32")):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            with T.sblock("c"):
                v = T.axis.remap("S", [i])
                C[v] = A[v]
        for i in T.thread_binding(8, thread="threadIdx.x"):
            with T.sblock("d"):
                v = T.axis.remap("S", [i])
                C[v] = C[v] + A[v]

    @T.prim_func(private=True, s_tir=True)
    def copy_kernel(A: T.Buffer((8,), "float32"), C: T.Buffer((8,), "float32")):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            with T.sblock("c"):
                v = T.axis.remap("S", [i])
                C[v] = A[7 - v]

    @T.prim_func(private=True, s_tir=True)
    def unused(A: T.Buffer((8,), "float32"), C: T.Buffer((8,), "float32")):
        for i in T.thread_binding(8, thread="threadIdx.x"):
            with T.sblock("c"):
                v = T.axis.remap("S", [i])
                C[v] = A[v]

    @R.function(private=True)
    def twice(x: R.Tensor((8,), "float32")):
        cls = Handwritten
        y = R.call_tir(cls.copy, (x,), out_ty=R.Tensor((8,), "float32"))
        z = R.call_tir(cls.copy, (y,), out_ty=R.Tensor((8,), "float32"))
        return z

    @R.function
    def main(x: R.Tensor((8,), "float32")):
        cls = Handwritten
        y = cls.twice(x)
        z = cls.twice(y)
        w = R.call_tir(cls.copy_kernel, (z,), out_ty=R.Tensor((8,), "float32"))
        return w


def test_calls_are_counted_per_call_site_through_functions():
    kernels = {kernel.name: kernel for kernel in list_kernels(Handwritten)}
    found = {name: (k.func, k.calls, k.layout_only) for name, k in kernels.items()}
    assert found == {
        "copy_kernel_1": ("copy", 4, True),
        "copy_kernel_2": ("copy", 4, False),
        "copy_kernel_kernel": ("copy_kernel", 1, True),
    }
    assert kernels["copy_kernel_kernel"].footprint_bytes == 64


def test_colliding_names_are_predicted_like_tvm_gives_them():
    names = kernel_names(Handwritten)
    assert {n for of_function in names.values() for n in of_function} == _generated_kernels(
        Handwritten
    )


def test_unscheduled_module_is_an_error():
    with OPENCL:
        legal = relax.transform.LegalizeOps()(Attention)
    with pytest.raises(SmartMemError, match="has no thread bindings"):
        list_kernels(legal)
