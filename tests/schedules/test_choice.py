"""Schedules as data: what is written, read and refused."""

from __future__ import annotations

import json

import pytest
from schedule_helpers import schedule
from tvm import te, topi
from tvm_ffi import structural_equal

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.schedules import RuleDeclined, emit
from smartmem_tvm.schedules.choice import Choice, choice_of, schedule_by
from smartmem_tvm.schedules.statements import size_written
from smartmem_tvm.schedules.tile import Tile


def product(m=32, k=24, n=64):
    a, b = te.placeholder((m, k)), te.placeholder((k, n))
    return te.create_prim_func([a, b, topi.matmul(a, b)])


def normalised(m=8, n=50):
    a = te.placeholder((m, n))
    return te.create_prim_func([a, topi.nn.softmax(a)])


@pytest.mark.parametrize(
    "choice",
    [
        Choice(Tile()),
        Choice(Tile(((0, 7),), 1, 16, group=4, fastest=0)),
        Choice(Tile(inner=(1,), inner_width=8), order=1, fused=False, row_bytes=1024),
        Choice(Tile(shape=((1, 16), (0, 4)), team=64, local_bytes=512, innermost=2, unroll=1)),
    ],
)
def test_json_keeps_all(choice):
    assert Choice.from_dict(json.loads(json.dumps(choice.to_dict()))) == choice


def test_defaults_are_left_out():
    assert Choice(Tile(lane=1, width=8)).to_dict() == {"lane": 1, "width": 8}


@pytest.mark.parametrize(
    "document",
    [
        {"wide": 8},
        {"width": "8"},
        {"width": -1},
        {"width": True},
        {"rows": [[0]]},
        {"rows": [[0, 1.5]]},
        {"inner": 3},
        {"fused": 1},
        {"lane": -2},
    ],
)
def test_other_values_are_refused(document):
    with pytest.raises(SmartMemError, match=next(iter(document))):
        Choice.from_dict(document)


@pytest.mark.parametrize("make", [product, normalised])
def test_what_a_rule_chose_makes_the_same_schedule(make, opencl_device):
    func = make()
    scheduled = schedule(func)
    again = schedule_by(func, choice_of(scheduled)).mod["main"]
    assert structural_equal(again.body, scheduled.body, map_free_vars=True)


def test_a_smaller_tile_than_asked_for_is_told(monkeypatch):
    choice = Choice(Tile(((0, 8),), 1, 16))
    whole = schedule_by(product(), choice).mod["main"]
    assert choice_of(whole) == choice
    monkeypatch.setattr(emit, "LONGEST_SOURCE", size_written(whole.body) // 2)
    assert choice_of(schedule_by(product(), choice).mod["main"]).tile.rows == ((0, 4),)


def test_axes_that_the_kernel_has_not():
    with pytest.raises(RuleDeclined, match="axis 5, the kernel has 2"):
        schedule_by(product(), Choice(Tile(lane=5, width=8)))


def test_an_order_that_the_kernel_has_not():
    with pytest.raises(RuleDeclined, match="no number 4"):
        schedule_by(product(), Choice(Tile(), order=4))
