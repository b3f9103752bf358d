"""Files written whole: what takes their place, and what a failure leaves."""

from __future__ import annotations

import json
import os

import pytest

from smartmem_tvm.whole_files import replacing, write_json, write_text


def test_the_file_is_replaced_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.parent == tmp_path
        assert partial.name.startswith(".x.json.")
        assert partial.suffix == ".tmp"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("written", [False, True], ids=["nothing written", "half written"])
def test_a_failure_leaves_the_old_file_and_no_other(error, written, tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")

    def fail():
        with replacing(path) as partial:
            if written:
                partial.write_text("ne")
            raise error("the reason")

    with pytest.raises(error, match="the reason"):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_failed_rename_leaves_nothing_beside(tmp_path):
    path = tmp_path / "x.json"
    path.mkdir()
    with pytest.raises(OSError, match=r"x\.json"):
        write_text(path, "new")
    assert path.is_dir()
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


@pytest.mark.parametrize("write", [write_text, write_json])
def test_a_missing_folder_is_an_error(write, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write(tmp_path / "nowhere" / "x.json", "text")
    assert os.listdir(tmp_path) == []


def test_texts_are_written_as_they_are(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "a\nü\r\n→")
    assert path.read_bytes() == "a\nü\r\n→".encode()


def test_documents_are_written_in_their_order(tmp_path):
    path = tmp_path / "x.json"
    document = {"b": [1, "ü"], "a": None}
    write_json(path, document)
    assert path.read_text("utf-8") == '{\n "b": [\n  1,\n  "\\u00fc"\n ],\n "a": null\n}\n'
    assert json.loads(path.read_text("utf-8")) == document


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_files_have_the_permissions_of_others(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "x.json", "new")
    assert (tmp_path / "x.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
