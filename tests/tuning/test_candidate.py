from __future__ import annotations

from dataclasses import replace

import pytest
import small_tasks

from smartmem_tvm.devices import load_profile
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.schedules.choice import Choice
from smartmem_tvm.schedules.tile import Tile
from smartmem_tvm.tuning.candidate import IllegalCandidate, build_candidate, check_sources

CPU = load_profile("cpu")
MATMUL = small_tasks.TASKS["matmul"]


def source_of(candidate):
    (kernels,) = [m for m in candidate.executable.mod.imports if m.kind == "opencl"]
    return kernels.inspect_source()


def test_a_choice_decides_the_kernel():
    target = CPU.target()
    candidates = [
        build_candidate(MATMUL, target, Choice(Tile(rows=((0, rows),), lane=1, width=8, group=4)))
        for rows in (2, 4)
    ]
    sources = [source_of(candidate) for candidate in candidates]
    assert sources[0] != sources[1]
    assert all("float8" in source for source in sources)
    for rows, candidate, source in zip((2, 4), candidates, sources, strict=True):
        assert candidate.facts == {
            "rule": "ByChoice",
            "choice": {"rows": ((0, rows),), "lane": 1, "width": 8, "group": 4},
            "work_group": 4,
            "source_bytes": len(source.encode()),
            "local_bytes": 0,
            "arguments": 3,
        }


def test_the_choice_of_the_rules_gives_their_kernel():
    for profile in (CPU, load_profile("adreno-740")):
        target = profile.target()
        untuned = build_candidate(MATMUL, target, None)
        assert untuned.facts["rule"] == "Contraction"
        again = build_candidate(MATMUL, target, Choice.from_dict(untuned.facts["choice"]))
        assert source_of(again) == source_of(untuned)


def test_local_memory_is_counted():
    untuned = build_candidate(MATMUL, load_profile("adreno-740").target(), None)
    assert "__local" in source_of(untuned)
    assert 0 < untuned.facts["local_bytes"] <= untuned.facts["choice"]["local_bytes"]


@pytest.mark.parametrize(
    ("tile", "match"),
    [
        (Tile(lane=7), r"the schedule does not fit: the schedule names axis 7, the kernel has 2"),
        (Tile(lane=1, width=4, group=512), r"work-group of 512 work-items .* more than the 256"),
        (Tile(group=100_000), r"a work-group of .* is larger than device 'cpu' allows \(1024, at"),
    ],
)
def test_what_does_not_fit_is_illegal(tile, match):
    with pytest.raises(IllegalCandidate, match=match):
        build_candidate(MATMUL, CPU.target(), Choice(tile))


def test_a_loop_order_that_there_is_not():
    with pytest.raises(IllegalCandidate, match=r"no number 99"):
        build_candidate(MATMUL, CPU.target(), Choice(Tile(), order=99))


def test_texels_that_work_items_would_share():
    func = small_tasks.part_of_image
    with pytest.raises(IllegalCandidate, match=r"cannot write texture 'O'"):
        build_candidate(func, load_profile("adreno-740").target(), Choice(Tile(group=16)))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"arguments": 2}, r"^3 kernel arguments are more than device 'cpu' takes \(2\)"),
        ({"local": 4095}, r"^4096 bytes of local memory are more than device 'cpu' takes"),
        ({"source": 70_000}, r"^7\d{4} bytes of source are more than device 'cpu' takes \(65536\)"),
        ({}, None),
    ],
)
def test_limits_of_the_source(changes, match):
    profile = replace(
        CPU,
        compute=replace(CPU.compute, max_kernel_arguments=changes.get("arguments", 128)),
        local_memory=replace(CPU.local_memory, bytes=changes.get("local", 32768)),
    )
    source = (
        "// Function: kernel\n__kernel void kernel_a(__global float* restrict A, int n, int m);\n"
        "__kernel void kernel_a(__global float* restrict A, int n, int m) {\n"
        "  __local float4 tile[192];\n  __local half rest[512];\n"
        f"  {'A[0] = 1.0f; ' * (changes.get('source', 0) // 13)}\n}}\n"
    )
    if match is None:
        facts = check_sources([source], profile)
        assert (facts["local_bytes"], facts["arguments"]) == (4096, 3)
        return
    with pytest.raises(IllegalCandidate, match=match):
        check_sources([source], profile)


def test_a_build_without_a_kernel():
    with pytest.raises(SmartMemError, match="no OpenCL kernel"):
        check_sources(["float f() { return 1; }"], CPU)


def test_a_function_that_no_rule_takes_is_no_candidates_fault():
    with pytest.raises(SmartMemError, match="outside of any thread binding") as found:
        build_candidate(small_tasks.in_place, CPU.target(), None)
    assert not isinstance(found.value, IllegalCandidate)
