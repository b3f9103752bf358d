"""Draws and figures of the kernel bench."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checking import at_places, difference
from kernel_classes import CLASSES
from kernel_drawing import draw
from kernel_figures import (
    Machine,
    bound_of,
    lowest,
    most_to_gain,
    slowest_against_tvm,
    summary,
    with_figures,
)
from kernel_pool import Entry

MACHINE = Machine(peak=100e9, bandwidth=10e9)


def entry(number, model="swin/full", kind="contraction", key=None):
    name, key = f"f{number}", key or f"{model}{number}"
    return Entry(model, name, number, key, kind, 1, 4, 4, True, [], [], [], 1, False)


def pool():
    entries = []
    for model, sizes in {"a": (9, 0, 5, 1), "b": (2, 4, 5, 1), "c": (9, 0, 5, 0)}.items():
        for kind, size in zip(CLASSES, sizes, strict=True):
            entries += [entry(len(entries) + n, model, kind) for n in range(size)]
    return entries


def kernel(name="f", kind="contraction", flop=1e9, moved=1e6, ours=0.02, tvm=None, calls=1):
    seconds = {"ours": ours} if ours else {}
    if tvm:
        seconds["tvm"] = tvm
    failed = {"ours": None if ours else "crash: gone", "tvm": None}
    fields = {"name": name, "kind": kind, "flop": flop, "read": moved, "written": 0, "calls": calls}
    fields |= {
        "error": None if kind == "elementwise" else 0.0,
        "changed": False,
        "fused": True,
        "build": {"ours": {"source_bytes": 100_000 if kind == "reduction" else 1000}},
    }
    return with_figures({**fields, "seconds": seconds, "failed": failed}, MACHINE)


def test_a_draw_gives_every_class_its_share_and_then_the_rest():
    kinds = [e.kind for e in draw(pool(), 16, seed=1)]
    assert [kinds.count(kind) for kind in CLASSES] == [5, 4, 5, 2]


def test_models_take_turns_in_a_draw():
    models = [e.model for e in draw(pool(), 20, seed=3) if e.kind == "reduction"]
    counts = [models.count(name) for name in "abc"]
    assert max(counts) - min(counts) == 1
    assert sum(counts) == 7


def test_a_larger_draw_only_adds_kernels():
    small, large = (draw(pool(), count, seed=5) for count in (10, 20))
    assert large[:10] == small
    assert draw(pool(), 10, seed=6) != small


def test_kernels_of_one_structure_are_drawn_once():
    found = draw([entry(0, key="x"), entry(1, "b", key="x"), entry(2)], 9, seed=0)
    assert sorted(e.number for e in found) == [0, 2]


def test_bound_is_what_takes_longer():
    assert bound_of(1e9, 1e6, MACHINE) == (pytest.approx(0.01), "flop")
    assert bound_of(1e6, 1e8, MACHINE) == (pytest.approx(0.01), "bytes")


def test_fraction_and_speed_up():
    found = kernel(ours=0.02, tvm=0.1)
    assert found["fraction"] == pytest.approx(0.5)
    assert found["gflops"] == pytest.approx(50)
    assert found["over_tvm"] == pytest.approx(5)
    assert kernel(ours=None)["fraction"] is None


def test_summary_counts_large_kernels_failures_and_slower_ones():
    kernels = [
        kernel(ours=0.02, tvm=0.01),
        kernel(ours=0.04, tvm=0.4),
        kernel(flop=5e6, moved=1, ours=0.5),  # too small to count
        kernel(kind="convolution", flop=4e7, ours=0.5),  # too small to count
        kernel(kind="convolution", ours=0.0125),
        kernel(kind="elementwise", flop=0, moved=1e7, ours=0.002),
        kernel(kind="elementwise", flop=0, moved=1e5, ours=0.001),
        kernel(kind="reduction", ours=0.05),
        kernel(ours=None),
    ]
    found = summary(kernels)
    assert found["contractions_above_10_mflop"] == {"kernels": 2, "median": 0.375, "least": 0.25}
    assert found["convolutions_above_50_mflop"]["median"] == 0.8
    assert found["bound_by_bytes"] == {"kernels": 2, "median": 0.255, "least": 0.01}
    assert found["bound_by_bytes_from_1_mb"]["median"] == 0.5
    assert (found["unchecked"], found["sources_above_64_kb"]) == (2, 1)
    assert (found["compared"], found["slower_than_tvm"], found["failed"]) == (2, 1, 1)
    assert found["geomean_over_tvm"] == pytest.approx(5**0.5)


def test_lists_of_what_to_look_at():
    kernels = [kernel("a", ours=0.02, tvm=0.01), kernel("b", ours=0.05, tvm=0.01), kernel("c")]
    kernels.append(kernel("d", ours=0.011, calls=1000))
    assert [k["name"] for k in lowest(kernels, 2)] == ["b", "a"]
    assert [k["name"] for k in slowest_against_tvm(kernels)] == ["b", "a"]
    assert most_to_gain(kernels, 1)[0]["name"] == "d"


def test_difference_is_relative_to_the_largest_element():
    one = {"0": np.array([1.0, 100.0]), "1": np.array([0, 1])}
    other = {"0": np.array([1.0, 101.0]), "1": np.array([0, 1])}
    assert difference(one, other) == pytest.approx(1 / 101)
    assert difference(one, {**one, "0": np.array([np.inf, 100.0])}) > 1


def test_large_outputs_are_compared_at_places_that_stay_the_same():
    array = np.arange(3 << 20, dtype=np.float32).reshape(3, -1)
    kept = at_places(array)
    assert kept.size == 1 << 20
    assert np.array_equal(kept, at_places(array))
    assert 0.2 < (kept >= 2 << 20).mean() < 0.5
    assert np.array_equal(at_places(array[:1, :7]), array[0, :7])
