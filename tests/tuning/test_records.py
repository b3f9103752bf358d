"""Records, reading files of them, what is best, and merging."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.schedules.choice import Choice
from smartmem_tvm.schedules.tile import Tile
from smartmem_tvm.tuning import records_file
from smartmem_tvm.tuning.records import STATUSES, Header, Record, Records, utc_now
from smartmem_tvm.tuning.records_file import RecordsFile, merge, read_records

TASK = "0123456789abcdef"
HERE = ("Adreno 740", "V@0615")
THERE = ("Adreno 740", "V@0702")


def record(**fields):
    """A record; times of an ``ok`` one are 2 ms unless given."""
    ok = fields.get("status", "ok") == "ok"
    usual = {
        "task": TASK,
        "name": "conv2d",
        "profile": "adreno-740",
        "device": HERE[0],
        "driver": HERE[1],
        "choice": {"lane": 1, "rows": [[0, 7]]},
        "status": "ok",
        "seconds": (0.002,) if ok else (),
        "error": None,
        "reason": None if ok else "it failed",
        "strategy": "random",
        "seed": 0,
        "trial": 0,
        "when": "2026-01-31T12:00:00.000Z",
    }
    return Record(**{**usual, **fields})


def tile(number):
    return {"width": number}


def held(*items):
    """What a file with these records says."""
    return Records("memory", Header("1", "2"), list(items), 0)


def lines_of(path):
    return path.read_bytes().split(b"\n")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.jsonl"


@pytest.fixture
def three(path):
    """A file of three records and these."""
    items = [record(trial=trial, choice=tile(trial)) for trial in range(3)]
    with RecordsFile(path) as file:
        for item in items:
            file.append(item)
    return items


# Records


texts = st.text(min_size=1, max_size=8)
numbers = st.floats(min_value=1e-9, max_value=1e9)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
any_record = st.builds(
    lambda status, seconds, **rest: record(
        status=status, seconds=tuple(seconds) if status == "ok" else (), **rest
    ),
    status=st.sampled_from(STATUSES),
    seconds=st.lists(numbers, min_size=1, max_size=3),
    task=st.sampled_from([TASK, TASK[::-1]]),
    name=texts,
    profile=st.sampled_from(["adreno-740", "board@1f0c2a9be0d4"]),
    driver=st.sampled_from([HERE[1], THERE[1]]),
    choice=st.dictionaries(texts, plain, max_size=3),
    error=st.none() | numbers | st.just(math.inf),
    reason=st.none() | st.text(),
    trial=st.integers(0, 3),
    when=st.sampled_from(["2026-01-31T12:00:00.000Z", "2026-01-31T11:00:00+00:00", utc_now()]),
)


@given(any_record)
def test_a_record_survives_json(item):
    assert Record.from_dict(item.to_dict()) == item
    assert Record.from_dict(json.loads(item.line())) == item
    assert "\n" not in item.line()
    assert item.line().isascii()


def test_a_choice_survives_a_record():
    choice = Choice(Tile(rows=((0, 7),), lane=1, width=4), order=2, fused=False)
    item = record(choice=choice.to_dict())
    again = Record.from_dict(json.loads(item.line()))
    assert again == item
    assert Choice.from_dict(again.choice) == choice


def test_equal_choices_have_the_same_line_whatever_the_order_of_their_fields():
    there = record(choice={"a": ({"d": 1, "c": 2},), "b": 3})
    here = record(choice={"b": 3, "a": [{"c": 2, "d": 1}]})
    assert there.line() == here.line()


def test_the_median_of_the_repeats():
    assert record(seconds=[3.0, 1.0, 2.0]).median == 2.0
    assert record(seconds=(1, 2)).median == 1.5
    assert record(status="timeout").median is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", TASK[:-1]),
        ("task", TASK + "0"),
        ("task", TASK.upper()),
        ("task", TASK + "\n"),
        ("task", 123),
        ("name", ""),
        ("name", None),
        ("profile", ""),
        ("device", 7),
        ("driver", None),
        ("choice", []),
        ("choice", {"a": math.nan}),
        ("choice", {"a": {1: 2}}),
        ("choice", {"a": {1, 2}}),
        ("status", "Ok"),
        ("status", ["ok"]),
        ("seconds", []),
        ("seconds", [0.0]),
        ("seconds", [-1.0]),
        ("seconds", [math.inf]),
        ("seconds", [math.nan]),
        ("seconds", [10**400]),
        ("seconds", [True]),
        ("seconds", ["1"]),
        ("seconds", 0.1),
        ("seconds", None),
        ("error", -1e-9),
        ("error", math.nan),
        ("error", -math.inf),
        ("error", "infinite"),
        ("error", False),
        ("reason", 0),
        ("strategy", ""),
        ("seed", 1.0),
        ("seed", True),
        ("trial", -1),
        ("trial", "0"),
        ("when", "2026-01-31T12:00:00"),
        ("when", "2026-01-31 12:00:00Z"),
        ("when", "2026-01-31T12:00:00+01:00"),
        ("when", "2026-13-31T12:00:00Z"),
        ("when", 1769860800),
    ],
)
def test_a_value_that_a_field_cannot_have(field, value):
    document = {**record().to_dict(), field: value}
    with pytest.raises(SmartMemError) as raised:
        Record.from_dict(document)
    assert f"field '{field}'" in str(raised.value)
    assert repr(value)[:60] in str(raised.value)


def test_seconds_go_with_ok_alone():
    with pytest.raises(SmartMemError, match=r"'seconds'.*none with status 'wrong'"):
        record(status="wrong", seconds=(0.1,))


def test_fields_too_many_and_too_few():
    document = record().to_dict()
    with pytest.raises(SmartMemError, match=r"no field 'colour'.*'red'"):
        Record.from_dict({**document, "colour": "red"})
    del document["seed"]
    with pytest.raises(SmartMemError, match="has no field 'seed'"):
        Record.from_dict(document)
    with pytest.raises(SmartMemError, match=r"an object of JSON, not \[1\]"):
        Record.from_dict([1])


def test_the_time_of_a_record_is_one():
    assert record(when=utc_now()).when.endswith("+00:00")


# Reading


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


# What is best


def test_the_least_median_is_best():
    slow, fast = record(choice=tile(1), seconds=(0.1, 0.9, 3.0)), record(choice=tile(2))
    other = record(task=TASK[::-1], seconds=(1e-9,))
    profile = record(profile="cpu", seconds=(1e-9,))
    found = held(slow, fast, other, profile)
    assert found.best(TASK, "adreno-740") is fast
    assert found.best(TASK, "cpu") is profile
    assert found.best(TASK, "mali-g710") is None
    assert found.best("f" * 16, "cpu") is None
    assert held().best(TASK, "cpu") is None


def test_failures_are_never_best():
    failed = [record(status=status, trial=n) for n, status in enumerate(STATUSES) if n]
    assert held(*failed).best(TASK, "adreno-740") is None
    assert held(*failed).main_device(TASK, "adreno-740") == HERE


def test_equals_are_decided_by_the_choice():
    items = [record(choice=tile(number), trial=-number + 9) for number in range(3)]
    for order in itertools.permutations(items):
        assert held(*order).best(TASK, "adreno-740") is items[0]


def test_a_choice_measured_several_times_counts_with_all_its_seconds():
    lucky = record(choice=tile(1), seconds=(0.001,), trial=3, error=0.1)
    again = record(choice=tile(1), seconds=(0.005, 0.006), trial=1, error=0.2)
    steady = record(choice=tile(2), seconds=(0.004,))
    assert held(lucky, steady).best(TASK, "adreno-740") is lucky
    assert held(lucky, again, steady).best(TASK, "adreno-740") is steady
    best = held(lucky, again).best(TASK, "adreno-740")
    assert best == held(again, lucky).best(TASK, "adreno-740")
    assert (best.trial, best.error, best.seconds) == (1, 0.2, (0.005, 0.006, 0.001))
    assert best.median == 0.005


@pytest.mark.parametrize("profile", ["adreno-740", "cpu"])
def test_a_choice_that_was_ever_wrong_is_never_best(profile):
    fast = record(choice=tile(1), seconds=(1e-6,))
    wrong = record(choice=tile(1), status="wrong", profile=profile)
    slow = record(choice=tile(2))
    for order in itertools.permutations([fast, wrong, slow]):
        assert held(*order).best(TASK, "adreno-740") is slow
    elsewhere = record(choice=tile(1), status="wrong", driver=THERE[1])
    another = record(choice=tile(1), status="wrong", task=TASK[::-1])
    late = record(choice=tile(1), status="timeout")
    assert held(fast, elsewhere, another, late, slow).best(TASK, "adreno-740") is fast


def test_devices_and_drivers_are_not_mixed():
    here = [record(choice=tile(n), trial=n) for n in (1, 2)]
    there = record(choice=tile(3), driver=THERE[1], seconds=(1e-6,))
    found = held(there, *here)
    assert found.main_device(TASK, "adreno-740") == HERE
    assert found.best(TASK, "adreno-740") is here[0]
    assert found.best(TASK, "adreno-740", device=THERE) is there
    assert found.best(TASK, "adreno-740", device=("Mali", "1")) is None
    # Failures count as records of a device; of equals the first by name counts.
    more = [record(driver=THERE[1], status="lost", trial=n) for n in (1, 2)]
    assert held(*here, there, *more[:1]).best(TASK, "adreno-740") is here[0]
    assert held(*here, there, *more).best(TASK, "adreno-740") is there


same_place = st.builds(
    record,
    choice=st.sampled_from([tile(n) for n in range(3)]),
    driver=st.sampled_from([HERE[1], THERE[1]]),
    seconds=st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=1, max_size=3),
    trial=st.integers(0, 2),
    when=st.sampled_from(["2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000Z"]),
)


@given(st.lists(same_place | st.builds(record, status=st.just("wrong"))), st.randoms())
def test_the_order_of_lines_does_not_matter(items, rng):
    before = held(*items)
    shuffled = list(items)
    rng.shuffle(shuffled)
    after = held(*shuffled)
    assert after.digest == before.digest
    for device in (None, HERE, THERE):
        assert after.best(TASK, "adreno-740", device) == before.best(TASK, "adreno-740", device)


def test_the_digest_is_of_what_decides():
    usual = held(record()).digest
    assert len(usual) == 64
    others = {"name": "c", "reason": "r", "strategy": "s", "seed": 1, "trial": 1, "error": 0.1}
    for name, value in {**others, "when": utc_now()}.items():
        assert held(record(**{name: value})).digest == usual
    deciding = {"task": TASK[::-1], "profile": "cpu", "device": "d", "driver": "v"}
    changed = [record(**{name: value}) for name, value in deciding.items()]
    changed += [record(choice=tile(1)), record(status="wrong"), record(seconds=(0.1,))]
    digests = {held(item).digest for item in changed}
    assert len(digests | {usual, held().digest, held(record(), record()).digest}) == 10


# Merging


def write(path, items, header=None):
    header = header or Header.here()
    path.write_text("".join(f"{item.line()}\n" for item in (header, *items)))
    return path


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(any_record, max_size=4), min_size=1, max_size=4), st.randoms())
def test_the_order_of_inputs_does_not_change_a_byte(tmp_path_factory, parts, rng):
    folder = tmp_path_factory.mktemp("merge")
    inputs = [
        write(folder / str(number), items, Header(f"{number % 2}.0", "0.27"))
        for number, items in enumerate(parts)
    ]
    merged = merge(inputs, folder / "out")
    text = (folder / "out").read_bytes()
    assert read_records(folder / "out") == merged
    everything = [item.line() for items in parts for item in items]
    assert sorted(item.line() for item in merged.records) == sorted(set(everything))
    rng.shuffle(inputs)
    merge(inputs, folder / "again")
    assert (folder / "again").read_bytes() == text
    # Nor does merging in steps.
    merge(inputs[:2], folder / "some")
    merge([folder / "some", *inputs[1:]], folder / "steps")
    assert (folder / "steps").read_bytes() == text


def test_the_order_of_merged_records(tmp_path):
    early, late = "2026-01-31T11:59:59.999+00:00", "2026-01-31T12:00:00Z"
    ordered = [
        record(device="A", when=late, trial=7),
        record(device="B", when=early, trial=2),
        record(device="B", when=late, trial=0),
        record(device="B", when=late, trial=1),
        record(device="B", when=late.replace("Z", ".500Z"), trial=0),
        record(task=TASK[::-1], device="A", when=early, trial=0),
    ]
    shuffled = random.Random(1).sample(ordered, len(ordered))
    source = write(tmp_path / "in", [*shuffled, ordered[0]])
    assert merge([source], tmp_path / "out").records == ordered


def test_merging_into_one_of_several_inputs(tmp_path, monkeypatch):
    one = write(tmp_path / "one", [record(trial=1)], Header("0.1", "0.27"))
    two = write(tmp_path / "two", [record(trial=2)], Header("0.2", "0.27"))
    one.chmod(0o640)
    with open(one, "ab") as stream:
        stream.write(b"{torn")
    monkeypatch.chdir(tmp_path)
    merge(["two", "one"], "./one")
    found = read_records(one)
    assert [item.trial for item in found.records] == [1, 2]
    assert found.header == Header("0.1, 0.2", "0.27")
    assert stat.S_IMODE(one.stat().st_mode) == 0o640
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "two"]
    with RecordsFile(one) as file:
        assert file.count == 2
    assert read_records(two).records == [record(trial=2)]


def test_merging_over_the_only_input_is_refused(tmp_path, monkeypatch):
    one = write(tmp_path / "one", [record(trial=2), record(trial=1)])
    before = one.read_bytes()
    (tmp_path / "link").symlink_to(one)
    for inputs in ([one], [one, one], [tmp_path / "link"]):
        with pytest.raises(SmartMemError, match=r"is the only input.*Give several"):
            merge(inputs, one)
    with pytest.raises(SmartMemError, match="there is no input"):
        merge([], one)
    assert one.read_bytes() == before


def test_merging_loses_nothing_that_is_there(tmp_path):
    one = write(tmp_path / "one", [record(trial=1)])
    two = write(tmp_path / "two", [record(trial=2)])
    out = tmp_path / "out"
    merge([one, two], out)
    before = out.read_bytes()
    merge([two, one], out)
    assert out.read_bytes() == before
    with pytest.raises(SmartMemError, match=r"out' holds 1 records that the inputs lack"):
        merge([one], out)
    assert out.read_bytes() == before
    out.write_text("something else\n")
    with pytest.raises(SmartMemError, match="no records file"):
        merge([one, two], out)
    assert out.read_text() == "something else\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one", "out", "two"]


def test_an_output_that_appears_meanwhile_is_kept(tmp_path, monkeypatch):
    one = write(tmp_path / "one", [record(trial=1)])
    out = tmp_path / "out"
    publish = records_file._publish

    def after_another(*args, **kwargs):
        write(out, [record(trial=5)])
        return publish(*args, **kwargs)

    monkeypatch.setattr(records_file, "_publish", after_another)
    with pytest.raises(SmartMemError, match="made by another process meanwhile"):
        merge([one], out)
    assert read_records(out).records == [record(trial=5)]


def test_merging_a_damaged_input_writes_nothing(tmp_path):
    one = write(tmp_path / "one", [record(trial=1)])
    two = write(tmp_path / "two", [record(trial=2)])
    two.write_bytes(two.read_bytes().replace(b"{", b"(", 2).replace(b"(", b"{", 1) + b"\n")
    with pytest.raises(SmartMemError, match="two', line 2"):
        merge([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()
