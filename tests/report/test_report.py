from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
from rich.console import Console

from smartmem_tvm import report
from smartmem_tvm.analysis import KernelInfo
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


def test_profiles_table_has_every_profile():
    out = text(report.profiles_table(built_in_profiles()))
    for profile in built_in_profiles():
        assert profile.name in out
