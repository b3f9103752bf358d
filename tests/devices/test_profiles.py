"""Built-in profiles: that each loads, is coherent and makes a target TVM accepts."""

from __future__ import annotations

import json
import pickle

import pytest

from smartmem_tvm import devices
from smartmem_tvm.errors import DeviceError

BUILT_IN = ["adreno-640", "adreno-740", "cpu", "mali-g710", "nvidia-opencl"]
TABLES = ["buffer", "work_group", "local_memory", "compute", "bandwidth", "peak", "cache"]


def test_all_built_in_profiles_are_listed():
    assert devices.list_profiles() == BUILT_IN
    assert [profile.name for profile in devices.built_in_profiles()] == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_profile_is_coherent(name):
    profile = devices.load_profile(name)
    assert profile.name == name
    assert max(profile.work_group.max_dims) <= profile.work_group.max_size
    rows, columns = profile.compute.register_tile
    assert columns % min(columns, profile.compute.vector_width) == 0
    assert rows * columns <= 256
    if profile.texture is None:
        assert profile.scopes == ("global",)
    else:
        assert profile.scopes == ("global", "global.texture")
        assert not profile.texture.preferred or (
            profile.bandwidth.texture_gbps > profile.bandwidth.global_gbps
        )
        assert (64 in profile.texture.texel_bits) == profile.compute.fp16


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_table_names_its_sources(name):
    profile = devices.load_profile(name)
    missing = [table for table in TABLES if not profile.sources.get(table)]
    assert missing == []
    assert profile.texture is None or profile.sources["texture"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_target_carries_the_limits(name):
    profile = devices.load_profile(name)
    target = profile.target()
    assert target.kind.name == "opencl"
    assert target.attrs["max_num_threads"] == profile.work_group.default_size
    assert target.attrs["max_shared_memory_per_block"] == profile.local_memory.bytes
    assert target.attrs["thread_warp_size"] == 1
    assert target.attrs["texture_spatial_limit"] == profile.texture.max_width
    assert target.attrs["texture_depth_limit"] == profile.texture.max_layers
    assert target.host.kind.name == "llvm"
    # This key would make TVM choose a pipeline that does not build.
    assert "adreno" not in target.keys


def test_target_takes_the_host_triple():
    target = devices.load_profile("adreno-740").target("aarch64-linux-android")
    assert target.host.attrs["mtriple"] == "aarch64-linux-android"


@pytest.mark.parametrize("name", BUILT_IN)
def test_profile_survives_its_dictionary_form(name):
    profile = devices.load_profile(name)
    tables = json.loads(json.dumps(profile.to_dict()))
    again = devices.profile_from_dict(tables, "manifest.json")
    assert again == profile
    assert dict(again.sources) == dict(profile.sources)
    assert hash(again) == hash(profile)
    # Tuning sends profiles to worker processes.
    assert pickle.loads(pickle.dumps(profile)) == profile


def test_profile_from_target_recognises_only_its_own():
    profile = devices.load_profile("mali-g710")
    assert devices.profile_from_target(profile.target("aarch64-linux-android")) is profile
    assert devices.profile_from_target(type(profile.target())("opencl")) is None


def test_unknown_name_lists_the_known_and_suggests():
    with pytest.raises(
        DeviceError, match=r"'adreno-470'.*mean 'adreno-[67]40'.*Known: auto, adreno-640"
    ):
        devices.load_profile("adreno-470")
    with pytest.raises(DeviceError, match=r"unknown device profile 'toaster'\. Known: "):
        devices.load_profile("toaster")
    assert DeviceError.exit_code == 2
