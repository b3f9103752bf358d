"""What a kernel is tried with: arrays for its parameters, by seed.

::

    y[i] = table[index[i]] / sqrt(var[i])      table, var: normal numbers    y: NaN, to be written
                                               index: 0 … rows of table - 1

Numbers are normal; where that makes results that are no numbers, as of the root of a variance,
uniform ones below 1 are drawn instead. Integers that are indices stay inside of what they index,
and those that say where results go are all different. What a kernel only writes starts as NaN,
so that an element that it leaves out is noticed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm.ir.prim import expr as prim
from tvm.s_tir import SBlock
from tvm_ffi import structural_map, structural_walk

from smartmem_tvm.analysis.expressions import loads_of, static

from ..errors import SmartMemError

Arrays = list[NDArray[Any]]
# Integers that index nothing: masks, tokens, counts.
_MOST_INTEGER = 4
_FILL = 77
_DIVISIONS = (prim.FloorDiv, prim.FloorMod, tirx.Div, tirx.Mod)


def parameters(func: tirx.PrimFunc) -> list[tuple[tuple[int, ...], str]]:
    """Shape and dtype of each parameter; SmartMemError for what is no tensor of static shape."""
    found = []
    for param in func.params:
        shape = [static(n) for n in param.shape] if isinstance(param, tirx.Buffer) else [None]
        if None in shape:
            raise SmartMemError(
                f"parameter '{param.name}' is no tensor of static shape: such kernels cannot be "
                "measured alone. Fix the model's shapes first."
            )
        found.append((tuple(int(n) for n in shape if n is not None), str(param.dtype)))
    return found


def written(func: tirx.PrimFunc) -> list[int]:
    """Numbers of the parameters that the function writes."""
    stored: list[Any] = []
    structural_walk(func.body, (tirx.BufferStore, lambda store: stored.append(store.buffer)))
    return [n for n, param in enumerate(func.params) if param in stored]


def updated(func: tirx.PrimFunc) -> list[int]:
    """Numbers of the parameters that are written in place: what they hold before is read.

    A reduction reads back what its own initialisation wrote: that does not count.
    """
    loaded = {load.source for load in loads_of(func.body)}
    initialised: list[Any] = []

    def block(node: SBlock) -> None:
        if node.init is not None:
            structural_walk(node.init, (tirx.BufferStore, lambda s: initialised.append(s.buffer)))

    structural_walk(func.body, (SBlock, block))
    params = func.params
    return [n for n in written(func) if params[n] in loaded and params[n] not in initialised]


def draw(func: tirx.PrimFunc, seed: int, *, positive: bool = False) -> Arrays:
    """Arrays for all parameters of a function, the same for the same seed.

    Parameters
    ----------
    func : tvm.tirx.PrimFunc
        Unscheduled, of static shapes.
    seed : int
        Every parameter has a generator of its own.
    positive : bool
        Whether floating-point numbers are uniform between 0 and 1, instead of normal.

    Raises
    ------
    SmartMemError
        For a parameter that is no tensor of static shape.
    """
    found: Arrays = []
    bounds = _Bounds(func)
    only_written = set(written(func)) - set(updated(func))
    for number, (shape, dtype) in enumerate(parameters(func)):
        rng = np.random.default_rng([seed, number])
        kind = np.dtype(dtype).kind
        if number in only_written:
            found.append(np.full(shape, np.nan if kind == "f" else kind != "b" and _FILL, dtype))
        elif kind == "f":
            values = rng.random(shape, "float32") if positive else None
            values = rng.standard_normal(shape, "float32") if values is None else values
            found.append(values.astype(dtype))
        elif kind == "b":
            found.append(rng.integers(0, 2, shape).astype(dtype))
        else:
            found.append(bounds.draw(func.params[number], rng, shape).astype(dtype))
    return found


class _Bounds:
    """How large the integers of parameters may be."""

    def __init__(self, func: tirx.PrimFunc) -> None:
        self._most: dict[Any, int] = {}  # the largest value that is an index
        self._places: set[Any] = set()  # what says where results go
        self._divisors: set[Any] = set()
        self._indirect = False
        self._params = [p for p in func.params if np.dtype(str(p.dtype)).kind in "iu"]
        if not self._params:
            return
        self._analyzer = sym.Analyzer()
        binders = [(tirx.For, self._loop), (SBlock, self._axes)]
        structural_walk(func.body, binders, order="pre")
        structural_walk(func.body, (TensorLoad, lambda load: self._access(load.source, load)))
        structural_walk(func.body, (tirx.BufferStore, self._store))
        structural_walk(func.body, (_DIVISIONS, self._division))

    def draw(self, param: Any, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
        """Values for a parameter of integers."""
        low = 1 if param in self._divisors else 0
        most = self._most.get(param)
        if most is None:
            most = 1 if self._indirect else _MOST_INTEGER - 1
        high = max(low, most) + 1
        if param in self._places and shape and shape[-1] <= high:
            return rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
        return rng.integers(low, high, shape)

    def _loop(self, node: tirx.For) -> None:
        self._analyzer.bind(node.loop_var, tvm.ir.Range.from_min_extent(node.min, node.extent))

    def _axes(self, block: SBlock) -> None:
        for axis in block.iter_vars:
            self._analyzer.bind(axis.var, axis.dom)

    def _store(self, store: tirx.BufferStore) -> None:
        self._access(store.buffer, store)
        for index in store.indices:
            self._places |= {load.source for load in loads_of(index)}

    def _division(self, node: Any) -> None:
        self._divisors |= {load.source for load in loads_of(node.b)}

    def _access(self, buffer: Any, access: Any) -> None:
        for index, extent in zip(access.indices, buffer.shape, strict=True):
            loads = loads_of(index)
            own = {load.source for load in loads} & set(self._params)
            self._indirect |= len(loads) > 0 and not own
            for param in own:
                largest = self._largest(index, own, int(extent))
                self._most[param] = min(self._most.get(param, largest), largest)

    def _largest(self, index: Any, own: set[Any], extent: int) -> int:
        """The largest value of loads in an index that keeps it inside the extent."""

        def inside(most: int) -> bool:
            variables = {p: tirx.Var(p.name, str(p.dtype)) for p in own}
            analyzer = self._analyzer
            for variable in variables.values():
                analyzer.bind(variable, tvm.ir.Range(0, most + 1))
            replaced = structural_map(
                index, (TensorLoad, lambda load: variables.get(load.source, load))
            )
            bound = analyzer.const_int_bound(analyzer.simplify(replaced))
            return bound.min_value >= 0 and bound.max_value < extent

        if not inside(0):  # what keeps it inside is no part of the index
            return extent - 1
        low, high = 0, extent
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if inside(middle) else (low, middle)
        return low
