"""Files of records whose writers compete or run out of room."""

from __future__ import annotations

import errno
import os

import pytest
from made_records import record, write_records

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.tuning import records_file
from smartmem_tvm.tuning.records_file import RecordsFile, merge, read_records

# Writers that compete


def test_a_second_writer_is_refused_until_the_first_closes(path, three):
    with RecordsFile(path) as first:
        with pytest.raises(SmartMemError, match=f"in use: process {os.getpid()} appends"):
            RecordsFile(path)
        with pytest.raises(SmartMemError, match="in use"):
            merge([path, path.parent / "other"], path)
        assert read_records(path).records == three  # readers take no lock
        first.append(three[0])
    with RecordsFile(path) as second:
        assert second.count == 4
    with pytest.raises(SmartMemError, match="is closed: open it again"):
        first.append(three[0])
    first.close()


def test_the_holder_is_not_named_where_it_is_not_known(path, monkeypatch):
    with RecordsFile(path):
        monkeypatch.setattr(records_file.os, "major", lambda device: 4095)
        with pytest.raises(SmartMemError, match="in use: another process appends"):
            RecordsFile(path)


def test_a_file_that_is_replaced_while_it_is_opened_is_opened_again(path, three, monkeypatch):
    other = path.parent / "other"
    other.write_bytes(path.read_bytes())
    lock = records_file._lock

    def replace_then_lock(descriptor):
        if other.exists():
            other.rename(path)
        return lock(descriptor)

    monkeypatch.setattr(records_file, "_lock", replace_then_lock)
    with RecordsFile(path) as file:
        file.append(three[0])
    assert read_records(path).records == [*three, three[0]]


def test_of_two_that_make_a_file_the_second_takes_that_of_the_first(path, monkeypatch):
    publish = records_file._publish

    def after_another(*args, **kwargs):
        monkeypatch.setattr(records_file, "_publish", publish)
        with RecordsFile(path) as first:
            first.append(record())
        return publish(*args, **kwargs)

    monkeypatch.setattr(records_file, "_publish", after_another)
    with RecordsFile(path) as second:
        assert second.count == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_renamed_while_the_second_maker_opens_it_is_not_made_again(path, monkeypatch):
    lock = records_file._lock

    def made_by_another(descriptor):
        monkeypatch.setattr(records_file, "_lock", lock)
        (path.parent / f".{path.name}.new").unlink()
        with RecordsFile(path) as first:
            first.append(record())
        return lock(descriptor)

    monkeypatch.setattr(records_file, "_lock", made_by_another)
    with RecordsFile(path) as second:
        assert second.count == 1


def test_what_a_killed_maker_left_is_taken_over(path):
    (path.parent / f".{path.name}.new").write_bytes(b'{"smartmem_rec')
    with RecordsFile(path) as file:
        file.append(record())
    assert read_records(path).records == [record()]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_another_is_making_for_ever(path, monkeypatch):
    monkeypatch.setattr(records_file, "_PATIENCE_S", 0.05)
    with RecordsFile(path):
        path.rename(path.parent / f".{path.name}.new")
        with pytest.raises(SmartMemError, match="being made by another process"):
            RecordsFile(path)


def test_a_link_stays_a_link(path, three):
    link = path.parent / "link"
    link.symlink_to(path)
    dangling = path.parent / "dangling"
    dangling.symlink_to(path.parent / "target")
    for name in (link, dangling):
        with RecordsFile(name) as file:
            file.append(record())
        assert name.is_symlink()
    assert len(read_records(path).records) == 4
    assert len(read_records(path.parent / "target").records) == 1


# Writers without room


class Disk:
    """Room for a number of bytes behind ``os.write``."""

    def __init__(self, room, most=1 << 20, error=errno.ENOSPC):
        self.room, self.most, self.error = room, most, error
        self.write = os.write

    def __call__(self, descriptor, data):
        count = min(len(data), self.room, self.most)
        if not count:
            raise OSError(self.error, os.strerror(self.error))
        self.room -= count
        return self.write(descriptor, bytes(data[:count]))


@pytest.mark.parametrize("room", [0, 1, 100, "all but the end"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_a_full_disk_leaves_the_records_before(path, three, monkeypatch, room, error):
    whole = path.read_bytes()
    with RecordsFile(path) as file:
        room = len(three[0].line()) if isinstance(room, str) else room
        monkeypatch.setattr(records_file.os, "write", Disk(room, 64, error))
        for _ in range(2):
            with pytest.raises(SmartMemError, match=r"3 before it are kept\. Make room") as raised:
                file.append(three[0])
            assert str(path) in str(raised.value)
            assert os.strerror(error) in str(raised.value)
            assert path.read_bytes() == whole
            assert file.count == 3
        monkeypatch.undo()
        file.append(three[0])
        assert file.count == 4
    assert read_records(path).records == [*three, three[0]]


def test_short_writes_are_continued(path, monkeypatch):
    monkeypatch.setattr(records_file.os, "write", Disk(1 << 20, most=7))
    with RecordsFile(path) as file:
        file.append(record())
    assert read_records(path).records == [record()]


def test_a_write_of_nothing_is_an_error(path, three, monkeypatch):
    with RecordsFile(path) as file:
        monkeypatch.setattr(records_file.os, "write", lambda descriptor, data: 0)
        with pytest.raises(SmartMemError, match="nothing was written"):
            file.append(three[0])


def test_no_room_for_the_header_leaves_no_file(path, monkeypatch):
    monkeypatch.setattr(records_file.os, "write", Disk(20))
    with pytest.raises(SmartMemError, match="No space left"):
        RecordsFile(path)
    assert list(path.parent.iterdir()) == []


def test_a_record_that_did_not_reach_the_disk_is_not_in_the_file(path, three, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    with RecordsFile(path) as file:
        monkeypatch.setattr(records_file.os, "fsync", fsync)
        with pytest.raises(SmartMemError, match="Input/output error"):
            file.append(record(trial=9))
        assert read_records(path).records == three
        monkeypatch.undo()
        file.append(record(trial=9))
    assert read_records(path).records == [*three, record(trial=9)]


def test_an_interrupt_in_the_middle_of_a_line_leaves_none_of_it(path, three, monkeypatch):
    disk = Disk(40)

    def write(descriptor, data):
        if not disk.room:
            raise KeyboardInterrupt
        return disk(descriptor, data)

    with RecordsFile(path) as file:
        monkeypatch.setattr(records_file.os, "write", write)
        with pytest.raises(KeyboardInterrupt):
            file.append(three[0])
        assert read_records(path).torn == 0
        monkeypatch.undo()
        file.append(three[0])
    assert read_records(path).records == [*three, three[0]]


def test_a_torn_line_that_cannot_be_cut_off_closes_the_file(path, three, monkeypatch):
    def ftruncate(descriptor, size):
        raise OSError(errno.EIO, "Input/output error")

    file = RecordsFile(path)
    monkeypatch.setattr(records_file.os, "write", Disk(40))
    monkeypatch.setattr(records_file.os, "ftruncate", ftruncate)
    with pytest.raises(SmartMemError, match="a torn line after them that stays"):
        file.append(three[0])
    monkeypatch.undo()
    with pytest.raises(SmartMemError, match="is closed"):
        file.append(three[0])
    assert read_records(path).torn == 40
    with RecordsFile(path) as again:
        again.append(three[0])
    assert read_records(path).records == [*three, three[0]]


@pytest.mark.parametrize("into", ["one", "out"])
def test_no_room_for_the_merged_file(tmp_path, monkeypatch, into):
    one = write_records(tmp_path / "one", [record(trial=1)])
    two = write_records(tmp_path / "two", [record(trial=2)])
    before = one.read_bytes()
    monkeypatch.setattr(records_file.os, "write", Disk(200))
    with pytest.raises(SmartMemError, match=f"{into}' cannot be written .*No space left"):
        merge([one, two], tmp_path / into)
    assert one.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "two"]
