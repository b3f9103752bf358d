"""Expressions along a vector lane: what becomes vector code, and what is computed lane by lane.

::

    A[i, k] * B[k, j + lane]                         vector: the first operand is broadcast
    A[i, k] * B[j + lane, k]                    →    t[lane] = B[j + lane, k]  lane by lane, then
                                                     A[i, k] * t[lane]         as a vector
    if_then_else(j + lane < 7, A[j + lane], 0)  →    the whole choice lane by lane

TVM turns a vectorised loop with a condition that depends on the lane into scalar code as a whole,
so such operands are taken out first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm.ir.prim import expr as prim
from tvm.tirx import BufferLoad
from tvm_ffi import structural_walk

from smartmem_tvm.analysis.expressions import const, dtype_of, static, substitute, uses
from smartmem_tvm.analysis.index_reading import IF_THEN_ELSE
from smartmem_tvm.analysis.texels import LANES, is_texture

_COMPARISONS = (prim.LT, prim.LE, prim.GT, prim.GE, prim.EQ, prim.NE)
_ORDERS = (prim.LT, prim.LE, prim.GT, prim.GE)
_CONNECTIVES = (prim.And, prim.Or, prim.Not)


def element_offset(buffer: Any, indices: Any) -> Any:
    """Position of an element in its buffer, row by row."""
    offset = None
    for index, extent in zip(indices, buffer.ty.shape, strict=True):
        offset = index if offset is None else offset * extent + index
    return offset


@dataclass
class Lane:
    """A loop variable that becomes a vector lane.

    Attributes
    ----------
    var : tvm.ir.Var
        The variable, from 0 to width.
    width : int
        Number of lanes.
    analyzer : tvm.sym.Analyzer
        Knows the bounds of every variable around.
    """

    var: Any
    width: int
    analyzer: sym.Analyzer
    _before_last: Any = None
    _steps: dict[Any, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        zero = const(0, self.var)
        self.analyzer.bind(self.var, tvm.ir.Range(zero, const(self.width, self.var)))
        self._before_last = tirx.Var(f"{self.var.name}_before_last", self.var.ty)
        self.analyzer.bind(
            self._before_last, tvm.ir.Range(zero, const(max(self.width - 1, 1), self.var))
        )

    def step(self, expr: Any) -> int | None:
        """Constant by which the integer grows from lane to lane, None when there is none.

        Of a condition, 0 where it is the same in all lanes.
        """
        if not uses(expr, self.var):
            return 0
        if dtype_of(expr) == "bool":
            return 0 if self._same_in_all(expr) else None
        # (4 * t + lane) % 16 is taken apart for a lane below 4, but not for lane + 1.
        expr = self.analyzer.simplify(expr)
        here = substitute(expr, {self.var: self._before_last})
        there = substitute(expr, {self.var: self._before_last + const(1, self.var)})
        return static(self.analyzer.simplify(there - here))

    def _same_in_all(self, condition: Any) -> bool:
        """Whether a condition is proved to be the same in all lanes."""
        if not uses(condition, self.var):
            return True
        if isinstance(condition, (prim.And, prim.Or)):
            return self._same_in_all(condition.a) and self._same_in_all(condition.b)
        if isinstance(condition, prim.Not):
            return self._same_in_all(condition.a)
        if not isinstance(condition, _ORDERS) or _has_load(condition, self.var):
            return False
        less, more = condition.a, condition.b
        if isinstance(condition, (prim.GT, prim.GE)):
            less, more = more, less
        step = self.step(more - less)
        if step is None:
            return False
        # It holds where this is above 0. In the first lane it is one of base, base + coeff, …; the
        # smallest above 0 must stay there in the other lanes, and the largest that is not, too.
        margin = more - less + const(isinstance(condition, (prim.LE, prim.GE)), less)
        margin = self.analyzer.simplify(substitute(margin, {self.var: const(0, self.var)}))
        known = self.analyzer.modular_set(margin)
        grown = step * (self.width - 1)
        if known.coeff == 0:
            return bool((known.base > 0) == (known.base + grown > 0))
        above = (known.base - 1) % known.coeff + 1
        below = -(-known.base % known.coeff)
        return bool(above + grown > 0 and below + grown <= 0)

    def stride(self, buffer: Any, indices: Any) -> int | None:
        """Elements from lane to lane in the buffer's memory, None when that varies."""
        if any(_has_load(index, self.var) for index in indices):
            return None
        if is_texture(buffer):
            return self._stride_in_texels(indices)
        return self.step(element_offset(buffer, indices))

    def _stride_in_texels(self, indices: Any) -> int | None:
        """The same in an image: 1 only for the lanes of one whole texel."""
        *place, last = (self.step(index) for index in indices)
        if any(step != 0 for step in place):
            return None
        first = substitute(indices[-1], {self.var: const(0, self.var)})
        whole = self.width == LANES and static(self.analyzer.simplify(first)) == 0
        return last if last == 0 or (last == 1 and whole) else None

    def along(self, indices: Any) -> list[Any]:
        """Indices written as first lane plus lane, where that is what they are."""
        written = []
        for index in indices:
            step = self.step(index) if not _has_load(index, self.var) else None
            if step is None:
                written.append(self.analyzer.simplify(index))
                continue
            first = self.analyzer.simplify(substitute(index, {self.var: const(0, self.var)}))
            written.append(first if step == 0 else first + self.var * const(step, self.var))
        return written

    def split(
        self,
        value: Any,
        stage: Callable[[Any], Any],
        scalar: Callable[[Any], Any] = lambda part: part,
    ) -> Any:
        """Vector form of a value.

        Parameters
        ----------
        value
            An expression.
        stage
            Receives a part that has no vector form and gives the load, at this lane, of the
            buffer that will hold it.
        scalar
            Receives a part that is the same in all lanes and gives what stands for it.
        """

        def visit(node: Any, mutator: Any) -> Any:
            if not uses(node, self.var):
                return scalar(node) if is_float(node) else node
            if not self._vectorisable_root(node):
                return stage(node)
            if isinstance(node, TensorLoad):
                return BufferLoad(node.source, self.along(node.indices))
            if isinstance(node, tvm.ir.Call) and node.op.same_as(IF_THEN_ELSE):
                condition, *choices = node.args
                first = substitute(condition, {self.var: const(0, self.var)})
                # What is chosen may not be read ahead of the choice.
                return tirx.if_then_else(first, *(self.split(choice, stage) for choice in choices))
            if isinstance(node, tvm.ir.Call):
                arguments = [mutator.mutate(argument) for argument in node.args]
                return tvm.ir.Call(node.op, arguments, node.attrs, ret_ty=node.ty)
            return mutator.default_mutate(node)

        if not uses(value, self.var):
            return scalar(value)
        return tvm_ffi.structural_mutate(value, (tvm.ir.Expr, visit))

    def _vectorisable_root(self, node: Any) -> bool:
        """Whether the node itself, its operands aside, has a vector form."""
        if isinstance(node, TensorLoad):
            return self.stride(node.source, node.indices) in (0, 1)
        if isinstance(node, tvm.ir.Var):
            return False
        if isinstance(node, tirx.Select):
            return self._vector_condition(node.condition)
        if not is_float(node):
            # Reached inside the condition of a choice that was found to be fine.
            return isinstance(node, (*_COMPARISONS, *_CONNECTIVES))
        if isinstance(node, tirx.Cast):
            return is_float(node.value)
        if isinstance(node, tvm.ir.Call) and node.op.same_as(IF_THEN_ELSE):
            condition, *choices = node.args
            return self._same_in_all(condition) and all(self._whole(choice) for choice in choices)
        # TVM writes a whole loop out lane by lane for one call of another operator.
        return not isinstance(node, tvm.ir.Call) or bool(node.op.get_attr("TVectorizable"))

    def _vector_condition(self, condition: Any) -> bool:
        """Whether a condition compares vectors of floats that have a vector form."""
        if not uses(condition, self.var):
            return False  # a scalar condition: TVM would make a vector of it
        if isinstance(condition, _COMPARISONS):
            return all(is_float(e) and self._whole(e) for e in (condition.a, condition.b))
        if isinstance(condition, prim.Not):
            return self._vector_condition(condition.a)
        return isinstance(condition, _CONNECTIVES) and all(
            self._vector_condition(e) for e in (condition.a, condition.b)
        )

    def _whole(self, value: Any) -> bool:
        """Whether all of a value has a vector form."""
        found: list[Any] = []
        self.split(value, lambda part: found.append(part) or part)
        return not found


def _has_load(expr: Any, var: Any) -> bool:
    found: list[Any] = []
    structural_walk(expr, (TensorLoad, found.append))
    return any(uses(load, var) for load in found)


def is_float(expr: Any) -> bool:
    """Whether an expression is a number that vectors are made of."""
    return dtype_of(expr).startswith("float")
