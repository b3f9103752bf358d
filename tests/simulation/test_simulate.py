"""Whole modules, samples of big launches, and counts against Oclgrind's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tvm
from scalar_kernels import KERNELS
from small_models import mlp

from smartmem_tvm import SmartMemError
from smartmem_tvm.analysis import list_kernels
from smartmem_tvm.devices import resolve_profile
from smartmem_tvm.frontend import import_model
from smartmem_tvm.oclgrind import parse_counts
from smartmem_tvm.pipeline import module_before
from smartmem_tvm.simulation import (
    CacheModel,
    load_configurations,
    simulate,
    simulate_function,
)
from smartmem_tvm.simulation.sampling import choose_sample

SCALAR = Path(__file__).with_name("scalar_kernels.py")
TARGET = tvm.target.Target("opencl", host="llvm")


def scheduled(model):
    target = resolve_profile("cpu").target(None)
    return module_before("lower", import_model(model).mod, target), target


def test_a_model_is_the_sum_of_its_launches():
    module, target = scheduled(mlp())
    found = simulate(module, target)
    listed = list_kernels(module)
    assert [(k.name, k.calls) for k in found.kernels] == [(k.name, k.calls) for k in listed]
    assert found.refused == ()
    assert found.total.accesses.requests == sum(
        k.calls * k.counts.accesses.requests for k in found.kernels
    )
    for name, caches in found.total.caches.items():
        assert caches.misses == sum(k.calls * k.counts.caches[name].misses for k in found.kernels)
    # Whatever is touched is accessed, and misses at least once, since caches are empty at first.
    assert found.total.accesses.bytes >= sum(k.calls * k.footprint_bytes for k in listed)
    lines = sum(k.calls * k.footprint_bytes for k in listed) / 64
    assert found.total.caches["small"].l2.misses >= lines


def test_an_empty_sample_is_refused():
    module, target = scheduled(mlp())
    with pytest.raises(SmartMemError, match="at least 1"):
        simulate(module, target, sample=0)


installed = pytest.mark.skipif(shutil.which("oclgrind") is None, reason="oclgrind is not installed")


@installed
def test_counts_are_oclgrinds():
    command = ["oclgrind", "--inst-counts", sys.executable, str(SCALAR)]
    environment = {**os.environ, "SMARTMEM_OPENCL_DEVICE": "oclgrind", "SMARTMEM_CACHE_DIR": "off"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    counted = {kernel.name: kernel for kernel in parse_counts(done.stdout).kernels}
    assert set(counted) == {f"{name}_kernel" for name in KERNELS}
    with CacheModel(load_configurations("small")) as model:
        for name, source in KERNELS.items():
            (found,) = simulate_function(tvm.script.from_source(source), TARGET, model)
            accesses, reference = found.counts.accesses, counted[f"{name}_kernel"]
            assert (name, accesses.buffer_loaded_bytes) == (name, reference.global_loaded)
            assert (name, accesses.buffer_stored_bytes) == (name, reference.global_stored)
            assert (name, accesses.image_read_bytes) == (name, reference.image_read)
            assert (name, accesses.image_written_bytes) == (name, reference.image_written)


# Kernels with many work-groups that share lines in different ways.
MATMUL = """
@T.prim_func(s_tir=True)
def f(
    A: T.Buffer((256, 64), "float32"),
    B: T.Buffer((64, 256), "float32"),
    C: T.Buffer((256, 256), "float32"),
):
    for by in T.thread_binding(64, thread="blockIdx.y"):
        for bx in T.thread_binding(16, thread="blockIdx.x"):
            for ty in T.thread_binding(4, thread="threadIdx.y"):
                for tx in T.thread_binding(16, thread="threadIdx.x"):
                    with T.sblock("root"):
                        s = T.sblock_alloc_buffer((1,), "float32", scope="local")
                        s[0] = T.float32(0)
                        for k in range(64):
                            s[0] = s[0] + A[by * 4 + ty, k] * B[k, bx * 16 + tx]
                        C[by * 4 + ty, bx * 16 + tx] = s[0]
"""
WINDOW = """
@T.prim_func(s_tir=True)
def f(
    A: T.Buffer((258, 258, 4), "float32", scope="global.texture"),
    W: T.Buffer((9, 4), "float32"),
    C: T.Buffer((256, 256, 4), "float32"),
):
    for by in T.thread_binding(64, thread="blockIdx.y"):
        for bx in T.thread_binding(16, thread="blockIdx.x"):
            for ty in T.thread_binding(4, thread="threadIdx.y"):
                for tx in T.thread_binding(16, thread="threadIdx.x"):
                    with T.sblock("root"):
                        s = T.sblock_alloc_buffer((4,), "float32", scope="local")
                        for i, j in T.grid(3, 3):
                            for l in T.vectorized(4):
                                s[l] = (
                                    s[l]
                                    + A[by * 4 + ty + i, bx * 16 + tx + j, l] * W[i * 3 + j, l]
                                )
                        for l in T.vectorized(4):
                            C[by * 4 + ty, bx * 16 + tx, l] = s[l]
"""
COPY = """
@T.prim_func(s_tir=True)
def f(A: T.Buffer((512, 512), "float32"), C: T.Buffer((512, 512), "float32")):
    for bx in T.thread_binding(1024, thread="blockIdx.x"):
        for tx in T.thread_binding(256, thread="threadIdx.x"):
            with T.sblock("root"):
                C[bx // 2, bx % 2 * 256 + tx] = A[bx % 2 * 256 + tx, bx // 2]
"""


@pytest.mark.parametrize("source", [MATMUL, WINDOW, COPY])
def test_a_sample_estimates_the_whole(source):
    func = tvm.script.from_source(source)
    with CacheModel(load_configurations()) as model:
        (whole,) = simulate_function(func, TARGET, model)
        (part,) = simulate_function(func, TARGET, model, sample=256)
    assert (whole.simulated, part.simulated) == (1024, 252)
    assert part.counts.accesses == whole.counts.accesses
    for name, caches in whole.counts.caches.items():
        for level in ("texture_l1", "buffer_l1", "l2"):
            exact = getattr(caches, level).misses
            estimated = getattr(part.counts.caches[name], level).misses
            # Runs of the transposition fall in step with the lines of the L2.
            assert 0.88 * exact <= estimated <= 1.1 * exact, (name, level)


def test_runs_of_a_sample():
    sample = choose_sample(1000, 96, cores=4)
    assert [(run.groups.start, run.groups.stop, run.warm_up) for run in sample.runs] == [
        (0, 32, False),
        (484, 500, True),
        (500, 516, False),
        (968, 984, True),
        (984, 1000, False),
    ]
    assert sample.simulated == 96
    assert choose_sample(20, 8, cores=4).runs[0].groups == range(20)
