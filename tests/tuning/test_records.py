"""Records, and which of several is best."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_records import HERE, TASK, THERE, any_record, record, tile

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.schedules.choice import Choice
from smartmem_tvm.schedules.tile import Tile
from smartmem_tvm.tuning.records import STATUSES, Header, Record, Records, utc_now


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


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((2,), 2.0),
        ([3.0, 1.0, 2.0], 2.0),
        ((0.001, 5, 5, 6, 6), 5.0),  # one that a timer got wrong
        ((9, 9, 9, 9, 9, 5, 5, 5, 5, 5), 5.0),  # half of them on a busy machine
    ],
)
def test_the_time_that_stands_for_all_repeats(seconds, expected):
    assert record(seconds=seconds).typical == expected
    assert record(seconds=seconds[::-1]).typical == expected


def test_what_failed_has_no_time():
    assert record(status="timeout").typical is None


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


# What is best


def held(*items):
    """What a file with these records says."""
    return Records("memory", Header("1", "2"), list(items), 0)


def test_the_least_time_is_best():
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
    assert best.typical == 0.005


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
