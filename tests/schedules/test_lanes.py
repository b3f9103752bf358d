"""What lanes share is proved: conditions and steps against an enumeration of all lanes."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import sym, tirx

from smartmem_tvm.analysis.index_evaluate import Evaluator
from smartmem_tvm.schedules.lanes import Lane

TILES = 12


def _lane(width):
    analyzer = sym.Analyzer()
    tile = tirx.Var("tile", "int64")
    analyzer.bind(tile, tvm.ir.Range(tirx.const(0, "int64"), tirx.const(TILES, "int64")))
    return Lane(tirx.Var("lane", "int64"), width, analyzer), tile


def _values(expr, lane, tile):
    """The expression at [tile, lane]."""
    tiles, lanes = np.meshgrid(np.arange(TILES), np.arange(lane.width), indexing="ij")
    evaluator = Evaluator({tile: tiles.ravel(), lane.var: lanes.ravel()}, None)
    return np.broadcast_to(evaluator.of(expr), tiles.size).reshape(tiles.shape)


COMPARE = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([2, 4, 8, 16]),
    st.sampled_from(sorted(COMPARE)),
    st.integers(-3, 3),
    st.integers(-40, 40),
    st.integers(-100, 250),
    st.booleans(),
)
def test_conditions_that_are_said_to_be_the_same_are(width, compare, step, scale, limit, swapped):
    lane, tile = _lane(width)
    sides = [tile * scale + lane.var * step, tirx.const(limit, "int64")]
    condition = COMPARE[compare](*(reversed(sides) if swapped else sides))
    values = _values(condition, lane, tile)
    same = bool((values == values[:, :1]).all())
    if lane.step(condition) == 0:
        assert same


@pytest.mark.parametrize("compare", COMPARE)
@pytest.mark.parametrize("width", [4, 16])
def test_boundaries_between_vectors_are_found(width, compare):
    """Parts that vectors fit into, as of a projection to q, k and v: none is taken lane by lane."""
    lane, tile = _lane(width)
    at = tile * width + lane.var
    for limit in range(TILES * width):
        condition = COMPARE[compare](at, tirx.const(limit, "int64"))
        values = _values(condition, lane, tile)
        same = bool((values == values[:, :1]).all())
        assert (lane.step(condition) == 0) == same, limit


def test_connectives():
    lane, tile = _lane(16)
    at = tile * 16 + lane.var
    inside = tirx.And(at >= 32, at < 64)
    assert lane.step(inside) == 0
    assert lane.step(tirx.Not(inside)) == 0
    assert lane.step(tirx.Or(inside, tile > 3)) == 0
    assert lane.step(tirx.And(inside, at < 50)) is None
    assert lane.step(tirx.EQ(at % 2, tirx.const(0, "int64"))) is None
    assert lane.step(tirx.EQ(tile % 2, tirx.const(0, "int64"))) == 0


@pytest.mark.parametrize("width", [4, 8, 16])
def test_steps_within_a_block(width):
    """(4 * t + lane) % 16 grows by one: a panel that is wider than the vector."""
    lane, tile = _lane(width)
    at = tile * width + lane.var
    assert lane.step(at % 16) == 1
    assert lane.step(at // 16) == 0
    assert lane.step(at // 16 * 576 + at % 16) == 1
    assert lane.step(at // 24 * 24) == (0 if width != 16 else None)


def test_choices_are_not_read_ahead_of():
    """What all lanes share goes to a register, but not what a condition keeps from being read."""
    lane, tile = _lane(16)
    x, w = (tirx.decl_buffer((400,), "float32", name) for name in "xw")
    shared = tirx.BufferLoad(x, [tile - 1])
    product = shared * tirx.BufferLoad(w, [tile * 16 + lane.var])
    zero = tirx.const(0.0, "float32")
    registers = []
    for value, wanted in (
        (product, 1),
        (tirx.if_then_else(tile > 0, product, zero), 0),
        (tirx.if_then_else(tile * 16 + lane.var >= 16, product, zero), 0),
    ):
        registers.clear()
        lane.split(value, lambda part: part, lambda part: registers.append(part) or part)
        assert sum(isinstance(r, tvm.ir.expr.TensorLoad) for r in registers) == wanted
