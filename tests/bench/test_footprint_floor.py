"""The floor of footprint traffic: plans of graphs whose best one is known, and of a model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import footprint_floor
        import footprint_graph
        import footprint_plan
        import footprint_variants
    finally:
        sys.path.remove(str(BENCHMARKS))
    return footprint_graph, footprint_plan, footprint_variants, footprint_floor


@pytest.fixture
def build(modules):
    """A graph from lines "made size = heavy|light operand operand:bytes …"."""
    module = modules[0]

    def make(*lines, results=(), inputs=("x",), sizes=None):
        graph = module.Graph()
        values = {}

        def value(name, size, kind="made"):
            values[name] = module.Value(name, size, kind, name in results)
            graph.values.append(values[name])
            return values[name]

        for name in inputs:
            value(name, (sizes or {}).get(name, 100), "input")
        for line in lines:
            left, right = line.split(" = ")
            (name, size), (kind, *operands) = left.split(), right.split()
            reads = {}
            for operand in operands:
                read, _, count = operand.partition(":")
                reads[values[read]] = int(count or values[read].bytes)
            made = value(name, int(size))
            graph.operators.append(
                module.Operator(name, kind == "heavy", reads, {made: made.bytes})
            )
        return graph, values

    return make


def solve(modules, graph):
    plan = modules[1].Planner(graph).solve(20)
    assert plan.bound <= plan.bytes <= plan.bound + 1
    assert plan.bytes == sum(plan.stored.values()) + sum(plan.loaded.values())
    return plan


def stored(plan):
    return sorted(value.name for value in plan.stored)


def test_a_light_operator_is_free(modules, build):
    graph, _ = build("h 100 = heavy x", "g 100 = light h", "o 10 = heavy g", results=["o"])
    assert solve(modules, graph).bytes == 100 + 100 + 100 + 10


def test_a_smaller_light_result_is_what_is_stored(modules, build):
    graph, _ = build("h 100 = heavy x", "g 50 = light h", "o 10 = heavy g", results=["o"])
    plan = solve(modules, graph)
    assert (plan.bytes, stored(plan)) == (100 + 50 + 50 + 10, ["g", "o"])


def test_a_larger_light_result_is_computed_by_its_readers(modules, build):
    graph, _ = build("h 100 = heavy x", "g 400 = light h", "o 10 = heavy g", results=["o"])
    plan = solve(modules, graph)
    assert (plan.bytes, stored(plan)) == (100 + 100 + 100 + 10, ["h", "o"])


def test_a_result_is_stored_though_it_is_large(modules, build):
    graph, _ = build("h 100 = heavy x", "g 400 = light h", "o 10 = heavy g", results=["g", "o"])
    plan = solve(modules, graph)  # the smaller one is stored as well: it is cheaper to read
    assert (plan.bytes, stored(plan)) == (100 + 400 + 100 + 100 + 10, ["g", "h", "o"])


def test_a_residual_is_read_twice(modules, build):
    graph, _ = build(
        "a 100 = heavy x",
        "b 100 = heavy a",
        "s 100 = light a b",
        "c 100 = heavy s",
        "t 100 = light s c",
        results=["t"],
    )
    plan = solve(modules, graph)
    # a: x → a; b: a → s, a being there already; c: s → t, likewise.
    assert (plan.bytes, stored(plan)) == (600, ["a", "s", "t"])


def test_a_kernel_stores_nothing_that_needs_a_later_one(modules, build):
    """What makes `a` has all of it at hand, but `b` is not there yet."""
    graph, _ = build("a 1000 = heavy x", "b 10 = heavy a:1", "s 10 = light a b", results=["s"])
    assert solve(modules, graph).bytes == 100 + 1000 + 1000 + 10


def test_the_whole_is_read_only_where_it_is_used(modules, build):
    lines = ("a 1000 = heavy x", "b 10 = heavy a:250", "c 10 = heavy a", "s 1000 = light a b")
    graph, _ = build(*lines, "o 10 = heavy s", results=["o", "c"])
    # s is computed where o is made: b's kernel would have to read all of a, and store s.
    plan = solve(modules, graph)
    assert plan.bytes == (100 + 1000) + (250 + 10) + (1000 + 10) + (1000 + 10 + 10)


def test_parts_are_read_as_far_as_they_are_needed(modules, build):
    graph, _ = build("h 100 = heavy x:25", "g 100 = light h", "o 10 = heavy g:40", results=["o"])
    assert solve(modules, graph).bytes == 25 + 100 + 40 + 10


def test_light_values_of_inputs_have_a_kernel_of_their_own(modules, build):
    graph, _ = build("g 70 = light x", "o 10 = heavy x", results=["g", "o"])
    assert solve(modules, graph).bytes == (100 + 70) + (100 + 10)


def test_nothing_but_light_values(modules, build):
    graph, _ = build("g 70 = light x", "f 60 = light g", results=["f"])
    assert solve(modules, graph).bytes == 100 + 60


def test_normalisations_keep_their_statistics(modules, build):
    graph, values = build("h 100 = heavy x", "n 100 = heavy h", "o 10 = heavy n", results=["o"])
    assert solve(modules, graph).bytes == 100 + 100 + (100 + 100) + (100 + 10)
    graph.operators[1].statistics = modules[0].Statistics(5, frozenset([values["h"]]))
    plan = solve(modules, modules[2].split_normalisations(graph))
    assert plan.bytes == 100 + 100 + (100 + 5) + (100 + 5 + 10)


def attention(modules, build, **keys):
    graph, values = build(
        "q 100 = heavy x",
        "k 100 = heavy x",
        "v 100 = heavy x",
        "s 1000 = heavy q k",
        "m 1000 = light s y",
        "p 1000 = heavy m",
        "o 100 = heavy p v",
        inputs=("x", "y"),
        sizes={"y": 1000},
        **keys,
    )
    graph.operators[5].statistics = modules[0].Statistics(20, frozenset([values["m"]]))
    return graph


def test_attention_keeps_its_rows_on_the_chip(modules, build):
    joined = modules[2].join_attention(attention(modules, build, results=["o"]))
    assert [op.name for op in joined.operators] == ["q", "k", "v", "s · p · o"]
    assert solve(modules, joined).bytes == 3 * 200 + (100 + 100 + 1000 + 100) + 100


def test_attention_whose_rows_are_a_result_stays(modules, build):
    graph = attention(modules, build, results=["o", "p"])
    assert modules[2].join_attention(graph).operators == graph.operators


@pytest.mark.parametrize(
    "name", ["vit/micro", pytest.param("sd-unet/micro", marks=pytest.mark.slow)]
)
def test_a_model_lies_between_its_floor_and_tvm(modules, name):
    found = modules[3].count(name, {})
    assert found["needed"] <= found["compulsory"]
    assert found["needed"] < found["below"]["both"] <= found["below"]["attention"]
    assert found["below"]["attention"] < found["floor"] <= found["ours"] < found["tvm"]
    assert found["floor"] <= found["plan"] <= 1.001 * found["floor"]
    assert sum(found["parts"].values()) == found["ours"]
    assert (found["excess"] != []) == (found["ours"] > 1.05 * found["plan"])
