"""Times of kernels: profiles, TVM's timer, and drivers that report none."""

from __future__ import annotations

import threading

import pytest
import tvm
from runtime_helpers import (
    AXES,
    ROOT,
    add_kernel,
    image_or_skip,
    on_device,
    random_array,
    run_python,
    skip_without_host_threads,
)
from texture_model import KERNELS, SHAPE, virtual_machine

from smartmem_tvm import DeviceError, runtime

SPIN = """__kernel void spin(__global float* a, int rounds) {
  float x = a[get_global_id(0)];
  for (int i = 0; i < rounds; ++i) x = sin(x) + 1;
  a[get_global_id(0)] = x; }"""


@pytest.fixture
def tensor(opencl_device):
    return on_device(random_array((256,), "float32"), opencl_device)


def spin_kernel():
    return runtime.source_module(SPIN, {"spin": (("handle", "int32"), AXES)})["spin"]


@pytest.mark.device
def test_profile_names_counts_and_sizes(opencl_device, tensor):
    add, spin = add_kernel(), spin_kernel()
    add(tensor, tensor, 1.0, 8, 32)  # before: not counted
    with runtime.profile(opencl_device) as records:
        add(tensor, tensor, 1.0, 8, 32)
        spin(tensor, 2000, 2, 16)
        add(tensor, tensor, 1.0, 0, 32)  # launches nothing
        add(tensor, tensor, 1.0, 4, 64)
        assert records == []
    add(tensor, tensor, 1.0, 8, 32)  # after: not counted
    assert [(r.name, r.global_size, r.local_size) for r in records] == [
        ("add", (256, 1, 1), (32, 1, 1)),
        ("spin", (32, 1, 1), (16, 1, 1)),
        ("add", (256, 1, 1), (64, 1, 1)),
    ]
    assert all(0 < r.device_us < 10e6 for r in records)


@pytest.mark.device
def test_more_work_takes_longer(opencl_device, tensor):
    spin = spin_kernel()
    spin(tensor, 1, 8, 32)
    with runtime.profile(opencl_device) as records:
        for rounds in (10, 4000) * 15:
            spin(tensor, rounds, 8, 32)
    # Of several, as another process may hold the processor during any one.
    little, much = (min(r.device_us for r in records[first::2]) for first in (0, 1))
    assert much > 5 * little


@pytest.mark.device
def test_nested_profiles(opencl_device, tensor):
    add = add_kernel()
    with runtime.profile(opencl_device) as outer:
        add(tensor, tensor, 1.0, 8, 32)
        with runtime.profile(opencl_device) as inner:
            add(tensor, tensor, 1.0, 4, 64)
        add(tensor, tensor, 1.0, 2, 128)
    assert [r.local_size[0] for r in outer] == [32, 64, 128]
    assert inner == [outer[1]]


@pytest.mark.device
def test_profile_ends_when_its_block_raises(opencl_device, tensor):
    def fail_inside():
        with runtime.profile(opencl_device):
            add_kernel()(tensor, tensor, 1.0, 8, 32)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    with runtime.profile(opencl_device) as records:
        add_kernel()(tensor, tensor, 1.0, 8, 32)
    assert len(records) == 1
    with pytest.raises(DeviceError, match="without profile_begin"):
        tvm.get_global_func("smartmem.opencl.profile_end")()


@pytest.mark.device
def test_threads_do_not_see_each_others_kernels(opencl_device, opencl_info, tensor):
    skip_without_host_threads(opencl_info)
    barrier = threading.Barrier(3)
    seen: dict[int, list] = {}

    def work(items):
        add, mine = add_kernel(), on_device(random_array((256,), "float32"), opencl_device)
        barrier.wait()
        with runtime.profile(opencl_device) as records:
            for _ in range(50):
                add(mine, mine, 1.0, 256 // items, items)
        seen[items] = records

    threads = [threading.Thread(target=work, args=(items,)) for items in (16, 32)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for _ in range(50):  # one that does not profile
        add_kernel()(tensor, tensor, 1.0, 4, 64)
    for thread in threads:
        thread.join()
    for items in (16, 32):
        assert [r.local_size[0] for r in seen[items]] == [items] * 50


@pytest.mark.device
def test_long_profiles_keep_few_events(opencl_device, tensor):
    add = add_kernel()
    with runtime.profile(opencl_device) as records:
        for _ in range(5000):
            add(tensor, tensor, 1.0, 1, 32)
    assert len(records) == 5000
    assert all(r.device_us > 0 for r in records)


@pytest.mark.device
def test_profile_that_a_thread_leaves_open(opencl_device, tensor):
    begin = tvm.get_global_func("smartmem.opencl.profile_begin")
    thread = threading.Thread(target=begin, args=(opencl_device.index,))
    thread.start()
    thread.join()
    with runtime.profile(opencl_device) as records:
        add_kernel()(tensor, tensor, 1.0, 8, 32)
    assert len(records) == 1


@pytest.mark.device
def test_time_evaluator(opencl_device, tensor):
    module = runtime.source_module(SPIN, {"spin": (("handle", "int32"), AXES)})
    times = [
        module.time_evaluator("spin", opencl_device, number=5, repeat=2)(tensor, rounds, 8, 32)
        for rounds in (10, 4000)
    ]
    assert 0 < times[0].min < times[1].min / 5
    image_or_skip(random_array(SHAPE, "float32"), opencl_device, "global.texture")
    machine, x = (
        virtual_machine(opencl_device),
        on_device(random_array(SHAPE, "float32"), opencl_device),
    )
    with runtime.profile(opencl_device) as records:
        machine["main"](x)
    assert [r.name for r in records] == KERNELS
    assert 0 < machine.time_evaluator("main", opencl_device, number=3, repeat=2)(x).mean < 10


WALL_CLOCK = """
import numpy as np, tvm
from runtime_helpers import *
from smartmem_tvm import runtime
device = runtime.device()
assert not runtime.list_devices()[0].event_timestamps
tensor = on_device(random_array((256,), "float32"), device)
module = runtime.source_module(ADD, {"add": (("handle", "handle", "float32"), AXES)})
for _ in range(2):
    assert module.time_evaluator("add", device, number=3)(tensor, tensor, 1.0, 8, 32).mean > 0
with runtime.profile(device) as records:
    module["add"](tensor, tensor, 1.0, 8, 32)
assert records[0].device_us > 0
"""


@pytest.mark.device
def test_wall_clock_where_events_carry_no_time(opencl_info):
    if opencl_info.event_timestamps:
        pytest.skip(f"{opencl_info.name} reports event times")
    done = run_python(WALL_CLOCK, PYTHONPATH=str(ROOT / "tests/runtime"))
    assert done.stderr.count("reports no event times; timing by the wall clock") == 1
