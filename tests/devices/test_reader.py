"""Profile files that users write: what is accepted and how mistakes are reported."""

from __future__ import annotations

import copy
import sys

import pytest

from smartmem_tvm import devices
from smartmem_tvm.errors import DeviceError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GOOD = """
schema = 1
name = "board"
description = "a board with OpenCL"
[match]
type = "gpu"
[buffer]
max_bytes = 1000000
[work_group]
max_size = 128
max_dims = [128, 128, 64]
default_size = 64
subgroup_size = 8
[local_memory]
bytes = 0
in_hardware = false
[compute]
vector_width = 4
register_tile = [4, 4]
fp16 = false
max_kernel_arguments = 64
[bandwidth]
global_gbps = 10
[peak]
float32_gflops = 50.5
[cache]
line_bytes = 64
buffer_l1_bytes = 0
texture_l1_bytes = 0
l2_bytes = 65536
[sources]
peak = "data sheet"
"""


@pytest.fixture
def good():
    return tomllib.loads(GOOD)


def test_own_file_loads(tmp_path):
    path = tmp_path / "board.toml"
    path.write_text(GOOD, encoding="utf-8")
    for given in (path, str(path)):
        profile = devices.load_profile(given)
        assert profile.name == "board"
        assert profile.texture is None
        assert profile.bandwidth.global_gbps == 10.0
        assert profile.work_group.max_dims == (128, 128, 64)
        assert profile.match.names == ()
    target = profile.target()
    assert target.attrs["max_num_threads"] == 64


def edit(tables, key, value):
    tables = copy.deepcopy(tables)
    *parents, last = key.split(".")
    inner = tables
    for parent in parents:
        inner = inner.setdefault(parent, {})
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return tables


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("colour", "red", r"unknown key 'colour'; known here: .*work_group"),
        ("compute.vectors", 4, r"unknown key 'compute.vectors'; known here: .*vector_width"),
        ("compute.vector_width", None, r"key 'compute.vector_width' is missing; .*an integer"),
        ("cache", None, r"key 'cache' is missing; .*a table with line_bytes"),
        ("name", 3, r"key 'name' is 3; it must be a string"),
        ("cache", 3, r"key 'cache' is 3; it must be a table with"),
        ("compute.fp16", 1, r"key 'compute.fp16' is 1; it must be true or false"),
        ("work_group.max_size", True, r"key 'work_group.max_size' is True; .*an integer"),
        ("work_group.max_size", 128.0, r"key 'work_group.max_size' is 128.0; .*an integer"),
        ("work_group.max_size", 0, r"key 'work_group.max_size' is 0; it must be at least 1"),
        ("buffer.max_bytes", -1, r"key 'buffer.max_bytes' is -1; it must be at least 1"),
        ("local_memory.bytes", -4, r"key 'local_memory.bytes' is -4; it must be at least 0"),
        ("work_group.max_dims", [64, 64], r"'work_group.max_dims' is \[64, 64\]; .*3 entries"),
        ("work_group.max_dims", [64, 64, 0], r"key 'work_group.max_dims\[2\]' is 0; .*at least 1"),
        ("work_group.max_dims", 64, r"key 'work_group.max_dims' is 64; it must be a list of 3"),
        ("work_group.default_size", 129, r"is 129; it must not exceed .*max_size, which is 128"),
        ("compute.vector_width", 3, r"key 'compute.vector_width' is 3; allowed: 1, 2, 4, 8, 16"),
        ("match.type", "npu", r"key 'match.type' is 'npu'; allowed: gpu, cpu, accelerator"),
        ("match.names", [1], r"key 'match.names\[0\]' is 1; it must be a string"),
        ("peak.float32_gflops", "fast", r"key 'peak.float32_gflops' is 'fast'; .*a number"),
        ("peak.float32_gflops", float("inf"), r"is inf; it must be at least 1 and finite"),
        ("peak.float32_gflops", float("nan"), r"is nan; it must be at least 1 and finite"),
        ("peak.float16_gflops", 100.0, r"'compute.fp16' is False but key .* is given"),
        ("compute.fp16", True, r"'compute.fp16' is True but key .* is missing"),
        ("bandwidth.texture_gbps", 9.0, r"'texture' and key 'bandwidth.texture_gbps'.*together"),
        ("sources.peak", 7, r"key 'sources' is .*; it must be a table of strings"),
        ("sources.weather", "a guess", r"unknown key 'sources.weather'; known here: bandwidth"),
        ("half.keep", ["add"], r"unknown key 'half.keep'; known here: keep_float32"),
        ("half.keep_float32", "add", r"key 'half.keep_float32' is 'add'; it must be a list"),
        ("half.keep_float32", ["add", 1], r"key 'half.keep_float32\[1\]' is 1; .* a string"),
        ("half.keep_float32", ["nn.soft_max"], r"\[0\]' is 'nn.soft_max'; .*near: nn.softmax"),
        ("half.keep_float32", ["relax.add"], r"is 'relax.add'; .*without 'relax.'.*near: add"),
        ("schema", None, r"key 'schema' is missing; write schema = 1"),
        ("schema", 2, r"key 'schema' is 2; this version reads schema = 1 only"),
    ],
)
def test_mistakes_name_the_file_the_key_and_what_is_allowed(good, key, value, message):
    devices.profile_from_dict(good, "board.toml")
    with pytest.raises(DeviceError, match=message) as caught:
        devices.profile_from_dict(edit(good, key, value), "board.toml")
    assert str(caught.value).startswith("device profile board.toml: ")


def test_operators_may_be_kept_in_float32(good):
    assert devices.profile_from_dict(good, "f").half is None
    profile = devices.profile_from_dict(edit(good, "half.keep_float32", ["nn.softmax"]), "f")
    assert profile.half.keep_float32 == ("nn.softmax",)
    assert devices.profile_from_dict(profile.to_dict(), "f") == profile


def test_textures_need_texel_sizes(good):
    texture = {
        "max_width": 64,
        "max_height": 64,
        "max_layers": 8,
        "texel_bits": [128],
        "preferred": True,
    }
    tables = edit(edit(good, "texture", texture), "bandwidth.texture_gbps", 20)
    assert devices.profile_from_dict(tables, "f").scopes == ("global", "global.texture")
    with pytest.raises(DeviceError, match=r"'texture.texel_bits' is empty"):
        devices.profile_from_dict(edit(tables, "texture.texel_bits", []), "f")
    with pytest.raises(DeviceError, match=r"'texture.texel_bits\[0\]' is 32; allowed: 64, 128"):
        devices.profile_from_dict(edit(tables, "texture.texel_bits", [32]), "f")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"schema = ", r"is not valid TOML"),
        (b"\xff\xfe", r"is not UTF-8 text"),
        (b"", r"key 'schema' is missing"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(DeviceError, match=message) as caught:
        devices.load_profile(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DeviceError, match=r"absent\.toml: cannot be read: No such file"):
        devices.load_profile(str(tmp_path / "absent.toml"))
    with pytest.raises(DeviceError, match=r"cannot be read: Is a directory"):
        devices.load_profile(tmp_path)
