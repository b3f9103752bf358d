"""Running the kernels of a random graph, one by one, as the schedule rules make them.

The graph goes through the pipeline up to its fused functions. Each of these is then scheduled,
built and launched alone, on arrays of the host: in random layouts where that is asked for, with
NaN in the padding, which must not be read, and in the results, which must be written.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import tvm
from fuzz_graphs import Graph
from fuzz_layouts import draw_layout
from fuzz_relax import to_relax
from tvm import relax
from tvm.ir.expr import GenericConst

from smartmem_tvm.analysis import find_launches
from smartmem_tvm.analysis.computation import OpaqueReason, read_stages
from smartmem_tvm.analysis.layouts import map_shape, pack
from smartmem_tvm.devices import built_in_profiles, load_profile
from smartmem_tvm.passes.rewrite_layouts import rewrite_function
from smartmem_tvm.pipeline import pipeline_stages
from smartmem_tvm.schedules import rule_of

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from kernel_checks import (
    Strictest,
    indices_are_narrow,
    launch_violations,
    library_kernels,
    source_violations,
)

CALL_TIR = tvm.ir.Op.get("relax.call_tir")
CALL_TIR_INPLACE = tvm.ir.Op.get("relax.call_tir_inplace")
STRICTEST = Strictest.of(built_in_profiles())


class IllegalKernelError(AssertionError):
    """A kernel that breaks a limit of some device, whatever it computes here."""


@dataclass
class Setting:
    """How kernels are compiled and run.

    Attributes
    ----------
    device
        The OpenCL device.
    profile : str
        Device profile that the rules schedule for.
    layouts : bool
        Whether tensors get random layouts.
    disable : Collection[str]
        Switches of the pipeline.
    counts : Counter
        What was drawn and run: kernels, launches, rules, forms of layouts.
    largest_source : (int, str)
        Characters of the largest kernel, and its name.
    show : bool
        Whether every kernel is printed before it is scheduled and after.
    """

    device: Any
    profile: str = "cpu"
    layouts: bool = False
    disable: Collection[str] = ()
    counts: Counter[str] = field(default_factory=Counter)
    largest_source: tuple[int, str] = (0, "")
    show: bool = False


def run_kernels(graph: Graph, setting: Setting) -> list[np.ndarray]:
    """Outputs of the graph, each kernel scheduled for the profile and launched by itself."""
    target = load_profile(setting.profile).target()
    stages = pipeline_stages(target, graph.storage, disable=setting.disable)
    names = [name for name, _ in stages]
    mod = to_relax(graph)
    with target:
        for _, passes in stages[: names.index("layouts")]:
            mod = tvm.transform.Sequential(passes)(mod)
    machine = _Machine(mod, graph, setting, target, dict(stages))
    setting.counts["graphs"] += 1
    return machine.run()


class _Machine:
    """Interprets a function of calls, with arrays of the host as values."""

    def __init__(self, mod: Any, graph: Graph, setting: Setting, target: Any, stages: Any) -> None:
        self.mod, self.graph, self.setting, self.target = mod, graph, setting, target
        self.stages = stages
        self.values: dict[Any, Any] = {}

    def run(self) -> list[np.ndarray]:
        main, known = self.mod["main"], self.graph.values()
        for parameter, tensor in zip(main.params, self.graph.inputs, strict=True):
            self.values[parameter] = known[tensor.name]
        for block in main.body.blocks:
            for binding in block.bindings:
                self.values[binding.var] = self._value(binding.value)
        result = self._value(main.body.body)
        return [np.asarray(output) for output in result]

    def _value(self, expr: Any) -> Any:
        if isinstance(expr, relax.Var):
            return self.values[expr]
        if isinstance(expr, GenericConst):
            return expr.value.numpy()
        if isinstance(expr, relax.Tuple):
            return [self._value(item) for item in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return self._value(expr.tuple_value)[expr.index]
        if isinstance(expr, relax.Call) and expr.op in (CALL_TIR, CALL_TIR_INPLACE):
            return self._call(expr)
        raise NotImplementedError(f"the interpreter has no {type(expr).__name__}: {expr}")

    def _call(self, call: Any) -> Any:
        name = call.args[0].name_hint
        func = self.mod[call.args[0]]
        arrays = [np.array(value) for value in self._value(call.args[1])]
        types = list(call.ty.fields) if isinstance(call.ty, relax.TupleType) else [call.ty]
        in_place = [-1] * len(types)
        if call.op == CALL_TIR_INPLACE:
            in_place = [int(number) for number in call.attrs.inplace_indices]
        for ty, number in zip(types, in_place, strict=True):
            if number < 0:
                shape = [int(extent) for extent in ty.shape.values]
                arrays.append(_unwritten(shape, str(ty.dtype)))
        first = len(arrays) - in_place.count(-1)
        arrays = self._launch(name, func, arrays, first if -1 in in_place else None)
        fresh = iter(arrays[first:])
        results = [next(fresh) if number < 0 else arrays[number] for number in in_place]
        return results if isinstance(call.ty, relax.TupleType) else results[0]

    def _launch(
        self, name: str, func: Any, arrays: list[np.ndarray], first: int | None
    ) -> list[np.ndarray]:
        """All arguments after the launch, in the layouts in which they came.

        Those from the `first` on are results; None says that all are given.
        """
        params = list(func.params)  # the sizes of tensors and numbers are theirs
        maps = self._maps(name, func)
        if maps:
            func = rewrite_function(func, maps)
        packed = [
            pack_with_nan(maps[param], array) if param in maps else array
            for param, array in zip(params, arrays, strict=True)
        ]
        library = self._build(name, _called(func, first))
        device = self.setting.device
        arguments = [tvm.runtime.tensor(array, device=device) for array in packed]
        library["kernel"](*arguments)
        return [
            unpack(maps[param], argument.numpy(), array) if param in maps else argument.numpy()
            for param, argument, array in zip(params, arguments, arrays, strict=True)
        ]

    def _maps(self, name: str, func: Any) -> dict[Any, Any]:
        setting = self.setting
        if not setting.layouts or isinstance(read_stages(func), OpaqueReason):
            return {}
        rng = Random(f"{self.graph.seed} {name}")
        return {
            param: draw_layout(param.shape, rng, setting.counts)
            for param in func.params
            if len(param.shape)
        }

    def _build(self, name: str, mod: tvm.IRModule) -> Any:
        self._show(mod)
        with self.target:
            for stage in ("schedule", "verify"):
                mod = tvm.transform.Sequential(self.stages[stage])(mod)
        self._show(mod)
        counts, scheduled = self.setting.counts, mod["kernel"]
        narrow = indices_are_narrow(scheduled) and _is_called(mod)
        mod = tvm.IRModule({"kernel": scheduled})
        counts["kernels"] += 1
        counts["launches"] += len(find_launches(scheduled))
        counts[f"rule {rule_of(scheduled)}"] += 1
        violations, _ = launch_violations(scheduled, STRICTEST)
        _refuse(violations)
        library = tvm.compile(mod, target=self.target, tir_pipeline="smartmem").mod
        profile = load_profile(self.setting.profile)
        for kernel in library_kernels(library):
            violations += source_violations(kernel, profile, narrow)
            if len(kernel.text) > self.setting.largest_source[0]:
                self.setting.largest_source = (len(kernel.text), name)
        _refuse(violations)
        return library

    def _show(self, mod: Any) -> None:
        if self.setting.show:
            print(mod.script(), flush=True)


def _called(func: Any, first: int | None) -> tvm.IRModule:
    """A module of the function as "kernel", and a call of it where results start at `first`."""
    builder = relax.BlockBuilder()
    kernel = builder.add_func(func.with_attr("global_symbol", "kernel"), "kernel")
    types = [relax.TensorType(param.shape, str(param.dtype)) for param in func.params]
    inputs = [relax.Var(f"x{number}", ty) for number, ty in enumerate(types[:first])]
    with builder.function("main", inputs):
        with builder.dataflow():
            results = inputs
            if first is not None:
                made = types[first:] if len(types) - first > 1 else types[first]
                results = [builder.emit(relax.call_tir(kernel, inputs, made))]
            result = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(result)
    return builder.finalize()


def _is_called(mod: tvm.IRModule) -> bool:
    """Whether there is still a call: not where the function has turned out to be a view."""
    bindings = [binding for block in mod["main"].body.blocks for binding in block.bindings]
    calls = [b.value for b in bindings if isinstance(b.value, relax.Call)]
    return any(call.op == CALL_TIR for call in calls)


def _refuse(violations: list[str]) -> None:
    if violations:
        raise IllegalKernelError("; ".join(violations))


def _unwritten(shape: list[int], dtype: str) -> np.ndarray:
    if dtype == "bool":
        return np.zeros(shape, dtype)
    return np.full(shape, np.nan if dtype.startswith("float") else 77, dtype)


def pack_with_nan(index_map: Any, array: np.ndarray) -> np.ndarray:
    """The array as it lies in the layout; NaN in the padding, or the last index of all."""
    packed = pack(index_map, array)
    unset = ~pack(index_map, np.ones(array.shape, bool))
    if array.dtype.kind == "f":
        packed[unset] = np.nan
    elif array.dtype.kind == "i":
        packed[unset] = np.iinfo(array.dtype).max
    return packed


def unpack(index_map: Any, packed: np.ndarray, like: np.ndarray) -> np.ndarray:
    shape = [int(extent) for extent in map_shape(index_map, list(like.shape))]
    places = pack(index_map, np.arange(1, 1 + like.size).reshape(like.shape)).reshape(-1)
    where = np.empty(like.size, "int64")
    where[places[places > 0] - 1] = np.flatnonzero(places)
    if list(packed.shape) != shape:
        raise ValueError(f"a tensor of shape {packed.shape} came back, not {shape}")
    return packed.reshape(-1)[where].reshape(like.shape)
