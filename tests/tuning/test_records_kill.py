"""Files of records whose writers are killed, forked or limited by the system."""

from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import struct
import time
from contextlib import contextmanager

import pytest
from made_records import record, write_records

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.tuning import records_file
from smartmem_tvm.tuning.records_file import RecordsFile, merge, read_records

WRITE = os.write


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
    one = write_records(tmp_path / "one", [record(trial=1)])
    two = write_records(tmp_path / "two", [record(trial=2)])
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
