"""Cache configurations: the package's own, and files that do not describe caches."""

from __future__ import annotations

import json

import pytest

from smartmem_tvm import SmartMemError
from smartmem_tvm.simulation import load_configurations


def test_the_packages_configurations():
    found = load_configurations()
    assert [each.name for each in found.configurations] == ["small", "medium", "large"]
    assert found.cores == 4
    assert [each.l2.kib for each in found.configurations] == [128, 512, 2048]
    assert [each.buffer_l1 is None for each in found.configurations] == [True, True, False]
    assert [each.tile_texels for each in found.configurations] == [(4, 1), (2, 2), (4, 2)]


def test_one_of_them_by_name():
    (only,) = load_configurations("medium").configurations
    assert only.name == "medium"
    with pytest.raises(SmartMemError, match="no cache configuration 'huge': choose small, medium"):
        load_configurations("huge")


def document(**changes):
    level = {"kib": 1, "line_bytes": 64, "ways": 2}
    config = {"name": "own", "texture_l1": {**level, "tile_texels": [2, 2]}, "buffer_l1": None}
    return {"configs": [{**config, "l2": {**level, "kib": 4}, **changes}], "cores": 2}


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "own.json").write_text(json.dumps(document()))
    found = load_configurations(tmp_path / "own.json")
    assert (found.cores, found.configurations[0].l2.bytes) == (2, 4096)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"l2": {"kib": 4, "line_bytes": 64, "ways": 3}}, "no whole number of sets of 3 lines"),
        ({"l2": {"kib": 4, "line_bytes": 128, "ways": 2}}, "lines of 64 bytes and l2 of 128"),
        ({"l2": {"kib": 4, "line_bytes": 64}}, "no field 'ways'"),
        ({"l2": None}, "another form"),
        (
            {"texture_l1": {"kib": 1, "line_bytes": 64, "ways": 2, "tile_texels": [4, 2]}},
            "a tile of 4 × 2 texels of 16 bytes does not fill a line of 64 bytes",
        ),
    ],
)
def test_what_is_no_cache_is_refused(tmp_path, changes, message):
    (tmp_path / "own.json").write_text(json.dumps(document(**changes)))
    with pytest.raises(SmartMemError, match=message):
        load_configurations(tmp_path / "own.json")


def test_files_that_are_none(tmp_path):
    with pytest.raises(SmartMemError, match="there is no file"):
        load_configurations(tmp_path / "absent.json")
    (tmp_path / "text.json").write_text("caches")
    with pytest.raises(SmartMemError, match="no JSON file"):
        load_configurations(tmp_path / "text.json")
