"""From a target back to the profile that made it, be that built in, a file or made by a caller."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_models import mlp, mlp_input, mlp_reference
from tvm.target import Target

import smartmem_tvm
from smartmem_tvm import devices, runtime
from smartmem_tvm.devices import detect, registry
from smartmem_tvm.errors import DeviceError
from smartmem_tvm.schedules.limits import limits_of

BUILT_IN = registry._FOLDER / "mali-g710.toml"
CHANGES = {
    "texture": (r"preferred = false", "preferred = true"),
    "tile": (r"register_tile = .*", "register_tile = [8, 4]"),
    "bandwidth": (r"texture_gbps = .*", "texture_gbps = 271.0"),
}


def board(folder, change, name="board"):
    """A file that says what mali-g710's does, but for its name and one line."""
    text = BUILT_IN.read_text(encoding="utf-8")
    text = re.sub(r'name = "mali-g710"', f'name = "{name}"', text)
    changed, count = re.subn(*CHANGES[change], text) if change else (text, 1)
    assert count == 1
    path = folder / "board.toml"
    path.write_text(changed, encoding="utf-8")
    return path


def elsewhere(monkeypatch):
    """As in a process that made no target yet."""
    monkeypatch.setattr(registry, "_registered", {})


def test_profile_of_a_file_is_found_by_its_target(tmp_path):
    profile = devices.load_profile(board(tmp_path, "tile"))
    target = profile.target("aarch64-linux-android")
    assert devices.profile_from_target(target) == profile
    assert devices.profile_for(target) == profile
    assert str(target.attrs["model"]).startswith("board@")
    assert limits_of(target).register_tile == (8, 4)
    assert limits_of(target).memory != limits_of(detect.CAUTIOUS.target()).memory


def test_profiles_of_one_name_are_told_apart_by_what_they_say(tmp_path):
    built_in = devices.load_profile("mali-g710")
    made = [built_in]
    for name in ("mali-g710", "board"):
        for change in CHANGES:  # the same path each time: a file that is edited
            made.append(devices.load_profile(board(tmp_path, change, name)))
    made.append(replace(built_in, texture=None, bandwidth=devices.load_profile("cpu").bandwidth))
    targets = [profile.target() for profile in made]
    assert [devices.profile_for(target) for target in targets] == made
    assert len({str(target) for target in targets}) == len(made)


def test_an_unchanged_copy_is_the_built_in_profile(tmp_path):
    built_in = devices.load_profile("mali-g710")
    copy = devices.load_profile(board(tmp_path, None, "mali-g710"))
    described = replace(copy, sources={"peak": "read elsewhere"})
    assert str(described.target()) == str(copy.target()) == str(built_in.target())
    assert devices.profile_from_target(copy.target()) is built_in


def test_a_target_says_the_same_of_a_profile_in_every_process(tmp_path, monkeypatch):
    profile = devices.load_profile(board(tmp_path, "bandwidth"))
    target = profile.target()
    elsewhere(monkeypatch)
    assert devices.profile_from_target(target) is None
    with pytest.raises(
        DeviceError, match=r"'board', which is neither built in nor known.*load_profile"
    ):
        devices.profile_for(target)
    again = devices.profile_from_dict(profile.to_dict(), "manifest.json").target()
    assert str(again) == str(target)
    assert devices.profile_for(target) == profile


def test_auto_is_the_profile_of_the_device_that_the_target_was_made_for(monkeypatch):
    def nothing(_name):
        raise DeviceError("no device here")

    facts = SimpleNamespace(
        name="Mali-G710 r0p0",
        vendor="ARM",
        type="gpu",
        max_allocation=2**30,
        local_memory=16384,
        local_memory_in_hardware=False,
        max_work_group_size=384,
        max_work_item_sizes=(384, 384, 384),
        image2d_max_width=4096,
        image2d_max_height=4096,
        image_max_array_size=256,
        images=True,
        fp16=True,
    )
    profile = devices.profile_from_device(facts)
    target = profile.target()
    monkeypatch.setattr(runtime, "device", nothing)
    assert devices.profile_for(target) == profile
    elsewhere(monkeypatch)
    assert devices.profile_for(target) is detect.CAUTIOUS
    assert devices.profile_for(Target({"kind": "opencl", "model": "auto"})) is detect.CAUTIOUS


def test_targets_that_no_profile_made_are_cautious():
    for target in (None, Target("opencl"), Target({"kind": "opencl", "model": "board"})):
        assert devices.profile_for(target) is detect.CAUTIOUS


@pytest.mark.device
def test_a_file_s_texture_preference_decides_and_its_artefact_runs_elsewhere(tmp_path):
    plain = smartmem_tvm.compile(mlp(), board(tmp_path, None))
    assert "image2d_array_t" not in "".join(plain.sources.values())
    model = smartmem_tvm.compile(mlp(), board(tmp_path, "texture"))
    assert "image2d_array_t" in "".join(model.sources.values())
    model.export(tmp_path / "out")
    (tmp_path / "board.toml").unlink()
    given = mlp_input()
    np.savez(tmp_path / "x.npz", **given)
    program = (
        "import sys, numpy as np, smartmem_tvm\n"
        "folder = sys.argv[1]\n"
        "model = smartmem_tvm.load(folder + '/out')\n"
        "assert model.manifest.profile['texture']['preferred']\n"
        "np.savez(folder + '/y.npz', **model.run(dict(np.load(folder + '/x.npz'))))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    found = np.load(tmp_path / "y.npz")
    for name, expected in mlp_reference(given["x"]).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
