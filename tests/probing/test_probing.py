from __future__ import annotations

import datetime
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from smartmem_tvm.devices import load_profile, profile_from_device
from smartmem_tvm.errors import DeviceError
from smartmem_tvm.probing import bandwidth, chase, compiled, files, peak
from smartmem_tvm.probing.chase import Latency, cache_sizes, latencies, sizes
from smartmem_tvm.probing.device import ConnectionLost, Kernel, ProbedDevice, last_line
from smartmem_tvm.probing.profile import Measurement, _optional, make_profile
from smartmem_tvm.probing.timing import Budget, Figure, figure, time_kernel

KIB = 1024


def rate(value, how="it", best=None, spread=0.05):
    return Figure("x", value, "GFLOP/s", spread, 7, best or value, how)


def ladder(*levels):
    """Latencies of growing working sets; of each level its largest size and its nanoseconds."""
    found = []
    for size in sizes(levels[-1][0]):
        ns = next(ns for end, ns in levels if size <= end)
        found.append(Latency(size, ns))
    return found


# --- figures -----------------------------------------------------------------------------------


def test_figures_are_medians_with_their_spread():
    one = figure("x", [1.0, 2.0, 4.0], "GB/s", "a copy", lambda s: 4 / s)
    assert (one.value, one.repeats, one.best) == (2.0, 3, 4.0)
    assert one.spread == pytest.approx(1.5)
    assert one.noisy
    assert one.text == "a copy: 2 GB/s, NOISY: median of 3 repeats that differ by 150 %"
    assert not figure("x", [1.0, 1.2, 1.1], "GB/s", "a copy", lambda s: 1 / s).noisy


@pytest.mark.parametrize(
    ("rates", "preferred", "width"),
    [
        ({1: 50, 4: 100, 16: 80}, 16, 16),  # near enough
        ({1: 50, 4: 100, 16: 60}, 16, 4),
        ({4: 100}, 16, 4),  # the preferred one could not be built
        ({1: 90, 4: 100}, 1, 1),
    ],
)
def test_the_vector_width(rates, preferred, width):
    assert peak.best_width({w: rate(value) for w, value in rates.items()}, preferred) == width


def test_a_noisy_rate_loses_no_width():
    rates = {4: rate(100), 16: rate(40, best=110)}
    assert peak.best_width(rates, 1) == 16


# --- caches ------------------------------------------------------------------------------------


def test_caches_of_two_levels():
    measured = ladder((32 * KIB, 1.3), (1024 * KIB, 4.0), (16384 * KIB, 90.0))
    assert cache_sizes(measured) == [32 * KIB, 1024 * KIB]


def test_one_cache_alone():
    assert cache_sizes(ladder((128 * KIB, 150.0), (16384 * KIB, 400.0))) == [128 * KIB]


def test_no_cache():
    assert cache_sizes(ladder((16384 * KIB, 300.0))) == []
    assert cache_sizes([]) == []


def test_a_small_step_ends_no_cache():
    """Address translation raises latency within a cache."""
    measured = ladder((32 * KIB, 1.3), (128 * KIB, 4.0), (1024 * KIB, 5.5), (16384 * KIB, 90.0))
    assert cache_sizes(measured) == [32 * KIB, 1024 * KIB]


def test_a_slow_rise_is_no_step():
    measured = ladder((32 * KIB, 1.3), (256 * KIB, 4.0))
    rising = [Latency(size, 4 * (size / 256 / KIB) ** 1.5) for size in sizes(4096 * KIB)]
    measured += [one for one in rising if one.bytes > 256 * KIB]
    measured += [Latency(size, 300.0) for size in sizes(16384 * KIB) if size > 4096 * KIB]
    assert cache_sizes(measured) == [32 * KIB]


def test_working_sets_grow():
    found = sizes(10 * KIB)
    assert found == [2 * KIB, 3 * KIB, 4 * KIB, 6 * KIB, 8 * KIB]


# --- kernels on the device -----------------------------------------------------------------------


@pytest.fixture
def probed(opencl_device):
    return ProbedDevice.local(opencl_device.index)


def test_a_chase_meets_every_line(probed):
    """As many different places as lines: else a cache would seem larger than it is."""
    kernels = {"link": Kernel(("handle", "uint32", "uint32"))}
    text = chase._SOURCE.replace("FACTOR", str(chase._FACTOR)).replace("STEP", str(chase._STEP))
    module = probed.load(text, kernels)
    for lines in (32, 48, 1024, 1536):
        table = probed.upload(np.zeros(lines * 16, "uint32"))
        probed.launch(module, "link", table, lines, 16, -(-lines // probed.group), probed.group)
        following = probed.download(table)
        at, seen = 0, set()
        for _ in range(lines):
            seen.add(at)
            at = int(following[at])
        assert seen == set(range(0, lines * 16, 16))
        assert at == 0


def test_latencies_stop_with_the_budget(probed):
    assert latencies(probed, 64, Budget(0)) == []


def test_bandwidths_are_rates(probed, monkeypatch):
    monkeypatch.setattr(bandwidth, "MOST_BYTES", 4 << 20)
    copy = bandwidth.copy_bandwidth(probed, limit_s=0.05)
    assert copy.value > 0
    assert "2 MiB" in copy.how
    if probed.info.images:
        assert bandwidth.texture_bandwidth(probed, "float32", limit_s=0.05).value > 0
        stream = bandwidth.texture_stream_bandwidth(probed, probed.info, limit_s=0.05)
        assert stream.value > 0
    assert bandwidth.buffer_window_bandwidth(probed, limit_s=0.05).value > 0


def test_memory_that_is_not_there_is_asked_for_less(probed, monkeypatch):
    asked = []
    empty = ProbedDevice.empty

    def scarce(self, shape, dtype="float32", scope=None):
        asked.append(shape[0])
        if shape[0] > 1 << 19:
            raise DeviceError("out of device memory")
        return empty(self, shape, dtype, scope)

    monkeypatch.setattr(ProbedDevice, "empty", scarce)
    assert "2 MiB" in bandwidth.copy_bandwidth(probed, limit_s=0.05).how
    assert max(asked) > 1 << 19


@pytest.mark.parametrize("width", peak.WIDTHS)
def test_multiply_adds_compute_right(probed, monkeypatch, width):
    monkeypatch.setattr(peak, "WIDTHS", (width,))
    monkeypatch.setattr(peak, "_ENOUGH_S", 0)
    rates = peak.peak_rates(probed, "float32", Budget(60), limit_s=0.01)
    assert rates.keys() == {width}
    assert rates[width].value > 0


def test_wrong_multiply_adds_are_refused(probed, monkeypatch):
    monkeypatch.setattr(
        peak,
        "_SOURCE",
        peak._SOURCE.replace("convert_float{width}(", "0.5f * convert_float{width}("),
    )
    with pytest.raises(DeviceError, match="multiply-adds of float32 by 16 give 8 instead of 16"):
        peak.peak_rates(probed, "float32", Budget(60), limit_s=0.01)


def test_a_kernel_that_does_not_build(probed):
    module = probed.load(
        "__kernel void k(__global float* a) { nonsense; }", {"k": Kernel(("handle",))}
    )
    with pytest.raises(DeviceError, match="'k'"):
        time_kernel(probed, module, "k", (probed.empty((1,)), 1, 1))


@pytest.mark.parametrize("name", ["add", "turn"])
def test_kernels_that_are_built_here(probed, tmp_path, name):
    import tvm

    if name == "turn" and not probed.info.images:
        pytest.skip("this device has no images")
    path = tmp_path / "kernel.so"
    host = compiled.host_of(None, None)
    compiled.build_kernel(name, profile_from_device(probed.info).target(), path, host)
    library = tvm.runtime.load_module(str(path))
    arrays = compiled.inputs(name)
    wanted = compiled.expected(name, arrays)
    scope = "global.texture" if name == "turn" else None
    result = probed.empty(wanted.shape, "float32", scope)
    probed.launch(library, "kernel", *(probed.upload(one, scope) for one in arrays), result)
    np.testing.assert_array_equal(probed.download(result), wanted)


def test_hosts():
    here = compiled.host_of(None, None)
    assert compiled.host_of("aarch64-linux-android", None) == "aarch64-linux-android"
    assert compiled.host_of("aarch64-linux-android", "armv7-linux-android") == "armv7-linux-android"
    assert compiled.host_of(here, None) == here


def test_what_a_server_reports_is_shortened():
    assert (
        last_line("Traceback (most recent call last):\n  File x\nValueError: no")
        == "ValueError: no"
    )
    assert last_line("no memory\n") == "no memory"


# --- profiles ----------------------------------------------------------------------------------


def info(**changes):
    facts = {
        "index": 0, "name": "Test GPU", "vendor": "Nobody", "type": "gpu", "driver_version": "1.2",
        "max_allocation": 1 << 30, "local_memory": 32768, "local_memory_in_hardware": True,
        "max_work_group_size": 512, "max_work_item_sizes": (512, 512, 64), "cache_line": 128,
        "image2d_max_width": 8192, "image2d_max_height": 4096, "image_max_array_size": 2048,
        "images": True, "fp16": True,
    }  # fmt: skip
    return SimpleNamespace(**{**facts, **changes})


def measurement(**changes):
    found = Measurement(
        copy=rate(40.12345, "copy"),
        texture=rate(200.0, "texels"),
        stream=rate(35.0, "stream"),
        buffer_window=rate(90.0, "buffer"),
        rates={"float32": {2: rate(300.0), 8: rate(1000.0)}, "float16": {8: rate(2000.0)}},
        caches=[16 * KIB, 512 * KIB],
    )
    return replace(found, **changes)


def test_a_profile_of_what_was_measured(tmp_path):
    day = datetime.date(2026, 5, 4)
    profile = replace(make_profile(info(), measurement(), day), name="test-gpu")
    assert profile.bandwidth.global_gbps == 40.12
    assert profile.bandwidth.texture_gbps == 200.0
    assert (profile.peak.float32_gflops, profile.peak.float16_gflops) == (1000.0, 2000.0)
    assert profile.compute.vector_width == 8
    assert profile.compute.fp16
    assert profile.texture.preferred
    assert (profile.cache.line_bytes, profile.cache.buffer_l1_bytes) == (128, 16 * KIB)
    assert profile.cache.l2_bytes == 512 * KIB
    assert profile.local_memory.in_hardware
    assert profile.buffer.max_bytes == 1 << 30
    for table in ("buffer", "texture", "work_group", "local_memory"):
        assert profile.sources[table].startswith("reported by 'Test GPU', driver 1.2, 2026-05-04")
    for table in ("bandwidth", "peak"):
        assert profile.sources[table].startswith("measured on 'Test GPU', driver 1.2, 2026-05-04")
    assert "estimated (cautious estimate)" in profile.sources["compute"]
    assert profile.sources["cache"].count("measured") == 2
    files.write_profile(profile, tmp_path / "test-gpu.toml")
    again = load_profile(tmp_path / "test-gpu.toml")
    assert again == profile
    assert dict(again.sources) == dict(profile.sources)
    assert again.target().attrs["max_shared_memory_per_block"] == 32768


def test_what_was_not_measured_stays_estimated():
    profile = make_profile(info(), measurement(caches=[]))
    lent = profile_from_device(info())
    assert profile.cache.l2_bytes == lent.cache.l2_bytes
    assert "L2: estimated (cautious estimate), no clear step" in profile.sources["cache"]
    without = measurement(texture=None, stream=None, buffer_window=None)
    without.rates.pop("float16")
    profile = make_profile(info(), without)
    assert profile.texture is None
    assert profile.bandwidth.texture_gbps is None
    assert not profile.compute.fp16
    assert profile.peak.float16_gflops is None
    assert "texture" not in profile.sources
    assert make_profile(info(images=False), measurement()).texture is None


def test_one_step_is_the_cache_of_the_nearer_size():
    # The cautious estimate has no L1 and an L2 of 128 KiB.
    assert make_profile(info(), measurement(caches=[16 * KIB])).cache.l2_bytes == 16 * KIB
    cpu = info(type="cpu")  # 32 KiB and 1 MiB
    cache = make_profile(cpu, measurement(caches=[48 * KIB])).cache
    assert (cache.buffer_l1_bytes, cache.l2_bytes) == (48 * KIB, 1024 * KIB)
    cache = make_profile(cpu, measurement(caches=[512 * KIB])).cache
    assert (cache.buffer_l1_bytes, cache.l2_bytes) == (32 * KIB, 512 * KIB)


def test_noise_is_said_and_decides_nothing():
    noisy = measurement(copy=rate(40.0, "copy", spread=0.4), texture=rate(200.0, spread=0.4))
    profile = make_profile(info(), noisy)
    assert "copy: 40 GFLOP/s, NOISY" in profile.sources["bandwidth"]
    assert not profile.texture.preferred  # as the cautious profile says
    assert "noisy" in profile.sources["texture"]
    assert "NOISY" not in profile.sources["peak"]


def test_a_rate_that_no_profile_holds():
    assert make_profile(info(), measurement(texture=rate(0.25))).bandwidth.texture_gbps == 1.0


def test_what_may_fail_becomes_a_warning():
    found = Measurement()
    with _optional(found, "no textures"):
        raise DeviceError("the driver refuses")
    assert found.warnings == ["no textures: the driver refuses"]
    with pytest.raises(ConnectionLost), _optional(found, "no textures"):
        raise ConnectionLost("gone")
    with pytest.raises(ZeroDivisionError), _optional(found, "no textures"):
        1 / 0  # noqa: B018
