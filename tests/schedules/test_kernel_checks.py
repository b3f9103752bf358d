"""What is checked of kernels without running them, for models of the zoo and for what is wrong."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import tvm
from tvm.script import tirx as T

from smartmem_tvm import zoo
from smartmem_tvm.devices import load_profile
from smartmem_tvm.frontend import import_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROFILES = ("adreno-640", "adreno-740", "cpu", "mali-g710", "nvidia-opencl")
QUICK = [("swin", "cpu"), ("efficientvit", "mali-g710"), ("pythia", "adreno-740")]
OTHERS = [
    (entry["name"], profile)
    for entry in zoo.list_models()
    for profile in PROFILES
    if (entry["name"], profile) not in QUICK
]


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import kernel_checks
        import staged_module
    finally:
        sys.path.remove(str(BENCHMARKS))
    return kernel_checks, staged_module


def check_model(model, profile_name, tools):
    kernel_checks, staged_module = tools
    profile = load_profile(profile_name)
    imported = import_model(f"zoo:{model}/micro")
    mod = staged_module.module_before("lower", imported.mod, profile.target())
    found = kernel_checks.check_module(mod, profile)
    assert found["violations"] == []
    assert found["kernels"] >= found["functions"] > 0
    assert len(found["sources"]) == found["kernels"]


@pytest.mark.parametrize(("model", "profile"), QUICK)
def test_kernels_of_a_model_are_legal(model, profile, tools):
    check_model(model, profile, tools)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "profile"), OTHERS)
def test_kernels_of_all_models_are_legal(model, profile, tools):
    check_model(model, profile, tools)


@T.prim_func(s_tir=True)
def large_group(x: T.Buffer((2048,), "float32"), y: T.Buffer((2048,), "float32")):
    for i in T.thread_binding(2, "blockIdx.x"):
        for j in T.thread_binding(1024, "threadIdx.x"):
            with T.sblock("y"):
                v = T.axis.spatial(2048, i * 1024 + j)
                y[v] = x[v]


@T.prim_func(s_tir=True)
def deep_group(x: T.Buffer((256,), "float32"), y: T.Buffer((256,), "float32")):
    for i in T.thread_binding(2, "blockIdx.x"):
        for j in T.thread_binding(128, "threadIdx.z"):
            with T.sblock("y"):
                v = T.axis.spatial(256, i * 128 + j)
                y[v] = x[v]


@T.prim_func(s_tir=True)
def much_local_memory(x: T.Buffer((64, 9216), "float32"), y: T.Buffer((64, 9216), "float32")):
    for i in T.thread_binding(64, "blockIdx.x"):
        for j in T.thread_binding(32, "threadIdx.x"):
            with T.sblock("row"):
                row = T.sblock_alloc_buffer((9216,), scope="shared")
                for k in range(288):
                    row[k * 32 + j] = x[i, k * 32 + j]
                for k in range(288):
                    y[i, k * 32 + j] = row[9215 - k * 32 - j]


@T.prim_func(s_tir=True)
def long_body(x: T.Buffer((64,), "float32"), y: T.Buffer((64, 2048), "float32")):
    for i in T.thread_binding(64, "blockIdx.x"):
        for j in T.unroll(2048):
            with T.sblock("y"):
                vi, vj = T.axis.remap("SS", [i, j])
                y[vi, vj] = x[vi] * T.float32(3)


@T.prim_func(s_tir=True)
def wide_indices(x: T.Buffer((2, T.int64(4294967296)), "int8"), y: T.Buffer((2, 64), "int8")):
    for k in T.thread_binding(T.int64(64), "blockIdx.x"):
        for i in range(T.int64(2)):
            with T.sblock("y"):
                vi, vk = T.axis.remap("SS", [i, k])
                y[vi, vk] = x[vi, vk * T.int64(4096)]


@T.prim_func(s_tir=True)
def barrier_in_a_branch(x: T.Buffer((64,), "float32"), y: T.Buffer((64,), "float32")):
    for i in T.thread_binding(2, "blockIdx.x"):
        for j in T.thread_binding(32, "threadIdx.x"):
            with T.sblock("row"):
                row = T.sblock_alloc_buffer((16,), scope="shared")
                if j < 16:
                    row[j] = x[i * 32 + j]
                    T.tvm_storage_sync("shared")
                    y[i * 32 + j] = row[15 - j]


@T.prim_func(s_tir=True)
def barrier_for_all(x: T.Buffer((64,), "float32"), y: T.Buffer((64,), "float32")):
    for i in T.thread_binding(2, "blockIdx.x"):
        for j in T.thread_binding(32, "threadIdx.x"):
            with T.sblock("row"):
                row = T.sblock_alloc_buffer((32,), scope="shared")
                if j < 16:
                    row[j] = x[i * 32 + j]
                if j >= 16:
                    row[j] = T.float32(0)
                if i < 1:
                    T.tvm_storage_sync("shared")
                y[i * 32 + j] = row[31 - j]


@T.prim_func(s_tir=True)
def on_the_host(x: T.Buffer((8,), "float32"), y: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.sblock("y"):
            v = T.axis.spatial(8, i)
            y[v] = x[v]


@pytest.mark.parametrize(
    ("func", "said"),
    [
        (large_group, r"\[1024, 1, 1\]: 512, \(512, 512, 64\) at most"),
        (deep_group, r"\[1, 1, 128\]: 512, \(512, 512, 64\) at most"),
        (on_the_host, "'x' is accessed outside of a launch"),
        (on_the_host, "nothing is launched"),
    ],
)
def test_illegal_launches_are_found(func, said, tools):
    kernel_checks, _ = tools
    limits = kernel_checks.Strictest(512, (512, 512, 64))
    lines, _ = kernel_checks.launch_violations(func, limits)
    assert any(re.search(said, line) for line in lines), lines


@pytest.mark.parametrize(
    ("func", "said"),
    [
        (deep_group, r"f: a work-group of \[1, 1, 128\]"),
        (much_local_memory, "f_kernel: 36864 bytes of local memory, 32768 at most"),
        (long_body, "bytes of source, 65535 at most"),
        (barrier_in_a_branch, r"a barrier that not all work-items reach: if .*< 16"),
        (wide_indices, "f_kernel: 64-bit integers: "),
    ],
)
def test_what_breaks_a_limit_is_found(func, said, tools):
    kernel_checks, _ = tools
    found = kernel_checks.check_module(tvm.IRModule({"f": func}), load_profile("cpu"))
    assert any(re.search(said, line) for line in found["violations"]), found


def test_facts_of_a_kernel(tools):
    kernel_checks, _ = tools
    found = kernel_checks.check_module(tvm.IRModule({"f": deep_group}), load_profile("cpu"))
    assert (found["functions"], found["kernels"], found["most_arguments"]) == (1, 1, 2)
    assert (found["largest_group"], found["most_local_bytes"]) == (128, 0)


def test_strictest_limits_are_the_smallest_of_all_profiles(tools):
    kernel_checks, _ = tools
    profiles = [load_profile(name) for name in PROFILES]
    assert kernel_checks.Strictest.of(profiles) == kernel_checks.Strictest(512, (512, 512, 64))


def test_barriers_that_all_reach_are_legal(tools):
    kernel_checks, _ = tools
    found = kernel_checks.check_module(tvm.IRModule({"f": barrier_for_all}), load_profile("cpu"))
    assert found["violations"] == []


def test_kernels_are_found_in_their_file(tools):
    kernel_checks, _ = tools
    text = "__kernel void a(__global int* x);\n__kernel void a(__global int* x) { x[0] = (long)1; }"
    (kernel,) = kernel_checks.source_kernels(text)
    assert (kernel.name, kernel.arguments) == ("a", 1)
    assert kernel.wide_line is not None


def test_a_counter_that_nothing_reads_may_be_wide(tools):
    kernel_checks, _ = tools
    loop = "__kernel void a(__global int* x) {\n  for (long r = (long)0; r < (long)6; ++r) {\n"
    (unread,) = kernel_checks.source_kernels(loop + "    x[0] += 1;\n  }\n}")
    assert unread.wide_line is None
    (read,) = kernel_checks.source_kernels(loop + "    x[r] += 1;\n  }\n}")
    assert read.wide_line is not None
