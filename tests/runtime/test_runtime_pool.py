"""Memory that is freed is used again, and nothing grows."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest
import tvm
from runtime_helpers import image_or_skip, on_device, random_array
from texture_model import SHAPE, expected, virtual_machine

from smartmem_tvm import DeviceError, runtime

pytestmark = pytest.mark.device

CYCLES = 10_000


@pytest.fixture
def stats(opencl_device):
    gc.collect()
    runtime.release_pool(opencl_device)
    return lambda: runtime.pool_stats(opencl_device)


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cycle(device, shape, dtype, scope):
    tensor = tvm.runtime.empty(shape, dtype, device, scope)
    del tensor


@pytest.mark.parametrize("scope", ["global", "global.texture"])
def test_many_cycles_of_one_size(opencl_device, stats, scope):
    image_or_skip(random_array((8, 16, 4), "float32"), opencl_device, scope)
    for _ in range(200):
        _cycle(opencl_device, (8, 16, 4), "float32", scope)
    before, resident = stats(), resident_bytes()
    for _ in range(CYCLES):
        _cycle(opencl_device, (8, 16, 4), "float32", scope)
    after = stats()
    assert after["in_use_objects"] == before["in_use_objects"]
    assert after["in_use_bytes"] == before["in_use_bytes"]
    assert after["free_bytes"] <= before["free_bytes"] + 8 * 16 * 16
    assert after["images_created"] == before["images_created"]
    assert resident_bytes() - resident < 16 << 20


@pytest.mark.parametrize("scope", ["global", "global.texture"])
def test_many_cycles_of_random_sizes(opencl_device, stats, scope):
    image_or_skip(random_array((8, 16, 4), "float32"), opencl_device, scope)
    rng = np.random.default_rng(0)
    shapes = [(int(h), int(w), 4) for h, w in rng.integers(1, 200, (CYCLES, 2))]
    for shape in shapes[:2000]:
        _cycle(opencl_device, shape, "float16", scope)
    before, resident = stats(), resident_bytes()
    for shape in shapes[2000:]:
        _cycle(opencl_device, shape, "float16", scope)
    after = stats()
    assert after["in_use_objects"] == before["in_use_objects"]
    assert after["free_objects"] <= 1024
    # Tensors that other tests keep alive raise the pool's limit: four times the most in use.
    limit = max(64 << 20, 4 * after["peak_bytes"])
    assert after["free_bytes"] <= limit
    # The pool's own limit, and room for the driver.
    assert resident_bytes() - resident < limit + (96 << 20)


def test_what_was_freed_is_used_again(opencl_device, stats):
    image_or_skip(random_array((8, 16, 4), "float32"), opencl_device, "global.texture")
    before = stats()
    _cycle(opencl_device, (8, 16, 4), "float32", "global.texture")
    after = stats()
    assert after["reused"] == before["reused"] + 1
    assert after["images_created"] == before["images_created"]


def test_other_format_or_kind_is_not_used(opencl_device, stats):
    image_or_skip(random_array((6, 16, 4), "float32"), opencl_device, "global.texture")
    before = stats()
    for dtype, scope in (("float32", "global.image2d"), ("uint32", "global.texture")):
        image_or_skip(random_array((6, 16, 4), dtype), opencl_device, scope)
    assert stats()["images_created"] == before["images_created"] + 2


def test_pool_is_trimmed_and_released(opencl_device, stats):
    image_or_skip(random_array((8, 16, 4), "float32"), opencl_device, "global.texture")
    for rows in range(1, 1500):
        _cycle(opencl_device, (rows, 1, 4), "uint8", "global.texture")
    assert 0 < stats()["free_objects"] <= max(1024, 4 * stats()["in_use_objects"])
    runtime.release_pool(opencl_device)
    assert stats()["free_objects"] == stats()["free_bytes"] == 0


def test_second_inference_allocates_nothing(opencl_device, stats):
    array = random_array(SHAPE, "float32")
    image_or_skip(array, opencl_device, "global.texture")
    runtime.release_pool(opencl_device)
    machine, x = virtual_machine(opencl_device), on_device(array, opencl_device)
    start = stats()
    np.testing.assert_array_equal(machine["main"](x).numpy(), expected(array))
    first = stats()
    # The textures' own images and the output: nothing stands for what the plan calls their storage.
    assert first["images_created"] == start["images_created"] + 2
    assert first["buffers_created"] == start["buffers_created"] + 1
    np.testing.assert_array_equal(machine["main"](x).numpy(), expected(array))
    second = stats()
    assert second["images_created"] == first["images_created"]
    # The VM holds its last result until the next is there: two outputs exist, then no more.
    assert second["buffers_created"] <= first["buffers_created"] + 1
    for _ in range(3):
        np.testing.assert_array_equal(machine["main"](x).numpy(), expected(array))
    later = stats()
    for counter in ("images_created", "buffers_created", "peak_bytes", "in_use_bytes"):
        assert later[counter] == second[counter], counter


def test_out_of_memory(opencl_device, opencl_info, stats):
    too_large = opencl_info.max_allocation + 1
    message = (
        rf"out of device memory: a buffer of {too_large} bytes .*more than one allocation may"
        r".*Use a smaller batch"
    )
    with pytest.raises(DeviceError, match=message):
        tvm.runtime.empty((too_large,), "uint8", opencl_device)
    array = random_array((1000,), "float32")
    np.testing.assert_array_equal(on_device(array, opencl_device).numpy(), array)


def test_more_than_the_device_has_in_all(opencl_device, opencl_info, stats):
    if (
        "Oclgrind" in opencl_info.name
        or opencl_info.max_allocation * 64 < opencl_info.global_memory
    ):
        pytest.skip(f"{opencl_info.name} would touch all of the memory")
    held, before = [], stats()

    def fill():
        while len(held) < 70:  # no pages are touched: only address space is taken
            held.append(tvm.runtime.empty((opencl_info.max_allocation,), "uint8", opencl_device))

    with pytest.raises(DeviceError, match=r"out of device memory: .* In use now: \d+ bytes"):
        fill()
    held.clear()
    assert stats()["in_use_bytes"] == before["in_use_bytes"]
    array = random_array((1000,), "float32")
    np.testing.assert_array_equal(on_device(array, opencl_device).numpy(), array)
