"""Choosing one value for each of many variables, so that a sum of tables is least.

Each variable is a tensor and its values are layouts, or a kernel and its values are walks; each
table is what a kernel costs for the values of a few variables. Two solvers: a greedy one, and an
exact one that eliminates variable after variable (min-sum, or "bucket", elimination), which is fast
because the graph of a network is nearly a chain, and gives up where a table would grow too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]
# Entries of the largest table that elimination may make.
LARGEST_TABLE = 1 << 22
_SWEEPS = 50


@dataclass
class Problem:
    """Variables by number, and the tables whose sum is to be least.

    Attributes
    ----------
    sizes : list of int
        Values of each variable.
    tables : list of (variables, table)
        A table has one dimension for each of its variables.
    """

    sizes: list[int] = field(default_factory=list)
    tables: list[tuple[tuple[int, ...], Table]] = field(default_factory=list)

    def add_variable(self, size: int) -> int:
        """Number of a new variable."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def add_table(self, variables: Sequence[int], table: Table) -> None:
        """Add a table over distinct variables."""
        self.tables.append((tuple(variables), table))

    def cost(self, values: Sequence[int]) -> float:
        """Sum of all tables for values of all variables."""
        return float(sum(table[tuple(values[v] for v in names)] for names, table in self.tables))

    def tables_of(self) -> list[list[int]]:
        """Numbers of the tables of each variable."""
        found: list[list[int]] = [[] for _ in self.sizes]
        for number, (names, _) in enumerate(self.tables):
            for variable in names:
                found[variable].append(number)
        return found

    def alternatives(self, variable: int, values: Sequence[int]) -> Table:
        """Cost of the tables of a variable for each of its values, the others as given."""
        total = np.zeros(self.sizes[variable])
        for names, table in self.tables:
            if variable in names:
                total += table[tuple(slice(None) if v == variable else values[v] for v in names)]
        return total


def solve_greedily(problem: Problem, order: Sequence[int] | None = None) -> list[int]:
    """Values by the needs of one variable after the other, improved until none gains by itself.

    A variable starts at what is best for the tables around it with their other variables free.

    Parameters
    ----------
    problem
        What is to be solved.
    order
        Variables in the order in which they are decided; by number when not given.
    """
    order = range(len(problem.sizes)) if order is None else order
    near = problem.tables_of()
    values: list[int | None] = [None] * len(problem.sizes)

    def best(variable: int) -> int:
        total = np.zeros(problem.sizes[variable])
        for number in near[variable]:
            names, table = problem.tables[number]
            known = tuple(
                slice(None) if v == variable or values[v] is None else values[v] for v in names
            )
            part = table[known]
            left = [v for v in names if v == variable or values[v] is None]
            total += part.min(axis=tuple(n for n, v in enumerate(left) if v != variable))
        return int(total.argmin())

    for variable in order:
        values[variable] = best(variable)
    for _ in range(_SWEEPS):
        changed = False
        for variable in order:
            before, values[variable] = values[variable], None
            values[variable] = best(variable)
            changed |= values[variable] != before
        if not changed:
            break
    return [0 if value is None else value for value in values]


def solve_exactly(problem: Problem, largest: int = LARGEST_TABLE) -> list[int] | None:
    """The best values; None where a table of more than `largest` entries would be needed."""
    tables = dict(enumerate(problem.tables))
    near = [set(numbers) for numbers in problem.tables_of()]
    following = len(tables)
    left = set(range(len(problem.sizes)))
    eliminated: list[tuple[int, tuple[int, ...], NDArray[np.intp]]] = []

    def around(variable: int) -> set[int]:
        return {v for number in near[variable] for v in tables[number][0]} - {variable}

    def entries(variable: int) -> int:
        size = problem.sizes[variable]
        for other in around(variable):
            size *= problem.sizes[other]
        return size

    sizes = {variable: entries(variable) for variable in left}
    while left:
        variable = min(left, key=lambda v: (sizes[v], v))
        if sizes[variable] > largest:
            return None
        others = tuple(sorted(around(variable)))
        names = (*others, variable)
        total = np.zeros([problem.sizes[v] for v in names])
        for number in sorted(near[variable]):
            total += _spread(*tables[number], names)
            for other in tables[number][0]:
                if other != variable:
                    near[other].discard(number)
            del tables[number]
        eliminated.append((variable, others, total.argmin(axis=-1)))
        left.discard(variable)
        if others:
            tables[following] = (others, total.min(axis=-1))
            for other in others:
                near[other].add(following)
            following += 1
        for other in others:
            sizes[other] = entries(other)
    values = [0] * len(problem.sizes)
    for variable, others, choice in reversed(eliminated):
        values[variable] = int(choice[tuple(values[v] for v in others)])
    return values


def _spread(names: tuple[int, ...], table: Table, wanted: tuple[int, ...]) -> Table:
    """Table as one over more variables, in another order."""
    order = [names.index(v) for v in wanted if v in names]
    shape = [table.shape[names.index(v)] if v in names else 1 for v in wanted]
    return table.transpose(order).reshape(shape)
