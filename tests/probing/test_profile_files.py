from __future__ import annotations

import os
from dataclasses import replace

import pytest

from smartmem_tvm.devices import load_profile, read_profile
from smartmem_tvm.errors import DeviceError, SmartMemError
from smartmem_tvm.probing import files


@pytest.mark.parametrize("name", ["adreno-740", "mali-g710", "cpu", "nvidia-opencl"])
def test_built_in_profiles_are_written_as_they_are(name, tmp_path):
    profile = load_profile(name)
    files.write_profile(profile, tmp_path / "x.toml")
    again = read_profile(tmp_path / "x.toml")
    assert again == profile
    assert again.to_dict() == profile.to_dict()
    assert os.listdir(tmp_path) == ["x.toml"]


def test_odd_texts_are_written(tmp_path):
    odd = 'quote " backslash \\ line\nbreak \x00 \x7f ü \u2028'
    profile = replace(load_profile("cpu"), description=odd, sources={"cache": odd})
    files.write_profile(profile, tmp_path / "x.toml")
    again = read_profile(tmp_path / "x.toml")
    assert again.description == odd
    assert again.sources["cache"] == odd


def test_files_are_not_written_over(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("mine")
    with pytest.raises(SmartMemError, match="exists: give --force"):
        files.write_profile(load_profile("cpu"), path)
    assert path.read_text() == "mine"
    files.write_profile(load_profile("cpu"), path, force=True)
    assert read_profile(path) == load_profile("cpu")


def test_a_profile_that_does_not_read_back_leaves_no_file(tmp_path):
    wrong = replace(
        load_profile("cpu"), compute=replace(load_profile("cpu").compute, vector_width=3)
    )
    with pytest.raises(DeviceError, match="vector_width"):
        files.write_profile(wrong, tmp_path / "x.toml")
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(SmartMemError, match="there is no folder"):
        files.check_output(tmp_path / "nowhere" / "x.toml")
    with pytest.raises(SmartMemError, match="is a folder"):
        files.check_output(tmp_path, force=True)


@pytest.mark.parametrize("name", ["", "a b", "auto", "cpu", "a/b", "a@b"])
def test_names_that_are_none(name):
    with pytest.raises(SmartMemError, match="name"):
        files.check_name(name)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("AMD EPYC", "amd-epyc"),
        ("QUALCOMM Adreno(TM) 740", "qualcomm-adreno-tm-740"),
        ("™", "device"),
    ],
)
def test_names_of_devices(device, name):
    assert files.check_name(files.name_of_device(device)) == name
