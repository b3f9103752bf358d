"""Split the loops of a kernel so that no index of theirs is divided inside.

::

    for r in range(96):                        for ro in range(3):
        acc += a[i, r // 32, r % 32] * …   →       for ri in range(32):
                                                       acc += a[i, ro, ri] * …

A contraction over merged heads, a normalisation over merged patches: the map from the reduced axis
to the tensor is a division, but within a stretch of the loop it is affine.

Legal when the extent is constant and a multiple of the stretch; the order of the iterations does
not change. Of several lengths the largest that frees the inner loop is taken; the outer loop is
then split in turn. Serial and unrolled loops are split. Indices of vectorised ones are simplified,
where the bounds of the loops around them say more than those of the axes did.

Requires: scheduled functions without block iterators, as this package's schedule rules write them;
others stay as they are. Guarantees: the same values in the same order; what division is left in an
inner loop is not affine on any stretch of it. Source: SmartMem, section 3.2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlock
from tvm_ffi import WalkResult, structural_map, structural_mutate, structural_walk

from smartmem_tvm.analysis.computation import is_int
from smartmem_tvm.analysis.expressions import loads_of, substitute, uses
from smartmem_tvm.analysis.index_divisions import DIVIDING, inner_divisions
from smartmem_tvm.analysis.index_maps import count_divisions, simplify_indices
from smartmem_tvm.analysis.index_split import split_of_loop

SPLIT = (tirx.ForKind.SERIAL, tirx.ForKind.UNROLLED)
COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)


@tvm.transform.module_pass(opt_level=0, name="smartmem.SplitDividedLoops")
class SplitDividedLoops:
    """Split loops whose variables are divided in indices."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with loops split."""
        mod = mod.clone()
        for gv, func in list(mod.functions.items()):
            if (
                isinstance(func, tirx.PrimFunc)
                and func.attrs.get("tirx.is_scheduled")
                and not _has_block_iterators(func)
                and inner_divisions(func)
            ):
                mod.update_func(gv, func.with_body(_Splitter().run(func.body)))
        return mod


def _has_block_iterators(func: tirx.PrimFunc) -> bool:
    found: list[Any] = []
    structural_walk(func.body, (SBlock, lambda block: found.extend(block.iter_vars)))
    return bool(found)


class _Splitter:
    """Mutator of one function that knows the ranges of the loops around the statement it is at."""

    def __init__(self) -> None:
        self.domain: dict[Any, tvm.ir.Range] = {}
        self.values: dict[Any, Any] = {}
        self.analyzer = tvm.sym.Analyzer()

    def run(self, body: Any) -> Any:
        """The body with its loops split."""
        structural_walk(body, [(tirx.For, self._enter), (tirx.Bind, self._bind)], order="pre")
        return structural_mutate(body, (tirx.For, self._loop))

    def _enter(self, loop: tirx.For) -> None:
        self._open(loop.loop_var, tvm.ir.Range.from_min_extent(loop.min, loop.extent))

    def _bind(self, bind: tirx.Bind) -> None:
        bound = self.analyzer.const_int_bound(bind.value)
        if "int" in str(bind.var.ty.dtype) and bound.max_value < tvm.sym.ConstIntBound.POS_INF:
            low = tirx.const(bound.min_value, bind.var.ty.dtype)
            extent = tirx.const(bound.max_value - bound.min_value + 1, bind.var.ty.dtype)
            self._open(bind.var, tvm.ir.Range.from_min_extent(low, extent))
            self.values[bind.var] = substitute(bind.value, self.values)

    def _open(self, var: Any, rng: tvm.ir.Range) -> None:
        self.domain[var] = rng
        self.analyzer.bind(var, rng)

    def _loop(self, loop: tirx.For, mutator: Any) -> Any:
        if loop.kind == tirx.ForKind.THREAD_BINDING or loop.annotations:
            return mutator.default_mutate(loop)
        var = loop.loop_var
        body = _with_indices(loop.body, lambda index: self._simplified(index, var))
        factor = self._factor(loop, body)
        if factor is None:
            return mutator.default_mutate(_with_body(loop, var, loop.extent, body))
        outer, inner = tirx.Var(f"{var.name}_o", var.ty), tirx.Var(f"{var.name}_i", var.ty)
        size = tirx.const(factor, var.ty.dtype)
        count = tirx.const(int(loop.extent) // factor, var.ty.dtype)
        zero = tirx.const(0, var.ty.dtype)
        self._open(inner, tvm.ir.Range.from_min_extent(zero, size))
        self._open(outer, tvm.ir.Range.from_min_extent(zero, count))
        body = substitute(body, {var: outer * size + inner})
        inside = _with_body(loop, inner, size, body)
        return mutator.mutate(_with_body(loop, outer, count, inside))

    def _simplified(self, index: Any, var: Any) -> Any:
        if not _divisions_of(index, var):
            return index
        # What variables are bound to says more than their bounds: a start that is even.
        whole = substitute(index, self.values)
        known = {v: rng for v, rng in self.domain.items() if uses(whole, v)}
        (result,) = simplify_indices([whole], known, check=not loads_of(whole))
        fewer = count_divisions(result).total < count_divisions(index).total
        fewer |= len(_divisions_of(result, var)) < len(_divisions_of(index, var))
        return result if fewer else index

    def _factor(self, loop: tirx.For, body: Any) -> int | None:
        """Extent of the inner loop that frees most indices, None where no split frees any."""
        if loop.kind not in SPLIT or not is_int(loop.min, 0) or not _is_constant(loop.extent):
            return None
        indices = [d for i in _offsets(body) for d in self._left(i, loop.loop_var)]
        factors = [self._split([index], loop.loop_var) for index in indices]
        helped = [i for i, factor in zip(indices, factors, strict=True) if factor is not None]
        if not helped:
            return None
        together = self._split(helped, loop.loop_var)
        return together if together is not None else min(f for f in factors if f is not None)

    def _left(self, index: Any, var: Any) -> list[Any]:
        """Outermost divisions of the variable that simplification leaves in an index."""
        found: list[Any] = []

        def visit(expr: Any) -> WalkResult:
            if _divisions_of(expr, var):
                found.append(expr)
            return WalkResult.SKIP

        if _divisions_of(index, var):
            structural_walk(self._simplified(index, var), (DIVIDING, visit), order="pre")
        return found

    def _split(self, indices: Sequence[Any], var: Any) -> int | None:
        whole = [substitute(index, self.values) for index in indices]
        domain: Mapping[Any, tvm.ir.Range] = {
            v: rng for v, rng in self.domain.items() if any(uses(i, v) for i in whole)
        }
        factor = split_of_loop(whole, var, domain)
        return None if factor == 1 else factor


def _is_constant(extent: Any) -> bool:
    return isinstance(extent, tirx.IntImm)


def _with_body(loop: tirx.For, var: Any, extent: Any, body: Any) -> tirx.For:
    return tirx.For(var, tirx.const(0, var.ty.dtype), extent, loop.kind, body)


def _divisions_of(index: Any, var: Any) -> list[Any]:
    """Divisions and remainders in which the variable occurs."""
    found: list[Any] = []

    def visit(expr: Any) -> None:
        if "int" in str(expr.ty.dtype) and uses(expr, var):
            found.append(expr)

    structural_walk(index, (DIVIDING, visit))
    return found


def _offsets(body: Any) -> list[Any]:
    """Where every access is in its flat buffer, and both sides of every comparison of integers."""
    found: list[Any] = []

    def access(node: Any) -> None:
        buffer = node.source if isinstance(node, TensorLoad) else node.buffer
        offset: Any = None
        for index, extent in zip(node.indices, buffer.shape, strict=True):
            size = tirx.Cast(index.ty, extent) if extent.ty.dtype != index.ty.dtype else extent
            offset = index if offset is None else offset * size + index
        if offset is not None:
            found.append(offset)

    def compare(node: Any) -> None:
        if "int" in str(node.a.ty.dtype):
            found.extend([node.a, node.b])

    structural_walk(body, [((TensorLoad, tirx.BufferStore), access), (COMPARISONS, compare)])
    return found


def _with_indices(body: Any, change: Callable[[Any], Any]) -> Any:
    """Statement with every index and both sides of every comparison of integers changed."""

    def changed(parts: Sequence[Any]) -> list[Any] | None:
        new = [change(part) for part in parts]
        return None if all(n.same_as(o) for n, o in zip(new, parts, strict=True)) else new

    def load(node: TensorLoad) -> Any:
        indices = changed(list(node.indices))
        return node if indices is None else tirx.BufferLoad(node.source, indices)

    def store(node: tirx.BufferStore) -> Any:
        indices = changed(list(node.indices))
        return node if indices is None else tirx.BufferStore(node.buffer, node.value, indices)

    def compare(node: Any) -> Any:
        if "int" not in str(node.a.ty.dtype):
            return node
        sides = changed([node.a, node.b])
        return node if sides is None else type(node)(*sides)

    return structural_map(
        body, [(TensorLoad, load), (tirx.BufferStore, store), (COMPARISONS, compare)]
    )
