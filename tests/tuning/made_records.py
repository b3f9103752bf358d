"""Records and files of them, made up."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from smartmem_tvm.tuning.records import STATUSES, Header, Record, utc_now

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


def write_records(path, items, header=None):
    """A file of these records; its path."""
    lines = [(header or Header.here()).line(), *(item.line() for item in items)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


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
