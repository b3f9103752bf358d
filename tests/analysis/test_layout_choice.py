"""Solvers against the enumeration of all choices, and against an integer programme."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmem_tvm.analysis.layout_choice import Problem, solve_exactly, solve_greedily


def random_problem(rng, variables, tables, most=4):
    problem = Problem()
    for _ in range(variables):
        problem.add_variable(int(rng.integers(1, most)))
    for _ in range(tables):
        names = rng.permutation(variables)[: rng.integers(1, min(4, variables + 1))]
        problem.add_table([int(v) for v in names], rng.random([problem.sizes[v] for v in names]))
    return problem


def least(problem):
    return min(
        problem.cost(values) for values in itertools.product(*(range(n) for n in problem.sizes))
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 9))
def test_the_exact_solver_finds_the_least_cost(seed, variables, tables):
    problem = random_problem(np.random.default_rng(seed), variables, tables)
    values = solve_exactly(problem)
    assert problem.cost(values) == pytest.approx(least(problem))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 9))
def test_no_single_change_improves_a_greedy_answer(seed, variables, tables):
    problem = random_problem(np.random.default_rng(seed), variables, tables)
    values = solve_greedily(problem)
    cost = problem.cost(values)
    assert cost >= least(problem) - 1e-9
    for variable, size in enumerate(problem.sizes):
        for value in range(size):
            assert problem.cost([*values[:variable], value, *values[variable + 1 :]]) >= cost - 1e-9


def test_a_long_chain_is_solved_by_both():
    rng = np.random.default_rng(7)
    problem = Problem()
    for _ in range(2000):
        problem.add_variable(6)
    for variable in range(1999):
        problem.add_table([variable, variable + 1], rng.random((6, 6)))
    exact = problem.cost(solve_exactly(problem))
    # The same by dynamic programming along the chain.
    best = np.zeros(6)
    for _, table in problem.tables:
        best = (best[:, None] + table).min(axis=0)
    assert exact == pytest.approx(best.min())
    assert exact <= problem.cost(solve_greedily(problem))


def test_the_exact_solver_gives_up_on_a_large_table():
    rng = np.random.default_rng(3)
    problem = Problem()
    for _ in range(12):
        problem.add_variable(8)
    for one, other in itertools.combinations(range(12), 2):
        problem.add_table([one, other], rng.random((8, 8)))
    assert solve_exactly(problem, largest=1 << 20) is None
    assert len(solve_greedily(problem)) == 12


def test_alternatives_are_costs_of_single_changes():
    problem = random_problem(np.random.default_rng(5), 5, 8)
    values = solve_exactly(problem)
    for variable, size in enumerate(problem.sizes):
        changes = problem.alternatives(variable, values)
        for value in range(size):
            changed = [*values[:variable], value, *values[variable + 1 :]]
            difference = problem.cost(changed) - problem.cost(values)
            assert changes[value] - changes[values[variable]] == pytest.approx(difference)
