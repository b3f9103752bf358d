"""Proving that two index expressions are the same over a domain.

A small domain is enumerated. A large one is given to TVM's prover (analyser and Z3) and sampled:
its corners, the points around them, and random ones. Symbolic extents take several values of
their bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.sym import ProofStrength
from tvm_ffi import structural_equal, structural_walk

from smartmem_tvm.errors import SmartMemError

from .index_evaluate import Evaluator, evaluate
from .index_reading import INTEGER_LIMITS, dtype_of
from .index_space import IndexSpace

EXHAUSTIVE_POINTS = 65_536
SAMPLES = 4_096
# Values tried for a symbol without declared bounds, and offsets from the ends of declared ones.
SYMBOL_VALUES = (1, 2, 3, 5, 8, 13, 32)
Z3_RESOURCES = 200_000


@dataclass(frozen=True)
class Proof:
    """What was found out about two expressions.

    Attributes
    ----------
    holds
        No point was found at which they differ.
    method
        ``identical``, ``exhaustive``, ``prover and samples`` (TVM's), ``rules and samples`` (ours:
        both have one normal form), or ``samples`` where neither could decide.
    points
        Points that were evaluated.
    counterexample
        Value of each variable, by its name, where they differ.
    """

    holds: bool
    method: str
    points: int = 0
    counterexample: dict[str, int] | None = None

    @property
    def proved(self) -> bool:
        """Whether it holds by proof and not by samples alone."""
        return self.holds and self.method != "samples"


def prove_same(
    a: Any,
    b: Any,
    domain: Mapping[Any, tvm.ir.Range],
    predicate: Any = None,
    *,
    exhaustive: int = EXHAUSTIVE_POINTS,
    samples: int = SAMPLES,
    use_prover: bool = True,
) -> Proof:
    """Whether two expressions, or two lists of them, agree everywhere in the domain.

    Loads are the same where they read the same element; one outside of its tensor is the same as
    nothing.

    Parameters
    ----------
    a, b
        Index expressions, values with loads, or lists of either.
    domain
        Range of each variable; a symbol with declared bounds is in it too.
    predicate
        Points at which it does not hold are left out.
    exhaustive
        Most points that are enumerated.
    samples
        Random points where there are more, besides the corners.
    use_prover
        Whether a large or symbolic domain is given to TVM's prover, then to the rules.
    """
    left, right = _as_list(a), _as_list(b)
    if len(left) != len(right):
        return Proof(False, "identical")
    if structural_equal(left, right):
        return Proof(True, "identical")
    all_points, points = not symbols_of(domain, [*left, *right]), 0
    for symbols in symbol_values(domain, [*left, *right]):
        values, complete = sample_points(domain, symbols, exhaustive, samples)
        if predicate is not None:
            holds = Evaluator(values).of(predicate)
            values = {var: column[holds] for var, column in values.items()}
        all_points &= complete
        points += _length(values)
        example = _first_difference(left, right, values)
        if example is not None:
            return Proof(False, "exhaustive" if complete else "samples", points, example)
    if all_points:
        return Proof(True, "exhaustive", points)
    if not use_prover:
        return Proof(True, "samples", points)
    if predicate is None and prove_equal(left, right, domain):
        return Proof(True, "prover and samples", points)
    same = _same_normal_form(
        IndexSpace(domain, [] if predicate is None else [predicate]), left, right
    )
    return Proof(True, "rules and samples" if same else "samples", points)


def _same_normal_form(space: IndexSpace, left: list[Any], right: list[Any]) -> bool:
    return all(
        dtype_of(one) in INTEGER_LIMITS
        and not space.normalised(space.read(one) - space.read(other)).terms
        for one, other in zip(left, right, strict=True)
    )


def symbols_of(domain: Mapping[Any, tvm.ir.Range], exprs: Sequence[Any]) -> list[Any]:
    """Variables that are extents: they take a few of their values, not all."""
    return free_symbols(domain, exprs) + bounded_symbols(domain)


def _as_list(exprs: Any) -> list[Any]:
    return list(exprs) if isinstance(exprs, Sequence) else [exprs]


def _length(values: Mapping[Any, NDArray[Any]]) -> int:
    return max((len(column) for column in values.values()), default=1)


def prove_equal(
    left: Sequence[Any], right: Sequence[Any], domain: Mapping[Any, tvm.ir.Range]
) -> bool:
    """Whether TVM's prover shows each pair to be equal."""
    analyzer = tvm.sym.Analyzer()
    if analyzer.is_z3_enabled:
        analyzer.set_z3_rlimit(Z3_RESOURCES)
    for symbol in free_symbols(domain, [*left, *right]):
        analyzer.update(symbol, tvm.sym.ConstIntBound(1, tvm.sym.ConstIntBound.POS_INF))
    for var, rng in domain.items():
        analyzer.bind(var, rng)
    return all(
        structural_equal(one, other)
        or analyzer.can_prove(tirx.EQ(one, other), ProofStrength.SYMBOLIC_BOUND)
        for one, other in zip(left, right, strict=True)
    )


def free_symbols(domain: Mapping[Any, tvm.ir.Range], exprs: Sequence[Any]) -> list[Any]:
    """Variables without a range, in the expressions and in the ranges, in order of occurrence."""
    found: dict[Any, None] = {}

    def note(var: Any) -> None:
        if var not in domain and isinstance(var.ty, tvm.ir.PrimType):
            found.setdefault(var)

    parts = [[rng.min, rng.extent] for rng in domain.values()]
    structural_walk([parts, list(exprs)], (tvm.ir.Var, note))
    return [var for var in found if dtype_of(var) in INTEGER_LIMITS]


def bounded_symbols(domain: Mapping[Any, tvm.ir.Range]) -> list[Any]:
    """Variables of the domain that the ranges of others use."""
    found: dict[Any, None] = {}
    parts = [[rng.min, rng.extent] for rng in domain.values()]
    structural_walk(parts, (tvm.ir.Var, found.setdefault))
    return [var for var in found if var in domain]


def symbol_values(
    domain: Mapping[Any, tvm.ir.Range], exprs: Sequence[Any] = ()
) -> Iterator[dict[Any, int]]:
    """Assignments of values to the symbols, one empty one if there is none."""
    choices: dict[Any, tuple[int, ...]] = {
        symbol: SYMBOL_VALUES for symbol in free_symbols(domain, exprs)
    }
    for symbol in bounded_symbols(domain):
        rng = domain[symbol]
        if not isinstance(rng.min, tirx.IntImm) or not isinstance(rng.extent, tirx.IntImm):
            raise SmartMemError(
                f"symbol '{symbol.name}' has bounds that are no constants ({rng}): declare it "
                "with constant bounds"
            )
        first, count = rng.min.value, rng.extent.value
        offsets = {value - 1 for value in SYMBOL_VALUES if value <= count} | {count - 1}
        choices[symbol] = tuple(first + offset for offset in sorted(offsets))
    if not choices:
        yield {}
        return
    length = max(map(len, choices.values()))
    for step in range(length):
        # Symbols move at different speeds, so that they are not always equal.
        yield {
            symbol: values[(step + position * (step // 2 + 1)) % len(values)]
            for position, (symbol, values) in enumerate(choices.items())
        }


def sample_points(
    domain: Mapping[Any, tvm.ir.Range],
    symbols: Mapping[Any, int],
    exhaustive: int = EXHAUSTIVE_POINTS,
    samples: int = SAMPLES,
) -> tuple[dict[Any, NDArray[Any]], bool]:
    """Values of each variable and symbol at points of the domain, and whether they are all.

    Samples are the corners of the domain (at most half of them) and random points.
    """
    fixed = {var: np.asarray([value], dtype=dtype_of(var)) for var, value in symbols.items()}
    ranges: dict[Any, tuple[int, int]] = {}
    for var, rng in domain.items():
        if var not in symbols:
            first = int(evaluate(rng.min, fixed)[0])
            ranges[var] = (first, int(evaluate(rng.extent, fixed)[0]))
    total = prod(max(extent, 0) for _, extent in ranges.values())
    if total <= exhaustive:
        rest = np.arange(total)
        columns: dict[Any, NDArray[Any]] = {}
        for var, (first, extent) in reversed(ranges.items()):
            rest, digit = np.divmod(rest, extent) if total else (rest, rest)
            columns[var] = (digit + first).astype(dtype_of(var))
        length = total
    else:
        columns, length = _random_points(ranges, samples)
    for var, value in fixed.items():
        columns[var] = np.repeat(value, length)
    return columns, total <= exhaustive


def _random_points(
    ranges: Mapping[Any, tuple[int, int]], samples: int
) -> tuple[dict[Any, NDArray[Any]], int]:
    rng = np.random.default_rng(len(ranges))
    corners = min(2 ** len(ranges), samples // 2)  # a bit of its number for each variable
    bits = np.arange(corners)
    columns = {}
    for number, (var, (first, extent)) in enumerate(ranges.items()):
        ends = np.where((bits >> number) & 1, first + extent - 1, first)
        middle = rng.integers(first, first + extent, samples)
        columns[var] = np.concatenate([ends, middle]).astype(dtype_of(var))
    return columns, corners + samples


def _first_difference(
    left: Sequence[Any], right: Sequence[Any], values: Mapping[Any, NDArray[Any]]
) -> dict[str, int] | None:
    reader = None
    loads: list[Any] = []
    structural_walk([left, right], (TensorLoad, loads.append))
    if loads:
        reader = ElementNumbers(values)
    evaluator = Evaluator(values, reader)
    for one, other in zip(left, right, strict=True):
        different = np.flatnonzero(~(evaluator.of(one) == evaluator.of(other)))
        if different.size:
            point = int(different[0])
            return {
                f"{var.name}": int(np.broadcast_to(column, (evaluator.length,))[point])
                for var, column in values.items()
            }
    return None


class ElementNumbers:
    """Stands for tensors whose elements all differ; outside of them is not a number."""

    def __init__(self, values: Mapping[Any, NDArray[Any]]) -> None:
        self.first = {var: column[:1] for var, column in values.items()}
        self.start: dict[Any, int] = {}

    def __call__(self, tensor: Any, indices: list[NDArray[Any]]) -> NDArray[Any]:
        """Number of each element, counted through all tensors."""
        start = self.start.setdefault(tensor, 1 + 2**32 * len(self.start))
        if any(np.issubdtype(index.dtype, np.floating) for index in indices):
            # An index that was read from memory: some element, the same one for the same index.
            scaled = [np.sqrt(number) * index for number, index in enumerate(indices, start=2)]
            return np.asarray(start + sum(scaled))
        if not all(index.size for index in indices):  # a branch that no point takes
            return np.zeros(0)
        shape = [int(evaluate(extent, self.first)[0]) for extent in tensor.shape]
        flat = np.zeros(indices[0].shape if indices else (1,), dtype=np.int64)
        inside = np.ones(flat.shape, dtype=bool)
        for index, extent in zip(indices, shape, strict=True):
            inside &= (index >= 0) & (index < extent)
            flat = flat * extent + index
        return np.where(inside, flat + start, np.nan)
