"""Compute indices in 32 bits where declared bounds show that they fit.

::

    def main(x: Tensor((n, 10, 32))):                     tir_var_upper_bound = {"n": 64}

    for i in thread_binding(n): # int64              for i in thread_binding(n):    # int32
        y[i] = x[i, T.int64(3)]                  →       y[i] = x[i, 3]

The extent of a symbol is 64 bits wide in Relax. Index arithmetic of that width is slow on a mobile
GPU, and TVM's own narrowing gives up at a symbol and at an index that is read from memory: data, or
one that is kept because several loops use it. Here a symbol's upper bound comes from the attribute
``tir_var_upper_bound`` of the Relax function, through the arguments of every call to each function
that has it in its shapes. What is kept has the bounds of all that is stored there, and data that is
part of an index is taken to be below 2**30 in magnitude, as no element is further away.

Legal when every symbol of the function has a bound at every call, no buffer has 2**31 elements or
more, no integer that is computed passes 32 bits, and 64-bit data only says where an element is or
is known to be small (``_narrow_data.py``; TVM narrows no function with such data). A function that
is left as it is has the reason in its attribute ``smartmem.wide_indices``. Functions without
symbols, integers to read and 64-bit results are TVM's to narrow.

A function alone, which nothing calls, is narrowed where its attribute ``smartmem.data_bounds`` says
what its data would be within (:func:`smartmem_tvm.analysis.data_bounds.with_bounds`).

Requires: scheduled functions, called through ``call_tir``; inputs within their bounds.
Guarantees: the same values; symbols, loops and indices of a narrowed function are 32 bits wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map, structural_walk

from smartmem_tvm.analysis.data_bounds import (
    CALLS,
    DATA_BOUNDS,
    DATA_LIMIT,
    WIDE_TYPES,
    Bounds,
    bind_ranges,
    bounded_variable,
    data_bounds,
    known_bounds,
)

from ._graph import CALL_TIR_INPLACE
from ._narrow_data import HeldData, hold_narrow

BOUNDS = "tir_var_upper_bound"
WIDE = "smartmem.wide_indices"
LIMIT = 2**31
ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul)

# Largest value of each symbol; None where it is not known.
Largest = dict[Any, int | None]


@tvm.transform.module_pass(opt_level=0, name="smartmem.NarrowIndices")
class NarrowIndices:
    """Make the indices of functions with bounded symbolic shapes 32 bits wide."""

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the module with indices narrowed where that is safe."""
        largest, bounds = _symbols_of_calls(mod), data_bounds(mod)
        for gv, func in mod.functions.items():
            if gv not in largest and isinstance(func, tirx.PrimFunc) and DATA_BOUNDS in func.attrs:
                largest[gv], bounds[gv] = {}, known_bounds(func)
        mod = mod.clone()
        for gv, symbols in largest.items():
            func = mod[gv]
            if not symbols and not _has_integers(func):
                continue
            narrow = _narrowed(func, symbols, bounds.get(gv, {}))
            mod.update_func(gv, func.with_attr(WIDE, narrow) if isinstance(narrow, str) else narrow)
        return mod


def _narrowed(
    func: tirx.PrimFunc, symbols: Largest, bounds: Mapping[int, Bounds]
) -> tirx.PrimFunc | str:
    """The function with indices of 32 bits, or why they stay as wide as they are."""
    held = hold_narrow(func, bounds)
    if isinstance(held, str):
        return held
    reason = _refusal(held, symbols)
    if reason is not None:
        return reason
    alone = tvm.IRModule({"main": held.func})
    return held.released(tirx.transform.ForceNarrowIndexToInt32()(alone)["main"])


def _symbols_of_calls(mod: tvm.IRModule) -> dict[Any, Largest]:
    """Symbols of each called function, each the largest over all calls."""
    found: dict[Any, Largest] = {}
    for func in mod.functions.values():
        if not isinstance(func, relax.Function):
            continue
        analyzer, known = _bounds_of(func)

        def visit(
            call: Any, analyzer: tvm.sym.Analyzer = analyzer, known: set[Any] = known
        ) -> None:
            if any(call.op.same_as(op) for op in CALLS):
                symbols = found.setdefault(call.args[0], {})
                for symbol, actual in _symbol_values(mod[call.args[0]], call):
                    value = _largest(actual, analyzer, known)
                    earlier = symbols.setdefault(symbol, value)
                    if earlier is not None:
                        symbols[symbol] = None if value is None else max(earlier, value)

        structural_walk(func.body, (tvm.ir.Call, visit))
    return found


def _bounds_of(func: relax.Function) -> tuple[tvm.sym.Analyzer, set[Any]]:
    """Analyser that knows the bounds of a function's symbols, and which these are."""
    declared = {str(name): int(value) for name, value in (func.attrs.get(BOUNDS) or {}).items()}
    analyzer, known = tvm.sym.Analyzer(), set()

    def visit(var: Any) -> None:
        if isinstance(var.ty, tvm.ir.PrimType) and var.name in declared and var not in known:
            known.add(var)
            analyzer.update(var, tvm.sym.ConstIntBound(1, declared[var.name]))

    structural_walk([param.ty for param in func.params], (tvm.ir.Var, visit))
    return analyzer, known


def _symbol_values(func: tirx.PrimFunc, call: Any) -> list[tuple[Any, Any]]:
    """Symbols of a function and what each stands for in a call."""
    results = call.ty_args[0]
    results = list(results.fields) if isinstance(results, tvm.ir.TupleType) else [results]
    if call.op.same_as(CALL_TIR_INPLACE):  # what is written in place is an argument already
        places = call.attrs.inplace_indices
        results = [one for one, place in zip(results, places, strict=True) if int(place) < 0]
    arguments = call.args[1].fields
    values = []
    for param, given in zip(func.params, [*arguments, *results], strict=True):
        if isinstance(param.ty, tvm.ir.PrimType):
            if str(param.ty.dtype) in WIDE_TYPES:
                values.append((param, given))
            continue
        shape = (given if isinstance(given, relax.TensorType) else given.ty).shape
        extents = list(shape.values) if isinstance(shape, relax.ShapeExpr) else []
        for position, extent in enumerate(param.shape):
            if isinstance(extent, tvm.ir.Var):
                values.append((extent, extents[position] if extents else None))
    return values


def _largest(actual: Any, analyzer: tvm.sym.Analyzer, known: set[Any]) -> int | None:
    if actual is None:
        return None
    used: list[Any] = []
    structural_walk(actual, (tvm.ir.Var, used.append))
    if any(var not in known for var in used):
        return None
    return int(analyzer.const_int_bound(actual).max_value)


def _refusal(held: HeldData, symbols: Largest) -> str | None:
    """Why indices stay as wide as they are; None where 32 bits hold all of them."""
    analyzer = tvm.sym.Analyzer()
    for symbol, value in symbols.items():
        if value is None:
            return f"the symbolic extent '{symbol.name}' has no declared upper bound"
        analyzer.update(symbol, tvm.sym.ConstIntBound(1, value))
    for buffer in _buffers(held.func):
        elements = tirx.const(1, "int64")
        for extent in buffer.shape:
            elements = elements * tirx.Cast("int64", extent)
        most = int(analyzer.const_int_bound(elements).max_value)
        if most >= LIMIT:
            return f"'{buffer.name}' has up to {most} elements, more than 32 bits can number"
    return _wide_part(held, analyzer)


def _buffers(func: tirx.PrimFunc) -> list[Any]:
    found = {p: None for p in func.params if not isinstance(p.ty, tvm.ir.PrimType)}
    structural_walk(
        func.body,
        [
            (TensorLoad, lambda load: found.setdefault(load.source, None)),
            (tirx.BufferStore, lambda store: found.setdefault(store.buffer, None)),
        ],
    )
    return list(found)


def _wide_part(held: HeldData, analyzer: tvm.sym.Analyzer) -> str | None:
    """The first part of an index that 32 bits may not hold, in words."""
    func = held.func
    bind_ranges(func, analyzer)
    known = {twin: bounded_variable(analyzer, twin, bound) for twin, bound in held.known.items()}
    data = tirx.Var("data", "int32")
    analyzer.update(data, tvm.sym.ConstIntBound(-DATA_LIMIT, DATA_LIMIT))
    kept = _kept_indices(func, analyzer, known, dict.fromkeys(held.kept, data))
    cut = _parts_of_kept(func, held.kept)
    parts = _parts_of_indices(func) | cut
    wide: list[str] = []

    def check(expr: Any) -> None:
        if (str(expr.ty.dtype) in WIDE_TYPES or expr in cut) and not wide:
            bound = analyzer.const_int_bound(
                _with_bounds(expr, kept, data if expr in parts else None)
            )
            if bound.min_value < -LIMIT or bound.max_value >= LIMIT:
                wide.append(f"'{expr}' may be from {bound.min_value} to {bound.max_value}")

    def check_cut(cast: tirx.Cast) -> None:
        if str(cast.ty.dtype) == "int32":
            check(cast.value)

    checks = [((*ARITHMETIC, tirx.IntImm), check), (tirx.Cast, check_cut)]
    structural_walk(func.body, checks)
    return wide[0] if wide else None


def _parts_of_kept(func: tirx.PrimFunc, kept_parts: frozenset[Any]) -> set[Any]:
    """Arithmetic of what is stored in the private buffers, which hold parts of indices."""
    found: set[Any] = set()

    def store(node: tirx.BufferStore) -> None:
        if node.buffer in kept_parts:
            structural_walk(node.value, (ARITHMETIC, found.add))

    structural_walk(func.body, (tirx.BufferStore, store))
    return found


def _parts_of_indices(func: tirx.PrimFunc) -> set[Any]:
    """Arithmetic that is part of where an element is."""
    found: set[Any] = set()

    def access(node: Any) -> None:
        structural_walk(list(node.indices), (ARITHMETIC, found.add))

    structural_walk(func.body, ((TensorLoad, tirx.BufferStore), access))
    return found


def _kept_indices(
    func: tirx.PrimFunc,
    analyzer: tvm.sym.Analyzer,
    known: Mapping[Any, Any],
    data: Mapping[Any, Any],
) -> dict[Any, Any]:
    """A variable with the bounds of all that is stored, for each private buffer of integers.

    What is stored in those that `data` has is part of an index, and so is data there. Buffers of
    known bounds have theirs.
    """
    kept = dict(known)
    for buffer, values in _stores_of_integers(func).items():
        bounds = [
            analyzer.const_int_bound(_with_bounds(value, kept, data.get(buffer)))
            for value in values
        ]
        low, high = min(b.min_value for b in bounds), max(b.max_value for b in bounds)
        kept[buffer] = bounded_variable(analyzer, buffer, (low, high))
    return kept


def _has_integers(func: tirx.PrimFunc) -> bool:
    """Whether it reads integers or stores 64-bit ones."""
    found: list[Any] = []

    def load(node: TensorLoad) -> None:
        if "int" in str(node.ty.dtype):
            found.append(node)

    def store(node: tirx.BufferStore) -> None:
        if str(node.buffer.dtype) in WIDE_TYPES:
            found.append(node)

    structural_walk(func.body, [(TensorLoad, load), (tirx.BufferStore, store)])
    return bool(found)


def _stores_of_integers(func: tirx.PrimFunc) -> dict[Any, list[Any]]:
    """What is stored in each private buffer of integers."""
    params = set(func.params)
    stored: dict[Any, list[Any]] = {}

    def visit(store: tirx.BufferStore) -> None:
        if str(store.buffer.dtype).startswith("int") and store.buffer not in params:
            stored.setdefault(store.buffer, []).append(store.value)

    structural_walk(func.body, (tirx.BufferStore, visit))
    return stored


def _with_bounds(expr: Any, kept: dict[Any, Any], data: Any = None) -> Any:
    """Expression with variables that have bounds in place of kept indices and 32-bit data."""

    def bounded(load: TensorLoad) -> Any:
        if load.source in kept:
            return kept[load.source]
        return load if data is None or str(load.ty.dtype) != "int32" else data

    return structural_map(expr, (TensorLoad, bounded))
