"""The profile ``auto``, made from what a driver reports."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from smartmem_tvm import devices, runtime
from smartmem_tvm.errors import DeviceError


def device(**changes):
    """What a well-equipped GPU's driver would report, with changes."""
    facts = {
        "index": 0,
        "name": "QUALCOMM Adreno(TM) 740",
        "vendor": "QUALCOMM",
        "type": "gpu",
        "max_allocation": 2**30,
        "local_memory": 32768,
        "local_memory_in_hardware": True,
        "max_work_group_size": 1024,
        "max_work_item_sizes": (1024, 1024, 512),
        "image2d_max_width": 16000,
        "image2d_max_height": 15000,
        "image_max_array_size": 1024,
        "images": True,
        "fp16": True,
    }
    return SimpleNamespace(**{**facts, **changes})


def test_limits_are_the_device_s_and_figures_the_profile_s():
    profile = devices.profile_from_device(device())
    known = devices.load_profile("adreno-740")
    assert profile.name == "auto"
    assert profile.work_group.max_dims == (1024, 1024, 512)
    assert (profile.texture.max_width, profile.texture.max_height) == (16000, 15000)
    assert profile.texture.max_layers == 1024
    assert profile.texture.preferred
    assert profile.bandwidth == known.bandwidth
    assert profile.peak == known.peak
    assert "adreno-740" in profile.sources["bandwidth"]
    assert "driver" in profile.sources["texture"]
    assert profile.target().attrs["texture_spatial_limit"] == 15000


@pytest.mark.parametrize(
    ("name", "vendor", "kind", "lender"),
    [
        ("Mali-G710 r0p0", "ARM", "gpu", "mali-g710"),
        ("Quadro RTX 6000", "NVIDIA Corporation", "gpu", "nvidia-opencl"),
        ("AMD EPYC", "Intel(R) Corporation", "cpu", "cpu"),
        ("pthread-haswell", "AuthenticAMD", "cpu", "cpu"),
    ],
)
def test_figures_come_from_the_profile_that_describes_the_device(name, vendor, kind, lender):
    profile = devices.profile_from_device(device(name=name, vendor=vendor, type=kind))
    known = devices.load_profile(lender)
    assert profile.cache == known.cache
    assert profile.compute.register_tile == known.compute.register_tile
    assert profile.texture.preferred == known.texture.preferred


@pytest.mark.parametrize("kind", ["gpu", "accelerator"])
def test_unknown_device_gets_cautious_figures(kind):
    profile = devices.profile_from_device(device(name="Gizmo", vendor="Acme", type=kind))
    fastest = devices.load_profile("nvidia-opencl")
    assert profile.sources["bandwidth"] == "cautious estimate"
    assert profile.bandwidth.global_gbps < fastest.bandwidth.global_gbps
    assert profile.work_group.subgroup_size == 1
    assert not profile.texture.preferred


def test_no_images_no_textures():
    for facts in (device(images=False), device(image_max_array_size=0)):
        profile = devices.profile_from_device(facts)
        assert profile.texture is None
        assert profile.bandwidth.texture_gbps is None
        assert profile.scopes == ("global",)


def test_fp16_is_the_device_s():
    without = devices.profile_from_device(device(fp16=False))
    assert not without.compute.fp16
    assert without.peak.float16_gflops is None
    assert without.texture.texel_bits == (128,)
    cpu = devices.profile_from_device(device(name="EPYC", vendor="Intel(R)", type="cpu"))
    assert cpu.compute.fp16
    assert cpu.peak.float16_gflops == cpu.peak.float32_gflops
    assert cpu.texture.texel_bits == (64, 128)


def test_small_work_groups_bound_the_default():
    profile = devices.profile_from_device(
        device(max_work_group_size=32, max_work_item_sizes=(32, 16))
    )
    assert profile.work_group.default_size == 32
    assert profile.work_group.max_dims == (32, 16, 1)


def test_auto_profile_survives_its_dictionary_form():
    profile = devices.profile_from_device(device())
    assert devices.profile_from_dict(profile.to_dict(), "manifest.json") == profile


def test_resolve_passes_profiles_and_names_through():
    profile = devices.load_profile("cpu")
    assert devices.resolve_profile(profile) is profile
    assert devices.resolve_profile("cpu") is profile
    with pytest.raises(DeviceError, match="unknown device profile 'cpuu'"):
        devices.resolve_profile("cpuu")


def test_auto_with_a_runtime_that_lists_nothing(monkeypatch):
    monkeypatch.setattr(runtime, "device", lambda _selector: SimpleNamespace(index=0))
    monkeypatch.setattr(runtime, "list_devices", list)
    with pytest.raises(DeviceError, match=r"cannot be read.*Name a profile.*adreno-740"):
        devices.resolve_profile("auto")


@pytest.mark.device
def test_auto_reads_the_real_device():
    index = runtime.device().index
    real = next(info for info in runtime.list_devices() if info.index == index)
    profile = devices.resolve_profile("auto")
    assert profile.work_group.max_size == real.max_work_group_size
    assert profile.compute.fp16 == real.fp16
    assert real.name in profile.description
