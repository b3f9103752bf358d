"""Merging files of records."""

from __future__ import annotations

import random
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import TASK, any_record, record, write_records

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.tuning import records_file
from smartmem_tvm.tuning.records import Header
from smartmem_tvm.tuning.records_file import RecordsFile, merge, read_records


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(any_record, max_size=4), min_size=1, max_size=4), st.randoms())
def test_the_order_of_inputs_does_not_change_a_byte(tmp_path_factory, parts, rng):
    folder = tmp_path_factory.mktemp("merge")
    inputs = [
        write_records(folder / str(number), items, Header(f"{number % 2}.0", "0.27"))
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
    source = write_records(tmp_path / "in", [*shuffled, ordered[0]])
    assert merge([source], tmp_path / "out").records == ordered


def test_merging_into_one_of_several_inputs(tmp_path, monkeypatch):
    one = write_records(tmp_path / "one", [record(trial=1)], Header("0.1", "0.27"))
    two = write_records(tmp_path / "two", [record(trial=2)], Header("0.2", "0.27"))
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
    one = write_records(tmp_path / "one", [record(trial=2), record(trial=1)])
    before = one.read_bytes()
    (tmp_path / "link").symlink_to(one)
    for inputs in ([one], [one, one], [tmp_path / "link"]):
        with pytest.raises(SmartMemError, match=r"is the only input.*Give several"):
            merge(inputs, one)
    with pytest.raises(SmartMemError, match="there is no input"):
        merge([], one)
    assert one.read_bytes() == before


def test_merging_loses_nothing_that_is_there(tmp_path):
    one = write_records(tmp_path / "one", [record(trial=1)])
    two = write_records(tmp_path / "two", [record(trial=2)])
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
    one = write_records(tmp_path / "one", [record(trial=1)])
    out = tmp_path / "out"
    publish = records_file._publish

    def after_another(*args, **kwargs):
        write_records(out, [record(trial=5)])
        return publish(*args, **kwargs)

    monkeypatch.setattr(records_file, "_publish", after_another)
    with pytest.raises(SmartMemError, match="made by another process meanwhile"):
        merge([one], out)
    assert read_records(out).records == [record(trial=5)]


def test_merging_a_damaged_input_writes_nothing(tmp_path):
    one = write_records(tmp_path / "one", [record(trial=1)])
    two = write_records(tmp_path / "two", [record(trial=2)])
    two.write_bytes(two.read_bytes().replace(b"{", b"(", 2).replace(b"(", b"{", 1) + b"\n")
    with pytest.raises(SmartMemError, match="two', line 2"):
        merge([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()
