"""Several threads on one device."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tvm
from runtime_helpers import (
    AXES,
    add_kernel,
    image_or_skip,
    on_device,
    random_array,
    skip_without_host_threads,
)

from smartmem_tvm import runtime

pytestmark = pytest.mark.device

THREADS = 4


@pytest.fixture(autouse=True)
def needs_host_threads(opencl_info):
    skip_without_host_threads(opencl_info)


def run_on_threads(work):
    """``work(index)`` on each thread, all started at once; raises what any of them raised."""
    barrier = threading.Barrier(THREADS)

    def start(index):
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(THREADS) as executor:
        return list(executor.map(start, range(THREADS)))


def test_one_kernel_from_all(opencl_device):
    add = add_kernel()

    def work(index):
        tensor = on_device(np.zeros(64, "float32"), opencl_device)
        for _ in range(200):
            add(tensor, tensor, float(index), 2, 32)
        return tensor.numpy()

    for index, result in enumerate(run_on_threads(work)):
        np.testing.assert_array_equal(result, np.full(64, 200 * index, "float32"))


def test_different_kernels(opencl_device):
    kernels = {f"k{i}": (("handle",), AXES) for i in range(THREADS)}
    source = "".join(
        f"__kernel void k{i}(__global int* a) {{ a[get_global_id(0)] += {i + 1}; }}\n"
        for i in range(THREADS)
    )
    module = runtime.source_module(source, kernels)

    def work(index):
        kernel, tensor = module[f"k{index}"], on_device(np.zeros(64, "int32"), opencl_device)
        for _ in range(200):
            kernel(tensor, 2, 32)
        return tensor.numpy()

    for index, result in enumerate(run_on_threads(work)):
        np.testing.assert_array_equal(result, np.full(64, 200 * (index + 1)))


def test_first_build_from_all(opencl_device):
    for version in range(4):
        source = f"__kernel void set(__global int* a) {{ a[get_global_id(0)] = {version}; }}"
        kernel = runtime.source_module(source, {"set": (("handle",), AXES)})["set"]

        def work(index, kernel=kernel):
            tensor = tvm.runtime.empty((32,), "int32", opencl_device)
            kernel(tensor, 1, 32)
            return tensor.numpy()

        for result in run_on_threads(work):
            np.testing.assert_array_equal(result, np.full(32, version))


@pytest.mark.parametrize("scope", ["global", "global.texture"])
def test_allocation_and_copies(opencl_device, scope):
    image_or_skip(random_array((4, 4, 4), "float32"), opencl_device, scope)
    before = runtime.pool_stats(opencl_device)

    def work(index):
        rng = np.random.default_rng(index)
        for step in range(100):
            shape = (int(rng.integers(1, 20)), int(rng.integers(1, 20)), 4)
            array = random_array(shape, "float32", seed=step)
            np.testing.assert_array_equal(on_device(array, opencl_device, scope).numpy(), array)

    run_on_threads(work)
    after = runtime.pool_stats(opencl_device)
    assert after["in_use_objects"] == before["in_use_objects"]
    assert after["in_use_bytes"] == before["in_use_bytes"]


def test_launches_while_others_profile_and_allocate(opencl_device):
    add = add_kernel()

    def work(index):
        tensor = on_device(np.zeros(64, "float32"), opencl_device)
        for _ in range(30):
            if index % 2:
                with runtime.profile(opencl_device) as records:
                    add(tensor, tensor, 1.0, 2, 32)
                assert len(records) == 1
            else:
                add(tensor, tensor, 1.0, 2, 32)
                opencl_device.sync()
            on_device(random_array((index + 1, 4, 4), "float32"), opencl_device)
        return tensor.numpy()

    for result in run_on_threads(work):
        np.testing.assert_array_equal(result, np.full(64, 30, "float32"))
