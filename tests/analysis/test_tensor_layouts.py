"""Records of layouts: they come back from a module, and readings are counted."""

from __future__ import annotations

import tvm

from smartmem_tvm.analysis.tensor_layouts import (
    ALONG_LANES,
    ALONG_REDUCTION,
    GATHERED,
    READINGS,
    SHARED,
    NextBest,
    Reading,
    TensorLayout,
    count_readings,
    read_tensor_layouts,
    unexplained,
    with_tensor_layouts,
)

PLAIN = TensorLayout("x", ("n", 4), "float32", "[0, 1]", True, None, "a graph input", forced=True)
BLOCKED = TensorLayout(
    "lv",
    (6, 4),
    "float16",
    "[1/4, 0, 1%4]",
    False,
    48,
    "cheapest",
    cost=12.5,
    next_best=NextBest("[1, 0]", 3.0, 1.24),
    readings=(
        Reading("lv1", ALONG_LANES, True),
        Reading("lv2", GATHERED, True, "its lanes are 4 elements apart"),
        Reading("lv3", SHARED, False),
        Reading("lv4", ALONG_REDUCTION, True),
    ),
)


def test_records_come_back_as_they_were():
    mod = with_tensor_layouts(tvm.IRModule(), [PLAIN, BLOCKED])
    assert read_tensor_layouts(mod) == [PLAIN, BLOCKED]
    assert read_tensor_layouts(tvm.ir.load_json(tvm.ir.save_json(mod))) == [PLAIN, BLOCKED]


def test_a_second_choice_replaces_the_first():
    mod = with_tensor_layouts(tvm.IRModule(), [PLAIN])
    assert read_tensor_layouts(with_tensor_layouts(mod, [BLOCKED])) == [BLOCKED]
    assert read_tensor_layouts(with_tensor_layouts(mod, [])) == []


def test_nothing_recorded():
    assert read_tensor_layouts(tvm.IRModule()) == []
    assert read_tensor_layouts(with_tensor_layouts(tvm.IRModule(), [])) == []


def test_only_operands_along_a_reduced_axis_are_counted():
    counts = count_readings([PLAIN, BLOCKED, BLOCKED])
    assert list(counts) == list(READINGS)
    assert {how: n for how, n in counts.items() if n} == {
        ALONG_LANES: 2,
        GATHERED: 2,
        ALONG_REDUCTION: 2,
    }


def test_what_is_not_read_with_stride_one_owes_a_reason():
    silent = Reading("lv5", GATHERED, True)
    tensor = TensorLayout("y", (4,), "float32", "[0]", True, 16, "", readings=(silent,))
    assert unexplained([BLOCKED, tensor]) == [("y", silent)]
