"""Walks are what schedules can do, and among them what groups of channels ask for."""

from __future__ import annotations

import pytest
from tvm import te, topi

from smartmem_tvm.analysis.fused_kernel import read_kernel
from smartmem_tvm.analysis.layouts import row_major
from smartmem_tvm.analysis.transactions import KernelCost, Memory
from smartmem_tvm.devices import resolve_profile


def _walks(func, profile="cpu"):
    return KernelCost(read_kernel(func), Memory.of(resolve_profile(profile))).walks


def _grouped(channels, groups, pad=1):
    x = te.placeholder((1, channels, 14, 14), name="x")
    w = te.placeholder((channels, channels // groups, 3, 3), name="w")
    out = topi.nn.group_conv2d_nchw(x, w, 1, pad, 1, groups, "float32")
    return te.create_prim_func([x, w, out])


def _lanes(walks, axis):
    return {walk.width for walk in walks if walk.lane == (axis,)}


@pytest.mark.parametrize(
    ("channels", "groups", "widths"),
    [
        (96, 4, {16, 8}),  # 24 in a group
        (128, 32, {16, 4}),  # 4 in a group
        (128, 8, {16}),  # whole vectors in a group
        (96, 48, {16}),  # 2 in a group: no vector is worth it
        (96, 1, {16}),
    ],
)
def test_vectors_within_a_group_of_channels(channels, groups, widths):
    assert _lanes(_walks(_grouped(channels, groups)), 1) == widths


def test_axes_that_a_condition_tells_apart_are_not_taken_together():
    pair = (2, 3)
    assert not any(walk.lane == pair for walk in _walks(_grouped(96, 4)))
    x = te.placeholder((96, 14, 14), name="x")
    w = te.placeholder((64, 96), name="w")
    k = te.reduce_axis((0, 96))
    pointwise = te.compute((64, 14, 14), lambda o, i, j: te.sum(x[k, i, j] * w[o, k], k))
    walks = _walks(te.create_prim_func([x, w, pointwise]))
    assert any(walk.lane == (1, 2) for walk in walks)


@pytest.mark.parametrize(("profile", "teams"), [("cpu", set()), ("adreno-740", {64})])
def test_teams_are_as_wide_as_a_subgroup(profile, teams):
    x = te.placeholder((50, 300), name="x")
    walks = _walks(te.create_prim_func([x, topi.sum(x, 1)]), profile)
    assert {walk.width for walk in walks if walk.team} == teams


def test_a_team_reads_what_lies_side_by_side():
    """Few rows: a work-group for each is better than a work-item; along memory, not across it."""
    memory = Memory.of(resolve_profile("adreno-740"))
    x = te.placeholder((50, 4096), name="x")
    costs = {}
    for name, func in {
        "along": te.create_prim_func([x, topi.sum(x, 1)]),
        "across": te.create_prim_func([x, topi.sum(x, 0)]),
    }.items():
        model = KernelCost(read_kernel(func), memory)
        total = {
            walk: model.base(walk)
            + sum(
                model.access(number, walk, row_major(len(buffer.shape)))
                for number, buffer in enumerate(model.buffers)
            )
            for walk in model.walks
        }
        costs[name] = min(total, key=total.get)
    assert costs["along"].team
    assert not costs["across"].team
