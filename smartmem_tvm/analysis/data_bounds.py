"""Bounds of integers that the module itself makes: constants, and results of its functions.

::

    for k in thread_binding(9):
        order[rank[0]] = int64(k)                   order: from 0 to 8

    y = f(x, order, const([3, 0, 1]))          →    parameters of f: 1 from 0 to 8, 2 from 0 to 3

An input of the model has none. A parameter has the bounds of all that is passed there in any call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir.expr import GenericConst, TensorLoad
from tvm.s_tir import SBlock
from tvm_ffi import structural_map, structural_walk

CALLS = tuple(tvm.ir.Op.get(f"relax.{name}") for name in ("call_tir", "call_tir_inplace"))
RESHAPE = tvm.ir.Op.get("relax.reshape")
WIDE_TYPES = ("int64", "uint64")
# Attribute of a function that is to stand alone: {"1": [0, 8]}.
DATA_BOUNDS = "smartmem.data_bounds"
# What is beyond has no bounds here; no element is further away than this.
DATA_LIMIT = 2**30

Bounds = tuple[int, int]


def data_bounds(mod: tvm.IRModule) -> dict[Any, dict[int, Bounds]]:
    """Bounds of the 64-bit data that each called function gets, by the parameter's place."""
    passed: dict[Any, dict[int, Bounds | None]] = {}
    for func in mod.functions.values():
        if not isinstance(func, relax.Function):
            continue
        known = _values(mod, func)

        def visit(call: Any, known: dict[Any, Any] = known) -> None:
            if not any(call.op.same_as(op) for op in CALLS):
                return
            places = passed.setdefault(call.args[0], {})
            for place, argument in enumerate(call.args[1].fields):
                bounds = _bounds_of(argument, known)
                earlier = places.setdefault(place, bounds)
                places[place] = None if not earlier or not bounds else _both(earlier, bounds)

        structural_walk(func.body, (tvm.ir.Call, visit))
    return {gv: {n: b for n, b in places.items() if b} for gv, places in passed.items()}


def with_bounds(func: tirx.PrimFunc, bounds: Mapping[int, Bounds]) -> tirx.PrimFunc:
    """The function with what is known of its data, for where its callers are not there.

    Bounds that it has already stand for other calls: what is known is what holds in all.
    """
    if DATA_BOUNDS in func.attrs:
        earlier = known_bounds(func)
        bounds = {n: _both(earlier[n], b) for n, b in bounds.items() if n in earlier}
    return func.with_attr(DATA_BOUNDS, {str(n): [*b] for n, b in bounds.items()})


def known_bounds(func: tirx.PrimFunc) -> dict[int, Bounds]:
    """Bounds that :func:`with_bounds` gave a function."""
    return {int(n): (int(b[0]), int(b[1])) for n, b in func.attrs[DATA_BOUNDS].items()}


def bind_ranges(func: tirx.PrimFunc, analyzer: tvm.sym.Analyzer) -> None:
    """Tell the analyser the ranges of loops and axes, and what names stand for."""

    def iterators(block: SBlock) -> None:
        for iter_var in block.iter_vars:
            analyzer.bind(iter_var.var, iter_var.dom)

    def loop(node: tirx.For) -> None:
        analyzer.bind(node.loop_var, tvm.ir.Range.from_min_extent(node.min, node.extent))

    def variable(node: tirx.Bind) -> None:
        analyzer.bind(node.var, node.value)

    binders = [(tirx.For, loop), (SBlock, iterators), (tirx.Bind, variable)]
    structural_walk(func.body, binders, order="pre")


def bounded_variable(analyzer: tvm.sym.Analyzer, buffer: Any, bounds: Bounds) -> Any:
    """A variable to stand for every element of a buffer."""
    variable = tirx.Var(buffer.name, str(buffer.dtype))
    analyzer.update(variable, tvm.sym.ConstIntBound(*bounds))
    return variable


def _values(mod: tvm.IRModule, func: relax.Function) -> dict[Any, Any]:
    """Bounds of the variables that have some; of several results, a tuple."""
    known: dict[Any, Any] = {}
    blocks = func.body.blocks if isinstance(func.body, relax.SeqExpr) else []
    for binding in (binding for block in blocks for binding in block.bindings):
        if not isinstance(binding, relax.VarBinding):
            continue
        value = binding.value
        if isinstance(value, relax.TupleGetItem):
            results = known.get(value.tuple_value)
            known[binding.var] = results[int(value.index)] if results else None
        elif isinstance(value, tvm.ir.Call) and value.op.same_as(CALLS[0]):
            results = _results(mod[value.args[0]], value, known)
            several = isinstance(value.ty_args[0], tvm.ir.TupleType)
            known[binding.var] = results if several else results[0]
        elif isinstance(value, tvm.ir.Call) and value.op.same_as(RESHAPE):
            known[binding.var] = _bounds_of(value.args[0], known)
        else:
            known[binding.var] = _bounds_of(value, known)
    return known


def _bounds_of(value: Any, known: Mapping[Any, Any]) -> Bounds | None:
    if isinstance(value, GenericConst) and str(value.ty.dtype) in WIDE_TYPES:
        data = value.value.numpy()
        return _near(int(data.min()), int(data.max())) if data.size else None
    return known.get(value) if isinstance(value, tvm.ir.Var) else None


def _results(func: tirx.PrimFunc, call: Any, known: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Bounds of what a call stores in each of its results."""
    arguments = call.args[1].fields
    results = func.params[len(arguments) :]
    if not any(str(result.dtype) in WIDE_TYPES for result in results):
        return (None,) * len(results)
    analyzer = tvm.sym.Analyzer()
    bind_ranges(func, analyzer)
    data = {
        param: bounded_variable(analyzer, param, bounds)
        for param, argument in zip(func.params, arguments, strict=False)
        if (bounds := _bounds_of(argument, known))
    }
    stored: dict[Any, list[Any]] = {}

    def store(node: tirx.BufferStore) -> None:
        if node.buffer in results and str(node.buffer.dtype) in WIDE_TYPES:
            value = structural_map(
                node.value, (TensorLoad, lambda load: data.get(load.source, load))
            )
            stored.setdefault(node.buffer, []).append(analyzer.const_int_bound(value))

    structural_walk(func.body, (tirx.BufferStore, store))
    return tuple(
        _near(min(b.min_value for b in every), max(b.max_value for b in every))
        if (every := stored.get(result))
        else None
        for result in results
    )


def _near(low: int, high: int) -> Bounds | None:
    return (low, high) if -DATA_LIMIT <= low <= high <= DATA_LIMIT else None


def _both(one: Bounds, other: Bounds) -> Bounds:
    return min(one[0], other[0]), max(one[1], other[1])
