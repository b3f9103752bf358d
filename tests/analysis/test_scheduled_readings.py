"""How the loops of scheduled functions go through their parameters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tvm
from tvm.relax import op
from tvm.script import tirx as T

from smartmem_tvm.analysis.scheduled_readings import scheduled_readings
from smartmem_tvm.analysis.tensor_layouts import (
    ALONG_LANES,
    ALONG_REDUCTION,
    GATHERED,
    SHARED,
    SINGLE,
)
from smartmem_tvm.devices import load_profile
from smartmem_tvm.passes import ClassifyOperators
from smartmem_tvm.schedules import ApplySchedules, own_rules

sys.path.insert(0, str(Path(__file__).parents[1] / "passes"))
from relax_graphs import STAGE, apply, graph


@T.prim_func(private=True, s_tir=True)
def tiled(A: T.Buffer((4, 64)), B: T.Buffer((64, 32)), C: T.Buffer((32, 64)), Y: T.Buffer((4, 32))):
    for bx in T.thread_binding(4, thread="blockIdx.x"):
        for tx in T.thread_binding(2, thread="threadIdx.x"):
            with T.sblock("work_item"):
                T.reads()
                T.writes()
                total = T.sblock_alloc_buffer((16,), scope="local")
                lanes = T.sblock_alloc_buffer((16,), scope="local")
                scalar = T.sblock_alloc_buffer((1,), scope="local")
                for first in T.vectorized(16):
                    total[first] = T.float32(0)
                for r in range(64):
                    scalar[0] = A[bx, r]
                    for gathered in T.unroll(16):
                        lanes[gathered] = C[tx * 16 + gathered, r]
                    for lane in T.vectorized(16):
                        total[lane] = total[lane] + scalar[0] * B[r, tx * 16 + lane] * lanes[lane]
                for last in T.vectorized(16):
                    Y[bx, tx * 16 + last] = total[last]


@T.prim_func(private=True, s_tir=True)
def scalar(A: T.Buffer((64, 8)), Y: T.Buffer((8,))):
    for bx in T.thread_binding(8, thread="blockIdx.x"):
        with T.sblock("work_item"):
            T.reads()
            T.writes()
            total = T.sblock_alloc_buffer((1,), scope="local")
            total[0] = T.float32(0)
            for r in range(64):
                total[0] = total[0] + A[r, bx]
            Y[bx] = total[0]


def test_lanes_scalars_and_gathered_vectors():
    assert scheduled_readings(tiled) == {0: ALONG_REDUCTION, 1: ALONG_LANES, 2: GATHERED}


def test_a_work_item_that_strides():
    assert scheduled_readings(scalar) == {0: SINGLE}


def scheduled(body, *shapes, profile="cpu"):
    """The one function of a graph, scheduled by our rules, and its readings by parameter."""
    target = load_profile(profile).target(None)
    mod = ClassifyOperators()(apply(graph(body, *shapes), *STAGE))
    with target:
        mod = ApplySchedules(own_rules())(mod)
    (func,) = [f for f in mod.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    found = scheduled_readings(func)
    return {func.params[number].name: how for number, how in found.items()}


def test_a_product_of_the_rules():
    assert scheduled(op.matmul, (64, 96), (96, 64)) == {"x0": ALONG_REDUCTION, "x1": ALONG_LANES}


def test_the_left_operand_the_wrong_way_round():
    found = scheduled(lambda a, b: op.matmul(op.permute_dims(a), b), (96, 64), (96, 64))
    assert found["x1"] == ALONG_LANES
    assert found["x0"] in (SHARED, ALONG_LANES)


@pytest.mark.parametrize("profile", ["cpu", "adreno-740"])
@pytest.mark.parametrize("columns", [16, 512])
def test_rows_that_a_vector_covers_or_a_team_shares(profile, columns):
    found = scheduled(lambda x: op.nn.softmax(x), (64, columns), profile=profile)
    assert found["x0"] in (ALONG_REDUCTION, ALONG_LANES)


def test_elementwise_functions_read_nothing_along_a_reduction():
    assert scheduled(op.exp, (64, 96)) == {}
