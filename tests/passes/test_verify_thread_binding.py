"""VerifyThreadBinding: what would corrupt memory or not fit a work-group is an error."""

from __future__ import annotations

import pytest
import tvm
from tvm.script import ir as I
from tvm.script import tirx as T

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.passes import VerifyThreadBinding

OPENCL = tvm.target.Target({"kind": "opencl", "max_num_threads": 64}, host="llvm")


def _module(threads=None):
    if threads is None:

        @I.ir_module
        class Unbound:
            @T.prim_func(s_tir=True)
            def add_one(A: T.Buffer((8,), "float32"), C: T.Buffer((8,), "float32")):
                for i in range(8):
                    with T.sblock("c"):
                        vi = T.axis.remap("S", [i])
                        C[vi] = A[vi] + T.float32(1)

        return Unbound

    @I.ir_module
    class Bound:
        @T.prim_func(s_tir=True)
        def add_one(A: T.Buffer((8, threads), "float32"), C: T.Buffer((8, threads), "float32")):
            for i in T.thread_binding(8, thread="blockIdx.x"):
                for j in T.thread_binding(threads, thread="threadIdx.x"):
                    with T.sblock("c"):
                        vi, vj = T.axis.remap("SS", [i, j])
                        C[vi, vj] = A[vi, vj] + T.float32(1)

    return Bound


def _verify(mod, target=OPENCL):
    with target:
        return VerifyThreadBinding()(mod)


def test_bound_function_is_unchanged():
    mod = _module(64)
    tvm.ir.assert_structural_equal(_verify(mod), mod)


def test_unbound_function_is_named_with_its_buffers():
    with pytest.raises(SmartMemError, match="'add_one' reads or writes 'C', 'A' outside"):
        _verify(_module())


def test_the_target_attribute_counts_when_there_is_no_current_target():
    mod = tvm.tirx.transform.BindTarget(OPENCL)(_module())
    with pytest.raises(SmartMemError, match="'add_one' reads or writes"):
        VerifyThreadBinding()(mod)


def test_host_functions_may_touch_memory():
    mod = _module()
    marked = tvm.IRModule({"add_one": mod["add_one"].with_attr("tirx.is_host_func", True)})
    _verify(marked)
    _verify(mod, tvm.target.Target("llvm"))


def test_access_beside_a_launch_is_found():
    @I.ir_module
    class Mixed:
        @T.prim_func(s_tir=True)
        def add_one(A: T.Buffer((8,), "float32"), C: T.Buffer((9,), "float32")):
            for i in T.thread_binding(8, thread="threadIdx.x"):
                with T.sblock("c"):
                    vi = T.axis.remap("S", [i])
                    C[vi] = A[vi] + T.float32(1)
            for j in range(1):
                with T.sblock("tail"):
                    vj = T.axis.spatial(9, j + 8)
                    C[vj] = T.float32(0)

    with pytest.raises(SmartMemError, match="reads or writes 'C' outside"):
        _verify(Mixed)


def test_work_group_too_large_names_kernel_size_limit():
    with pytest.raises(
        SmartMemError,
        match=r"kernel 0 of function 'add_one' has a work-group "
        r"of 65 work-items \(threadIdx.x 65\), more than "
        r"the 64",
    ):
        _verify(_module(65))


def test_recorded_refusals_are_printed():
    func = _module()["add_one"].with_attr("smartmem.schedule_refusals", ["Matmul: no contraction"])
    with pytest.raises(SmartMemError, match="declined it: Matmul: no contraction"):
        _verify(tvm.IRModule({"add_one": func}))
