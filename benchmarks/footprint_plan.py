"""The least that kernels have to move when every light operator may be computed in any of them.

A plan says which values are stored and which kernel computes what. Each heavy operator is a kernel;
it reads its operands from memory, or computes light ones itself from what is stored; it stores its
results, or light values made of them. The least bytes over all plans are found as an integer linear
programme, whose bound is a proof: no fusion of light operators into kernels moves less. Kernels
compute chains of at most :data:`DEEPEST` light operators.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from footprint_graph import Graph, Operator, Value
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

DEEPEST = 12
_UNIT = 1e3  # bytes: keeps the solver's numbers small
_GAP = 1e-4


@dataclass
class Plan:
    """What the best plan found moves.

    Attributes
    ----------
    bytes : int
        Read and written by all kernels.
    bound : int
        No plan moves less.
    stored : dict of Value to int
        Bytes of each value that is stored.
    loaded : dict of (Operator, Value) to int
        What each kernel reads, parameters and inputs included.
    """

    bytes: int = 0
    bound: int = 0
    stored: dict[Value, int] = field(default_factory=dict)
    loaded: dict[tuple[Operator, Value], int] = field(default_factory=dict)


class Planner:
    """States and solves the integer programme of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._makers = {v: op for op in graph.operators for v in op.makes}
        self._readers: dict[Value, list[Operator]] = {}
        for operator in graph.operators:
            for value in operator.reads:
                self._readers.setdefault(value, []).append(operator)
        self._number = {op: n for n, op in enumerate(graph.operators)}
        self._after = self._descendants()
        self._costs: list[float] = []
        self._rows: list[tuple[dict[int, float], float]] = []  # sum of coefficients ≥ bound
        self._stored: dict[Value, int] = {}
        self._loads: dict[tuple[Operator, Value], int] = {}
        self._rests: dict[tuple[Operator, Value], int] = {}
        self._computed: dict[tuple[Operator, Value], int] = {}
        self._hosts: dict[Value, dict[Operator, int]] = {}

    def solve(self, seconds: float) -> Plan:
        """Best plan found within the time."""
        for operator in self._graph.operators:
            if operator.heavy:
                self._add_kernel(operator)
        self._add_lone_kernels()
        self._connect()
        return self._plan(seconds)

    def _descendants(self) -> list[int]:
        """For each operator, the set of those after it, as bits."""
        after = [0] * len(self._graph.operators)
        for number in reversed(range(len(after))):
            for value in self._graph.operators[number].makes:
                for reader in self._readers.get(value, ()):
                    other = self._number[reader]
                    after[number] |= after[other] | (1 << other)
        return after

    def _variable(self, cost: float = 0.0) -> int:
        self._costs.append(cost / _UNIT)
        return len(self._costs) - 1

    def _require(self, positive: Iterable[int], negative: Iterable[int], least: float = 0) -> None:
        """Sum of some variables less that of others is at least a number."""
        row: dict[int, float] = {}
        for sign, variables in ((1.0, positive), (-1.0, negative)):
            for variable in variables:
                row[variable] = row.get(variable, 0.0) + sign
        self._rows.append((row, least))

    def _add_kernel(self, kernel: Operator) -> None:
        """Variables of a heavy operator: what it loads, computes and stores."""
        shares = self._backwards(
            (value, kernel.reads[value] / value.bytes) for value in kernel.reads
        )
        around = self._forwards(kernel.makes)
        hosted = {v for v, share in shares.items() if self._is_light(v) and share == 1}
        operands = {operand for value in around for operand in self._makers[value].reads}
        for operand in operands.difference(around, kernel.makes):
            share = shares.get(operand, 1.0)
            if share < 1:  # its results need the rest as well
                self._rests[kernel, operand] = self._variable((1 - share) * operand.bytes)
            for value, part in self._backwards([(operand, 1.0)]).items():
                shares.setdefault(value, part)
        self._declare(kernel, shares, around, hosted | set(around))
        for value in kernel.reads:
            self._require(self._having(kernel, value), (), 1)

    def _declare(
        self, kernel: Operator, shares: dict[Value, float], around: list[Value], hosted: set[Value]
    ) -> None:
        for value, share in shares.items():
            self._loads[kernel, value] = self._variable(share * value.bytes)
        light = dict.fromkeys([*(v for v in shares if self._is_light(v)), *around])
        for value in light:
            at_hand = (*light, *kernel.makes)
            operands = self._makers[value].reads
            if all((kernel, o) in self._loads or o in at_hand for o in operands):
                self._computed[kernel, value] = self._variable()
        for value in light:
            if (kernel, value) not in self._computed:
                continue
            for operand in self._makers[value].reads:
                if operand in kernel.makes:
                    continue
                computed = self._computed[kernel, value]
                self._require(self._having(kernel, operand), [computed])
                rest = self._rests.get((kernel, operand))
                if rest is not None and value in around:
                    own = self._computed.get((kernel, operand))
                    self._require([rest] if own is None else [rest, own], [computed])
            if value in hosted:
                self._hosts.setdefault(value, {})[kernel] = host = self._variable()
                self._require([self._computed[kernel, value]], [host])

    def _having(self, kernel: Operator, value: Value) -> list[int]:
        return [t[kernel, value] for t in (self._loads, self._computed) if (kernel, value) in t]

    def _is_light(self, value: Value) -> bool:
        return value in self._makers and not self._makers[value].heavy

    def _backwards(self, wanted: Iterable[tuple[Value, float]]) -> dict[Value, float]:
        """Values from which others can be computed, with the share of each that is needed."""
        shares: dict[Value, float] = {}
        level = dict(wanted)
        for _ in range(DEEPEST):
            following: dict[Value, float] = {}
            for value, share in level.items():
                if share <= shares.get(value, 0.0):
                    continue
                shares[value] = share
                if self._is_light(value):
                    for operand, count in self._makers[value].reads.items():
                        part = share * count / operand.bytes
                        following[operand] = max(part, following.get(operand, 0.0))
            level = following
        return shares

    def _forwards(self, made: list[Value]) -> list[Value]:
        """Light values that are computed from these and need nothing that comes later."""
        around: dict[Value, None] = {}
        level = list(made)
        maker = self._makers[made[0]]
        for _ in range(DEEPEST):
            following = []
            for value in level:
                for reader in self._readers.get(value, ()):
                    if reader.heavy or reader.makes[0] in around:
                        continue
                    if not any(self._is_after(source, maker) for source in self._sources(reader)):
                        around[reader.makes[0]] = None
                        following.append(reader.makes[0])
            level = following
        return list(around)

    def _sources(self, light: Operator) -> set[Operator]:
        """Heavy operators from which a light one is computed, through light ones alone."""
        found, waiting, seen = set(), [light], set()
        while waiting:
            for value in waiting.pop().reads:
                maker = self._makers.get(value)
                if maker is None or maker in seen:
                    continue
                seen.add(maker)
                if maker.heavy:
                    found.add(maker)
                else:
                    waiting.append(maker)
        return found

    def _is_after(self, operator: Operator, other: Operator) -> bool:
        return bool(self._after[self._number[other]] >> self._number[operator] & 1)

    def _add_lone_kernels(self) -> None:
        """Kernels for light values that no heavy operator can store."""
        for operator in self._graph.operators:
            if operator.heavy:
                continue
            value = operator.makes[0]
            needed = value.result or any(r.opaque for r in self._readers.get(value, ()))
            if needed and value not in self._hosts:
                lone = Operator(f"{operator.name} alone", False, operator.reads, {})
                self._number[lone] = self._number[operator]
                self._declare(lone, self._backwards([(value, 1.0)]), [], {value})

    def _connect(self) -> None:
        """What is loaded is stored by a kernel that is not after; results are stored."""
        for value, maker in self._makers.items():
            hosts = self._hosts.get(value, {})
            if maker.heavy or hosts:
                self._stored[value] = self._variable(value.bytes)
            for host in hosts.values():
                self._require([self._stored[value]], [host])
            if value.result and value in self._stored:
                self._require([self._stored[value]] if maker.heavy else hosts.values(), (), 1)
        for (kernel, value), load in self._loads.items():
            maker = self._makers.get(value)
            if maker is None:
                continue
            if maker.heavy:
                self._require([self._stored[value]], [load])
            else:
                hosts = self._hosts.get(value, {})
                able = [
                    h
                    for op, h in hosts.items()
                    if op is not kernel and not self._is_after(op, kernel)
                ]
                self._require(able, [load])

    def _plan(self, seconds: float) -> Plan:
        costs = np.array(self._costs)
        entries = [(r, c, x) for r, (row, _) in enumerate(self._rows) for c, x in row.items()]
        rows, columns, numbers = zip(*entries, strict=True)
        matrix = coo_array((numbers, (rows, columns)), (len(self._rows), len(costs))).tocsr()
        solved = milp(
            costs,
            integrality=np.ones(len(costs)),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, [least for _, least in self._rows], np.inf),
            options={"time_limit": seconds, "mip_rel_gap": _GAP},
        )
        if solved.x is None:
            raise ValueError(f"no plan was found: {solved.message}")
        chosen = solved.x > 0.5
        plan = Plan(round(solved.fun * _UNIT), round(solved.mip_dual_bound * _UNIT))
        plan.stored = {v: v.bytes for v, n in self._stored.items() if chosen[n]}
        for table in (self._loads, self._rests):
            for key, n in table.items():
                if chosen[n]:
                    plan.loaded[key] = plan.loaded.get(key, 0) + round(costs[n] * _UNIT)
        return plan
