"""Shapes of work-groups: legal, the cheapest of those tried, and right on the device."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schedule_helpers import check, normal
from tvm import te

from smartmem_tvm.devices import load_profile
from smartmem_tvm.schedules.contraction import reduction_costs
from smartmem_tvm.schedules.group_shape import AXES, GROUPS, cheapest_shape
from smartmem_tvm.schedules.limits import limits_of
from smartmem_tvm.schedules.tile import Tile

LIMITS = limits_of(load_profile("adreno-740").target())


def product_of(*extents):
    """Batched matrix product over all extents but the last, which is reduced."""
    *batch, m, n, k = extents
    a, b = te.placeholder((*batch, m, k)), te.placeholder((*batch, k, n))
    r = te.reduce_axis((0, k))
    result = te.compute(
        (*batch, m, n),
        lambda *at: te.sum(a[(*at[:-1], r)] * b[(*at[:-2], r, at[-1])], r),
    )
    return te.create_prim_func([a, b, result])


@settings(max_examples=40, deadline=None)
@given(
    batch=st.lists(st.integers(1, 9), max_size=2),
    m=st.integers(1, 300),
    n=st.integers(1, 300),
    rows=st.integers(1, 8),
)
def test_shapes_are_legal_and_leave_enough_groups(batch, m, n, rows):
    func = product_of(*batch, m, n, 8)
    costs = reduction_costs(func, LIMITS)
    last = len(costs.extents) - 1
    tile = Tile(rows=((last - 1, min(rows, m)),), lane=last, width=4 if n >= 4 else 1)
    shape = cheapest_shape(tile, costs, LIMITS)
    traffic = costs.traffic(tile)
    items = traffic.groups({})
    if not shape:
        many = [d for d in range(last + 1) if traffic.tiles(d) > 1]
        assert items <= 64 or len(many) < 2
        return
    assert len(shape) <= AXES
    assert math.prod(size for _, size in shape) <= LIMITS.max_group
    assert all(1 <= size <= traffic.tiles(d) for d, size in shape)
    assert traffic.groups(dict(shape)) >= min(GROUPS, items // LIMITS.max_group)
    left = [d for d in range(last + 1) if traffic.tiles(d) > 1 and d not in dict(shape)]
    assert not left or len(shape) < AXES


def test_no_other_shape_touches_fewer_lines():
    costs = reduction_costs(product_of(196, 576, 576), LIMITS)
    tile = Tile(rows=((0, 7),), lane=1, width=4, fastest=1)
    shape = cheapest_shape(tile, costs, LIMITS)
    traffic = costs.traffic(tile)
    powers = [1 << bit for bit in range(9)]
    for along_x, along_y in itertools.product(powers[2:], powers):
        other = {1: along_x, 0: along_y}
        legal = 64 <= along_x * along_y <= LIMITS.max_group and along_y <= traffic.tiles(0)
        if legal and traffic.groups(other) >= GROUPS:
            assert traffic.lines(dict(shape)) <= traffic.lines(other)


def test_groups_follow_the_operand_that_many_share():
    """Rows of 2048 elements against four columns: a group takes all columns of its rows."""
    costs = reduction_costs(product_of(4096, 16, 2048), LIMITS)
    tile = Tile(rows=((0, 8),), lane=1, width=4, fastest=1)
    assert dict(cheapest_shape(tile, costs, LIMITS))[1] == 4


@pytest.mark.device
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batch=st.lists(st.integers(1, 5), max_size=2),
    m=st.integers(1, 60),
    n=st.integers(1, 90),
    k=st.integers(1, 20),
    profile=st.sampled_from(["adreno-740", "mali-g710", "nvidia-opencl"]),
)
def test_any_extents(batch, m, n, k, profile, opencl_device):
    a, b = normal(*batch, m, k), normal(*batch, k, n, seed=1)
    check(product_of(*batch, m, n, k), [a, b], [a @ b], opencl_device, profile)
