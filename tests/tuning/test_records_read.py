"""Reading files of records, whole, torn and damaged."""

from __future__ import annotations

import json
import os

import pytest
from made_records import record

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.tuning import records_file
from smartmem_tvm.tuning.records import Header
from smartmem_tvm.tuning.records_file import RecordsFile, merge, read_records


def lines_of(path):
    return path.read_bytes().split(b"\n")


def test_what_is_appended_is_read(path, three):
    found = read_records(path)
    assert found.records == three
    assert (found.torn, found.size) == (0, path.stat().st_size)
    assert found.header == Header.here()
    assert found.path == path
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_of_other_versions_is_read_and_appended_to(path):
    path.write_text('{"smartmem_records": 1, "package": "9.9", "tvm": "8.8"}\n')
    with RecordsFile(path) as file:
        file.append(record(choice={"a field": "of later versions"}))
    found = read_records(path)
    assert (found.header.package, found.header.tvm) == ("9.9", "8.8")
    assert len(found.records) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"this is no file of records\n", "text, b'this is no file"),
        (b"\0\1\2\3\n", "binary data"),
        (b'{"schema": 2, "models": {}}\n', "JSON, {'schema': 2"),
        (b"[1, 2]\n", r"JSON, \[1, 2\]"),
        (b"[" * 4000 + b"\n", "text, b'"),
        (record().line().encode() + b"\n", "a record, the header above it is lost"),
        (b'{"smartmem_records": 1, "pack', "text, b'"),
        (b'{"smartmem_records": 1, "package": "1", "tvm": "2"}', "does not end"),
        (b'{"smartmem_records": 1, "package": "1"}\n', "is no header"),
        (b'{"smartmem_records": 1, "package": 1, "tvm": "2"}\n', "is no header"),
        (b'{"smartmem_records": 0, "package": "1", "tvm": "2"}\n', "is no header"),
        (b'{"smartmem_records": "1", "package": "1", "tvm": "2"}\n', "is no header"),
        (b'{"smartmem_records": true, "package": "1", "tvm": "2"}\n', "is no header"),
        (b'{"smartmem_records": 2, "package": "7.0", "tvm": "2"}\n', "schema 2.* 7.0.*Install"),
    ],
)
def test_files_that_are_none(path, content, said):
    path.write_bytes(content)
    for attempt in (read_records, RecordsFile, lambda p: merge([p], path.parent / "out")):
        with pytest.raises(SmartMemError, match=said) as raised:
            attempt(path)
        assert str(path) in str(raised.value)
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(SmartMemError, match=r"nothing.*No such file"):
        read_records(tmp_path / "nothing")
    for attempt in (read_records, RecordsFile):
        with pytest.raises(SmartMemError, match="Is a directory"):
            attempt(tmp_path)
    with pytest.raises(SmartMemError, match=r"No such file.*in a folder that exists"):
        RecordsFile(tmp_path / "no" / "folder")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SmartMemError, match="is no file"):
        RecordsFile(tmp_path / "pipe")


def test_a_torn_last_line_at_every_byte(path, three):
    whole = path.read_bytes()
    last = len(three[-1].line()) + 1
    for cut in {1, 2, last - 1, *range(3, last, 7)}:
        path.write_bytes(whole[:-cut])
        found = read_records(path)
        assert found.records == three[:-1]
        assert (found.size, found.torn) == (len(whole) - last, last - cut)
        with RecordsFile(path) as file:
            assert file.count == 2
            assert file.earlier.records == three[:-1]
            assert path.read_bytes() == whole[:-last]
            file.append(three[-1])
        assert path.read_bytes() == whole


@pytest.mark.parametrize("rest", [b"\0" * 4096, b"\n", b'{"task": \n', b"\xff\xfe\n", b"{}x\n"])
def test_a_last_line_that_is_no_json(path, three, rest):
    whole = path.read_bytes()
    path.write_bytes(whole + rest)
    assert read_records(path).records == three
    assert read_records(path).torn == len(rest)
    RecordsFile(path).close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"", b'{"task"', b"\xff", b"\0\0\0", b"[" * 100000])
@pytest.mark.parametrize("tail", [b"", b'{"torn": '])
def test_a_damaged_line_in_the_middle_is_named(path, three, damage, tail):
    lines = lines_of(path)
    lines[2] = damage
    path.write_bytes(b"\n".join(lines) + tail)
    before = path.read_bytes()
    for attempt in (read_records, RecordsFile):
        with pytest.raises(SmartMemError, match="line 3: no JSON") as raised:
            attempt(path)
        assert str(path) in str(raised.value)
    assert path.read_bytes() == before


def test_a_line_that_is_no_json_before_a_torn_one_is_damage(path, three):
    with open(path, "ab") as stream:
        stream.write(b"{no\n{torn")
    with pytest.raises(SmartMemError, match="line 5: no JSON"):
        read_records(path)


@pytest.mark.parametrize("number", [2, 4])
def test_a_bad_value_is_named_with_its_line_wherever_it_is(path, three, number):
    lines = lines_of(path)
    document = {**json.loads(lines[number - 1]), "trial": -5}
    lines[number - 1] = json.dumps(document).encode()
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(SmartMemError, match=f"line {number}: field 'trial'.* -5") as raised:
        read_records(path)
    assert str(path) in str(raised.value)


def test_a_reader_that_meets_a_writer_cutting_off_a_torn_line_reads_again(path, three, monkeypatch):
    lines = lines_of(path)
    mixed = path.parent / "mixed"
    mixed.write_bytes(b"\n".join([*lines[:3], b'{"torn' + lines[3][9:], lines[3], b""]))
    opened = iter([mixed])
    monkeypatch.setattr(
        records_file, "open", lambda name, mode: open(next(opened, name), mode), raising=False
    )
    assert read_records(path).records == three
