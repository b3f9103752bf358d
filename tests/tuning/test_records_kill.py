"""Files of records whose writers compete, run out of room or are killed."""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import signal
import struct
import time
from contextlib import contextmanager

import pytest
from test_records import record

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.tuning import records_file
from smartmem_tvm.tuning.records import Header
from smartmem_tvm.tuning.records_file import RecordsFile, merge, read_records

WRITE = os.write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


@pytest.fixture
def three(path):
    """A file of three records and these."""
    return read_records(write_file(path, 0, 1, 2)).records


def write_file(path, *trials):
    lines = [Header.here().line(), *(record(trial=trial).line() for trial in trials)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


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
    one, two = write_file(tmp_path / "one", 1), write_file(tmp_path / "two", 2)
    before = one.read_bytes()
    monkeypatch.setattr(records_file.os, "write", Disk(200))
    with pytest.raises(SmartMemError, match=f"{into}' cannot be written .*No space left"):
        merge([one, two], tmp_path / into)
    assert one.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "two"]


# Killed writers and forked ones


def report(pipe, number):
    WRITE(pipe, struct.pack("<q", number))


def heard(pipe):
    """The next number that a child reports."""
    return struct.unpack("<q", os.read(pipe, 8))[0]


@contextmanager
def forked(work):
    """Run ``work(pipe)`` in a process that is killed at the end: its id, and the pipe's end."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(60)  # should the parent be gone
            work(writing)
        finally:
            os._exit(1)  # pytest goes on in the parent alone
    os.close(writing)
    try:
        yield child, reading
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)


def append_for_ever(path, first, held_after=None):
    """Append records and report each that was acknowledged.

    With ``held_after``, stop in the middle of the second line, after so many bytes, and report -1.
    """

    def held(descriptor, data):
        WRITE(descriptor, bytes(data[:held_after]))
        report(pipe, -1)
        time.sleep(60)

    def work(writing):
        nonlocal pipe
        pipe = writing
        with RecordsFile(path) as file:
            for trial in itertools.count(first):
                file.append(record(trial=trial, choice={"width": trial}))
                report(pipe, trial)
                if held_after is not None:
                    records_file.os.write = held

    pipe = -1
    return work


def test_a_hundred_kills_lose_no_acknowledged_record(path):
    rng = random.Random(7)
    acknowledged = set()
    for kill in range(100):
        first = 1000 * kill
        # At any time, while records are appended, and in the middle of a line.
        kind = ("any", "appending", "torn")[kill % 3]
        work = append_for_ever(path, first, rng.randrange(1, 200) if kind == "torn" else None)
        with forked(work) as (child, pipe):
            if kind != "any":
                acknowledged.add(heard(pipe))
            if kind == "torn":
                assert heard(pipe) == -1
            else:
                time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            while data := os.read(pipe, 8):
                acknowledged.update(struct.unpack("<q", data))
        if not path.exists():
            assert not acknowledged
            continue
        found = read_records(path)
        trials = [item.trial for item in found.records]
        assert acknowledged <= set(trials)
        assert len(trials) <= len(acknowledged) + kill + 1  # one of each, not yet acknowledged
        assert trials == sorted(set(trials))
        assert all(item.choice == {"width": item.trial} for item in found.records)
        assert found.torn or kind != "torn"
    assert len(acknowledged) >= 66
    with RecordsFile(path) as file:
        assert file.count == len(trials)
        file.append(record())
    assert read_records(path).torn == 0
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_killed_merge_leaves_the_output_as_it_was(tmp_path):
    one, two = write_file(tmp_path / "one", 1), write_file(tmp_path / "two", 2)
    before = one.read_bytes()

    def work(pipe):
        def held(descriptor, data):
            WRITE(descriptor, bytes(data[:100]))
            report(pipe, -1)
            time.sleep(60)

        records_file.os.write = held
        merge([one, two], one)

    with forked(work) as (_, pipe):
        assert heard(pipe) == -1
        assert one.read_bytes() == before
        with pytest.raises(SmartMemError, match="in use"):
            RecordsFile(one)
    assert one.read_bytes() == before
    assert len(merge([one, two], one).records) == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "two"]


def test_the_holder_in_another_process_is_named_and_its_end_frees_the_file(path):
    def work(pipe):
        with RecordsFile(path):
            report(pipe, 1)
            time.sleep(60)

    with forked(work) as (child, pipe):
        assert heard(pipe) == 1
        with pytest.raises(SmartMemError, match=f"in use: process {child} appends"):
            RecordsFile(path)
    RecordsFile(path).close()


def test_a_forked_child_may_not_append_and_does_not_free_the_file(path):
    def work(pipe):
        try:
            file.append(record())
        except SmartMemError as error:
            report(pipe, f"that of process {os.getppid()}" in str(error))
        file.close()
        report(pipe, 2)
        time.sleep(60)

    with RecordsFile(path) as file, forked(work) as (_, pipe):
        assert [heard(pipe), heard(pipe)] == [1, 2]
        with pytest.raises(SmartMemError, match="in use"):
            RecordsFile(path)
        file.append(record())
    assert read_records(path).records == [record()]


def test_a_forked_child_does_not_keep_the_file(path):
    file = RecordsFile(path)
    with forked(lambda pipe: time.sleep(60)):
        file.close()
        RecordsFile(path).close()


@pytest.mark.parametrize("over", [1, 100])
def test_a_limit_of_the_system_on_the_size_leaves_the_records_before(path, three, over):
    whole = path.read_bytes()

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def work(pipe):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limit(len(whole) + over)
        with RecordsFile(path) as file:
            for _ in range(2):
                try:
                    file.append(three[0])
                except SmartMemError as error:
                    report(pipe, "File too large" in str(error) and path.read_bytes() == whole)
            limit(resource.RLIM_INFINITY)
            file.append(three[0])
            report(pipe, file.count)

    with forked(work) as (_, pipe):
        assert [heard(pipe) for _ in range(3)] == [1, 1, 4]
    assert read_records(path).records == [*three, three[0]]
