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
from smartmem_tvm.pipeline import module_before

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
def kernel_checks():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import kernel_checks
    finally:
        sys.path.remove(str(BENCHMARKS))
    return kernel_checks


def check_model(model, profile_name, kernel_checks):
    profile = load_profile(profile_name)
    imported = import_model(f"zoo:{model}/micro")
    mod = module_before("lower", imported.mod, profile.target())
    found = kernel_checks.check_module(mod, profile)
    assert found["violations"] == []
    assert found["clang"].get("accepted", found["kernels"]) == found["kernels"]
    assert found["kernels"] >= found["functions"] > 0
    assert len(found["sources"]) == found["kernels"]


@pytest.mark.parametrize(("model", "profile"), QUICK)
def test_kernels_of_a_model_are_legal(model, profile, kernel_checks):
    check_model(model, profile, kernel_checks)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "profile"), OTHERS)
def test_kernels_of_all_models_are_legal(model, profile, kernel_checks):
    check_model(model, profile, kernel_checks)


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
def test_illegal_launches_are_found(func, said, kernel_checks):
    limits = kernel_checks.Strictest(512, (512, 512, 64), 128)
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
def test_what_breaks_a_limit_is_found(func, said, kernel_checks):
    found = kernel_checks.check_module(tvm.IRModule({"f": func}), load_profile("cpu"))
    assert any(re.search(said, line) for line in found["violations"]), found


def test_facts_of_a_kernel(kernel_checks):
    found = kernel_checks.check_module(tvm.IRModule({"f": deep_group}), load_profile("cpu"))
    assert (found["functions"], found["kernels"], found["most_arguments"]) == (1, 1, 2)
    assert (found["largest_group"], found["most_local_bytes"]) == (128, 0)


def test_strictest_limits_are_the_smallest_of_all_profiles(kernel_checks):
    profiles = [load_profile(name) for name in PROFILES]
    found = kernel_checks.Strictest.of(profiles)
    assert found == kernel_checks.Strictest(512, (512, 512, 64), 128)


def test_barriers_that_all_reach_are_legal(kernel_checks):
    found = kernel_checks.check_module(tvm.IRModule({"f": barrier_for_all}), load_profile("cpu"))
    assert found["violations"] == []


def test_kernels_are_found_in_their_file(kernel_checks):
    text = "__kernel void a(__global int* x);\n__kernel void a(__global int* x) { x[(long)1] = 1; }"
    (kernel,) = kernel_checks.source_kernels(text)
    assert (kernel.name, kernel.arguments) == ("a", 1)
    assert kernel_checks.wide_line(kernel) is not None


def test_a_counter_that_nothing_reads_may_be_wide(kernel_checks):
    loop = "__kernel void a(__global int* x) {\n  for (long r = (long)0; r < (long)6; ++r) {\n"
    (unread,) = kernel_checks.source_kernels(loop + "    x[0] += 1;\n  }\n}")
    assert kernel_checks.wide_line(unread) is None
    (read,) = kernel_checks.source_kernels(loop + "    x[r] += 1;\n  }\n}")
    assert kernel_checks.wide_line(read) is not None


@pytest.mark.parametrize(
    ("line", "wide"),
    [
        ("y[get_local_id(0)] = (convert_long((convert_int(get_local_id(0)))));", False),
        ("y[0] = (long)7;", False),
        ("vstore4((convert_long4(v)), 0, y + 4);", False),
        ("y[0] = ((convert_long(i)) * (long)2);", True),
        ("y[(convert_long(i))] = (long)7;", True),
        ("long i = (long)7;", True),
        ("if ((long)32 <= i) {}", True),
    ],
)
def test_what_is_stored_in_a_result_may_be_wide(line, wide, kernel_checks):
    (kernel,) = kernel_checks.source_kernels(f"__kernel void f(__global long* y) {{\n{line}\n}}")
    assert (kernel_checks.wide_line(kernel) is not None) == wide


def kernel_of(arguments, body="x[0] = 1;", name="f_kernel"):
    return f"__kernel void {name}({', '.join(arguments)}) {{ {body} }}\n"


def test_arguments_are_counted_with_images_and_against_all_profiles(kernel_checks):
    images = [f"__write_only image2d_array_t o{number}" for number in range(65)]
    images += [f"__read_only image2d_array_t i{number}" for number in range(63)]
    strictest = kernel_checks.Strictest(512, (512, 512, 64), 128)
    profile = load_profile("nvidia-opencl")  # which allows more arguments

    def said(arguments):
        (kernel,) = kernel_checks.source_kernels(kernel_of(arguments))
        return kernel_checks.source_violations(kernel, profile, True, strictest)

    assert said(images[1:]) == []
    assert said([*images, "__global int* x"]) == [
        "129 arguments, 128 at most",
        "65 images to write, 64 at most",
    ]


def test_declarations_of_other_kernels_count_as_source(kernel_checks):
    declared = "__kernel void g_kernel(__global int* x);\n" * 1600
    own = kernel_of(["__global int* x"])
    (said,) = kernel_checks.program_violations({"f_kernel": declared + own, "g_kernel": own})
    size = len(declared + own)
    assert size >= 64 * 1024
    assert said == f"f_kernel: {size} bytes of source, {len(own)} of them its own, 65535 at most"


@pytest.fixture
def clang(kernel_checks):
    found = sys.modules["clang_check"].find_clang()
    if found is None:
        pytest.skip("no clang on PATH")
    return found


INTS = ["__global int* x"]
HALF = "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n"
IMAGE = ["__read_only image2d_array_t i", "__global float* x"]
WRITTEN = [INTS[0], "__write_only image2d_array_t i"]
ACCEPTED = {
    "half": HALF + kernel_of(["__global half* x"], "half4 v = vload4(0, x); x[0] = v.x * 2.0h;"),
    "image": kernel_of(IMAGE, "const sampler_t s = 0; x[0] = read_imagef(i, s, (int4)(0)).x;"),
    "declared": "__kernel void f_kernel(__global int* x);\n" + kernel_of(INTS),
}
REFUSED = {
    "undeclared": (kernel_of(INTS, "x[0] = y;"), r"CL1.2: 1:\d+: error: use of undeclared.*'y'"),
    "double": (kernel_of(INTS, "double y = 1; x[0] = y;"), "'double' requires cl_khr_fp64"),
    "written": (kernel_of(WRITTEN, "x[0] = read_imagei(i, (int4)(0)).x;"), "error: no matching"),
    "second": (kernel_of(INTS) + kernel_of(INTS), "error: redefinition of 'f_kernel'"),
    "generic": (
        "#if __OPENCL_VERSION__ >= 200\n" + kernel_of(["int* x"]) + "#endif",
        r"CL2.0: 2:\d+: error: .*pointer",
    ),
}


def test_clang_says_of_each_kernel_whether_it_is_opencl_c(clang, kernel_checks):
    check = sys.modules["clang_check"]
    programs = {**ACCEPTED, **{name: text for name, (text, _) in REFUSED.items()}}
    said = check.refusals(programs, True, clang)
    assert said.keys() == REFUSED.keys()
    for name, (_, message) in REFUSED.items():
        assert re.search(message, said[name]), said[name]
    assert list(check.refusals(ACCEPTED, False, clang)) == ["half"]


def test_what_clang_refuses_breaks_a_limit(clang, monkeypatch, kernel_checks):
    source = "// Function: f_kernel\n" + kernel_of(INTS)
    source += "// Function: g_kernel\n" + kernel_of(INTS, "x[0] = nothing;", "g_kernel")
    monkeypatch.setattr(kernel_checks, "_generated", lambda *_: [source])
    mod = tvm.IRModule({"f": barrier_for_all, "g": barrier_for_all})
    found = kernel_checks.check_module(mod, load_profile("adreno-740"))
    (line,) = found["violations"]
    assert line.startswith("g_kernel: refused by clang: CL1.2: 1:")
    assert "'nothing'" in line
    assert found["clang"] == {"version": clang.version, "accepted": 1}


def test_without_clang_the_check_says_that_it_is_skipped(monkeypatch, capsys, kernel_checks):
    monkeypatch.setattr(kernel_checks, "find_clang", lambda: None)
    mod = tvm.IRModule({"f": barrier_for_all})
    found = kernel_checks.check_module(mod, load_profile("cpu"))
    assert found["clang"] == {"skipped": "no clang and no clang-NN on PATH"}
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import check_kernels

    check_kernels.show([{"model": "m", "profile": "cpu", "dtype": "float32", **found}])
    assert "clang: skipped, no clang and no clang-NN on PATH" in capsys.readouterr().out


def test_clang_with_the_highest_number_is_found(monkeypatch, tmp_path, kernel_checks):
    check = sys.modules["clang_check"]
    find = check.find_clang.__wrapped__  # the one that does not remember
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find() is None
    for name in ("clang-9", "clang-14", "clang-format-15", "clang++-16"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{name} of this test'\n")
        path.chmod(0o755)
    (tmp_path / "clang").write_text("no program")
    assert find() == check.Clang(str(tmp_path / "clang-14"), "clang-14 of this test")
