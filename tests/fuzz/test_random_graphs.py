"""Random graphs against NumPy: a hundred in CI, thousands by ``make fuzz`` (run_fuzz.py)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import fuzz_reference
import fuzz_relax
import pytest
from fuzz_execution import (
    WrongNumbersError,
    compare,
    kernels_of,
    run_on_device,
    run_on_host,
    wide_lines,
)
from fuzz_graphs import Graph, Step, Tensor
from fuzz_minimise import minimise
from fuzz_reference import IllConditionedError, reference
from fuzz_strategies import graphs
from hypothesis import HealthCheck, Phase, assume, given, settings

from smartmem_tvm.pipeline import SWITCHES

# Each was wrong or refused once; minimised by run_fuzz.py.
FOUND = sorted((Path(__file__).parent / "graphs").glob("*.json"))


def random_graphs(count, **kind):
    """Run a test with so many graphs, the same ones every time; a failing one is made smaller."""

    def decorate(test):
        chosen = settings(
            max_examples=count,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        return chosen(given(graph=graphs(**kind))(test))

    return decorate


def assume_tests_something(graph):
    try:
        reference(graph)
    except IllConditionedError:
        assume(False)


@random_graphs(80)
def test_random_graph(graph):
    assume_tests_something(graph)
    compare(graph, run_on_host(graph))


@random_graphs(10, symbolic=True)
def test_random_graph_with_symbolic_batch(graph):
    assume_tests_something(graph)
    compare(graph, run_on_host(graph))


@random_graphs(12)
def test_random_graph_on_device(opencl_device, graph):
    assume_tests_something(graph)
    compare(graph, run_on_device(graph, opencl_device))


@random_graphs(12, symbolic=True)
def test_random_graph_with_symbolic_batch_on_device(opencl_device, graph):
    """Also that its kernels compute indices in 32 bits: the batch has a bound."""
    assume_tests_something(graph)
    compare(graph, run_on_device(graph, opencl_device))


@pytest.mark.parametrize("switch", [*SWITCHES, "all"])
def test_random_graph_with_mechanism_off(switch):
    disabled = tuple(SWITCHES) if switch == "all" else (switch,)

    @random_graphs(6)
    def each(graph):
        assume_tests_something(graph)
        compare(graph, run_on_host(graph, disabled))

    each()


@random_graphs(50)
def test_random_layouts(graph):
    assume_tests_something(graph)
    compare(graph, run_on_host(graph, drawn=Counter()))


@random_graphs(10, symbolic=True)
def test_random_layouts_with_symbolic_batch(graph):
    assume_tests_something(graph)
    compare(graph, run_on_host(graph, drawn=Counter()))


@random_graphs(8)
def test_random_layouts_on_device(opencl_device, graph):
    assume_tests_something(graph)
    compare(graph, run_on_device(graph, opencl_device, drawn=Counter()))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
@pytest.mark.parametrize("drawn", [None, Counter()], ids=["chosen", "random"])
def test_graph_that_failed_once(path, drawn):
    graph = Graph.from_json(path.read_text(encoding="utf-8"))
    compare(graph, run_on_host(graph, drawn=drawn))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_graph_that_failed_once_on_device(path, opencl_device):
    graph = Graph.from_json(path.read_text(encoding="utf-8"))
    compare(graph, run_on_device(graph, opencl_device))


# ---- the tools themselves -----------------------------------------------------------------------


def test_generator_draws_everything():
    drawn: Counter[str] = Counter()

    @settings(
        max_examples=300,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(graphs())
    def each(graph):
        drawn.update(step.op for step in graph.steps)
        read = Counter(name for step in graph.steps for name in set(step.reads))
        made = {name for step in graph.steps for name in step.makes}
        drawn["symbolic batch"] += bool(graph.n)
        drawn["several outputs"] += len(graph.outputs) > 1
        drawn["output in the middle"] += any(name in read for name in graph.outputs)
        drawn["repeated reader"] += any(name in made and count > 1 for name, count in read.items())
        drawn["axis of extent 1"] += any(1 in s for step in graph.steps for s in step.shapes)

    each()
    assert fuzz_relax.OPERATORS.keys() == fuzz_reference.OPERATORS.keys()
    assert set(fuzz_relax.OPERATORS) - fuzz_relax.OF_KERNELS <= set(drawn)
    for what in ("symbolic batch", "several outputs", "output in the middle", "repeated reader"):
        assert drawn[what] > 20, what
    assert drawn["axis of extent 1"] > 20


def test_layouts_of_every_form_are_drawn():
    drawn: Counter[str] = Counter()

    @random_graphs(25)
    def each(graph):
        kernels_of(graph, drawn=drawn)

    each()
    for form in ("permuted", "vectors", "padded vectors", "fused and split"):
        assert drawn[form] > 5, form


@random_graphs(30)
def test_graph_survives_its_file(graph):
    assert Graph.from_json(graph.to_json()) == graph


def test_wrong_numbers_are_noticed():
    graph = Graph(
        (Tensor("x0", (3, 5)),),
        (Step("v0", "relu", ("x0",), {}, ((3, 5),)),),
        ("v0",),
    )
    ((exact, _),) = reference(graph)
    compare(graph, [exact.astype("float32")])
    off = exact.copy()
    off[1, 2] += 1e-2
    with pytest.raises(WrongNumbersError, match=r"1 of 15 elements of v0 differ, \[1, 2\]"):
        compare(graph, [off])


def test_wide_indices_are_noticed():
    source = (
        "__kernel void f(__global float* a, long n) {\n  int i = 0;\n  a[i * (long)4] = 0;\n}\n"
    )
    assert wide_lines(source) == ["a[i * (long)4] = 0;"]


def test_minimised_graph_keeps_what_fails():
    """Of ten steps only the flip is needed, and its input comes from the graph then."""
    steps = [Step("v0", "exp", ("x0",), {}, ((4, 6),))]
    for number in range(1, 9):
        op, attrs = ("flip", {"axis": 0}) if number == 5 else ("tanh", {})
        steps.append(Step(f"v{number}", op, (f"v{number - 1}",), attrs, ((4, 6),)))
    graph = Graph((Tensor("x0", (4, 6)),), tuple(steps), ("v8", "v2"))
    small = minimise(graph, lambda other: any(step.op == "flip" for step in other.steps))
    assert [step.op for step in small.steps] == ["flip"]
    assert reference(small)
