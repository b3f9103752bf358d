"""``smartmem records``: what it shows of a file, merging, and what it refuses."""

from __future__ import annotations

import pytest

from smartmem_tvm.tuning.records import Header, Record
from smartmem_tvm.tuning.records_file import RecordsFile, read_records

TASK = "0123456789abcdef"


def record(trial, status="ok", seconds=(), **fields):
    usual = {
        "task": TASK,
        "name": "conv2d[3x3]",
        "profile": "adreno-740",
        "device": "Adreno 740",
        "driver": "V@0615",
        "choice": {"width": trial},
        "error": None,
        "reason": None,
        "strategy": "random",
        "seed": 0,
        "when": f"2026-01-31T12:00:{trial:02}Z",
    }
    return Record(status=status, seconds=seconds, trial=trial, **{**usual, **fields})


def write(path, *items, package="0.1.0"):
    header = Header(package, "0.27.0")
    path.write_text("".join(f"{item.line()}\n" for item in (header, *items)))
    return path


@pytest.fixture
def file(tmp_path):
    return write(
        tmp_path / "records[1].jsonl",
        record(0, seconds=(0.008, 0.008)),
        record(1, "wrong"),
        record(2, seconds=(0.002,)),
        record(2, seconds=(0.002, 0.003, 0.003), when="2026-01-31T13:00:00Z"),
        record(3, "timeout"),
        record(4, "timeout"),
        record(0, "crash", task="f" * 16, name="softmax"),
        record(0, seconds=(0.5,), driver="V@0702"),
    )


def test_show(file, smartmem, smartmem_json):
    document = smartmem_json("records", "show", file)
    assert {name: document[name] for name in ("file", "package", "tvm")} == {
        "file": str(file),
        "package": "0.1.0",
        "tvm": "0.27.0",
    }
    assert (document["records"], document["torn_bytes"]) == (8, 0)
    assert document["digest"] == read_records(file).digest
    first, other, failed = document["tasks"]
    assert first == {
        "task": TASK,
        "name": "conv2d[3x3]",
        "profile": "adreno-740",
        "device": "Adreno 740",
        "driver": "V@0615",
        "trials": 6,
        "status": {"ok": 3, "timeout": 2, "wrong": 1},
        "best_ms": 2.0,
        "first_ms": 8.0,
        "speedup": 4.0,
    }
    assert (other["driver"], other["best_ms"], other["speedup"]) == ("V@0702", 500.0, 1.0)
    assert failed["task"] == "f" * 16
    assert failed["status"] == {"crash": 1}
    assert [failed[name] for name in ("best_ms", "first_ms", "speedup")] == [None, None, None]
    code, out, err = smartmem("records", "show", file)
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    for shown in (
        *("smartmem-tvm 0.1.0, TVM 0.27.0", "conv2d[3x3]", "softmax", "V@0702", "1 crash"),
        *("4.00×", "2", "adreno-740"),
    ):
        assert shown in text
    assert "torn" not in text


def test_show_says_of_a_torn_line_that_it_does_not_count(file, smartmem, smartmem_json):
    with open(file, "ab") as stream:
        stream.write(b'{"task')
    document = smartmem_json("records", "show", file)
    assert (document["records"], document["torn_bytes"]) == (8, 6)
    _, out, _ = smartmem("records", "show", file)
    assert "The last line is torn (6 bytes) and does not count." in out


def test_a_first_trial_that_failed_or_is_missing_gives_no_speedup(tmp_path, smartmem_json):
    for first in (record(0, "lost"), record(5, seconds=(0.1,))):
        file = write(tmp_path / "records.jsonl", first, record(1, seconds=(0.002,)))
        (row,) = smartmem_json("records", "show", file)["tasks"]
        assert (row["best_ms"], row["first_ms"], row["speedup"]) == (2.0, None, None)


def test_show_of_an_empty_file(tmp_path, smartmem, smartmem_json):
    file = tmp_path / "records.jsonl"
    RecordsFile(file).close()
    assert smartmem_json("records", "show", file)["tasks"] == []
    assert smartmem("records", "show", file)[0] == 0


def test_merge(tmp_path, smartmem, smartmem_json):
    one = write(tmp_path / "one", record(1, "lost"), record(0, "lost"))
    two = write(tmp_path / "two", record(2, "lost"), record(0, "lost"), package="0.2.0")
    out = tmp_path / "out[1]"
    document = smartmem_json("records", "merge", two, one, "-o", out)
    assert document == {"output": str(out), "inputs": [str(two), str(one)], "records": 3}
    assert [item.trial for item in read_records(out).records] == [0, 1, 2]
    assert smartmem_json("records", "show", out)["package"] == "0.1.0, 0.2.0"
    code, text, err = smartmem("records", "merge", one, two, "-o", one)
    assert (code, err) == (0, "")
    assert "3 records of 2 files" in " ".join(text.split())
    assert one.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_refusals(tmp_path, smartmem, option):
    one = write(tmp_path / "one", record(0, "lost"))
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a\0\0")
    before = one.read_bytes()
    for words, said in {
        ("show", tmp_path / "none"): "No such file",
        ("show", tmp_path / "model.onnx"): "is no records file",
        ("merge", one, "-o", one): "is the only input",
        ("merge", one, tmp_path / "model.onnx", "-o", tmp_path / "out"): "is no records file",
        ("merge", one, "-o", tmp_path / "no" / "out"): "in a folder that exists",
        ("merge", one): "-o",
        ("merge", "-o", tmp_path / "out"): "FILE",
        (): "ACTION",
    }.items():
        code, out, err = smartmem("records", *words, *option)
        assert (code, out) == (2, "")
        assert said in err
        assert "Traceback" not in err
    assert one.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "one"]
