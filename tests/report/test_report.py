from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
from rich.console import Console

from smartmem_tvm import report
from smartmem_tvm.analysis import KernelInfo
from smartmem_tvm.analysis.tensor_layouts import (
    ALONG_LANES,
    GATHERED,
    NextBest,
    Reading,
    TensorLayout,
)
from smartmem_tvm.artifact import KernelProfile
from smartmem_tvm.devices import built_in_profiles
from smartmem_tvm.frontend import TensorSpec


@dataclass(frozen=True)
class Point:
    x: float
    name: str


def text(table):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))
    console.print(table)
    return console.export_text()


def test_json_of_nested_values():
    value = {"points": [Point(1.5, "a"), Point(math.inf, "b")], "none": None, "t": (1, True)}
    assert json.loads(report.json_text(value)) == {
        "points": [{"x": 1.5, "name": "a"}, {"x": None, "name": "b"}],
        "none": None,
        "t": [1, True],
    }


def test_json_has_no_not_a_number():
    assert json.loads(report.json_text([math.nan, -math.inf, 0.0])) == [None, None, 0.0]


def test_json_refuses_what_it_does_not_know():
    with pytest.raises(TypeError):
        report.json_text({"x": object()})


def test_profile_rows_are_sorted_and_add_up():
    rows = [
        KernelProfile("short", 2, 10.0, (8, 4), (4, 1)),
        KernelProfile("long[0]", 1, 30.0, (16, 1), (8, 1)),
    ]
    out = text(report.profile_table(rows))
    assert out.index("long[0]") < out.index("short")
    assert "75.0%" in out
    assert "25.0%" in out
    assert "16×1" in out


def test_profile_without_timestamps_has_no_shares():
    out = text(report.profile_table([KernelProfile("k", 1, 0.0, (1,), (1,))]))
    assert "0.0" in out
    assert "%" not in out


def test_kernel_table_marks_layout_kernels():
    kernels = [KernelInfo("a", "f", 2, True, 2048), KernelInfo("b", "g", 1, False, None)]
    lines = text(report.kernel_table(kernels)).splitlines()
    (a,) = [line for line in lines if " a " in line]
    (b,) = [line for line in lines if " b " in line]
    assert "yes" in a
    assert "2.0" in a
    assert "yes" not in b
    assert "symbolic" in b


def test_tensor_table_shows_symbols_and_brackets():
    out = text(report.tensor_table("Inputs", [TensorSpec("a[b]", ("n", 3), "int64")]))
    assert "a[b]" in out
    assert "[n, 3]" in out


def tensor(name, **changes):
    facts = {"layout": "[0, 1]", "row_by_row": True, "bytes": 2048, "reason": "cheapest"}
    return TensorLayout(name, ("n", 4), "float32", **{**facts, **changes})


def test_layouts_of_their_own_come_first_and_constants_last():
    rows = [
        tensor("plain"),
        tensor("weight", constant=True, row_by_row=False, layout="[1, 0]"),
        tensor("input", forced=True, bytes=None),
        tensor("turned", row_by_row=False, next_best=NextBest("[0, 1]", 5.0, 1.25)),
        tensor("large", row_by_row=False, bytes=4096),
    ]
    lines = text(report.layout_table(rows)).splitlines()
    names = [line.split()[1] for line in lines if "[n, 4]" in line]
    assert names == ["large", "turned", "input", "plain", "weight"]
    assert "symbolic" in next(line for line in lines if "input" in line)
    assert "[0, 1] +25.0%" in next(line for line in lines if "turned" in line)
    shortened = text(report.layout_table(rows, most=2))
    assert "input" not in shortened
    assert "and 3 more: --json has all" in shortened


def test_only_operands_of_reductions_go_against_the_grain():
    fine = Reading("lv", ALONG_LANES, True)
    planned = Reading("lv", GATHERED, True, "lanes apart", "matmul", ALONG_LANES)
    gathered = Reading("lv", GATHERED, True, "lanes 4 apart", "matmul1", GATHERED)
    beside = Reading("lv", GATHERED, False)
    assert report.against_the_grain_tables([tensor("x", readings=(fine, planned, beside))]) == []
    (table,) = report.against_the_grain_tables([tensor("y", readings=(gathered, fine))])
    (line,) = [line for line in text(table).splitlines() if "matmul" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "y",
        "matmul1",
        "gathered",
        "lanes 4 apart",
    ]


def test_profiles_table_has_every_profile():
    out = text(report.profiles_table(built_in_profiles()))
    for profile in built_in_profiles():
        assert profile.name in out
