"""What became of every operator and every tensor of a model, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import tvm
from tvm import relax, tirx

from .analysis import KernelInfo, list_kernels
from .analysis.decisions import Decision, read_decisions
from .analysis.half_storage import Choice, read_choices
from .analysis.index_divisions import (
    COMPOSED_DIVISIONS,
    inner_divisions,
    total_divisions,
    written_divisions,
)
from .analysis.layout_class import LayoutClass, classify
from .analysis.memory_plan import Memory, read_memory
from .analysis.scheduled_readings import scheduled_readings
from .analysis.tensor_layouts import (
    STRIDE_ONE,
    Reading,
    TensorLayout,
    count,
    count_readings,
    read_tensor_layouts,
)
from .passes import ClassifyOperators, PlanMemory, SelectLayouts
from .pipeline import pipeline_stages
from .tuning.recorded_rule import Tuned, schedules_of
from .tuning.records import Records

CALLS = [tvm.ir.Op.get(name) for name in ("relax.call_tir", "relax.call_tir_inplace")]
# Kernels that a graph may have beyond those that reduce and the opaque ones.
BOUND_ALLOWANCE = 2


@dataclass(frozen=True)
class Fate:
    """What became of one operator.

    Attributes
    ----------
    operator
        Name of the tensor that it makes.
    kind
        Name of its function, for people.
    layout_class
        ``"ILD"``, ``"ILI"``, ``"fixed"`` or ``"opaque"``.
    fate
        ``"kernel"``, ``"eliminated"``, ``"fused"``, ``"merged"``, ``"kept"``; ``"dead"`` when
        nothing that is left needs it.
    kernels
        Functions that do its work now.
    reason
        Why it is kept, opaque or merged; else empty.
    views
        Index maps of its readers, composed and simplified, with their divisions and modulos.
    """

    operator: str
    kind: str
    layout_class: str
    fate: str
    kernels: tuple[str, ...] = ()
    reason: str = ""
    views: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True)
class Explanation:
    """Fates of all operators, and the kernels and tensors that are left."""

    fates: tuple[Fate, ...]
    kernels: tuple[KernelInfo, ...]
    stages_s: dict[str, float]
    # Divisions and modulos, over the launches of one inference. ``before``: of the composed maps,
    # nothing simplified; ``after``: of the kernels' maps; ``inner_loops``: what the inner loops of
    # the scheduled kernels evaluate.
    index_divisions: dict[str, int] = field(default_factory=dict)
    tensors: tuple[TensorLayout, ...] = ()
    # Operands that a kernel reads along a reduced axis, by how the loops of its schedule do that.
    scheduled_readings: dict[str, int] = field(default_factory=dict)
    # Storages of tensors that are neither inputs, constants nor results, by memory scope.
    memory: Memory = field(default_factory=Memory)
    # What the operators' results are stored as and why, where float16 was asked for.
    half: tuple[Choice, ...] = ()
    # Of each function: its rule, what it chose, and the record that it is from.
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def operand_readings(self) -> dict[str, int]:
        """Operands read along a reduced axis, by how the cost model's walk does that."""
        return count_readings(self.tensors)

    @property
    def tensor_bytes(self) -> dict[str, int]:
        """Bytes of all tensors with known extents; how many of them are second copies."""
        return {
            "total": sum(tensor.bytes or 0 for tensor in self.tensors),
            "copies": sum(tensor.copies for tensor in self.tensors),
        }

    @property
    def float_bytes(self) -> dict[str, dict[str, int]]:
        """Bytes of activations (inputs and results among them) and of constants, by dtype."""
        found: dict[str, dict[str, int]] = {"activations": {}, "constants": {}}
        for tensor in self.tensors:
            if tensor.dtype.startswith("float"):
                kind = found["constants" if tensor.constant else "activations"]
                kind[tensor.dtype] = kind.get(tensor.dtype, 0) + (tensor.bytes or 0)
        return found

    @property
    def layout_transforms(self) -> dict[str, Any]:
        """Fixed operators before; how many were eliminated or written in place; the kept ones."""
        fixed = [fate for fate in self.fates if fate.layout_class == LayoutClass.FIXED.value]
        kept = [fate for fate in fixed if fate.fate == "kept"]
        return {
            "before": len(fixed),
            "eliminated": len(fixed) - len(kept),
            "kept": [
                {"op": f"{fate.operator} ({fate.kind})", "reason": fate.reason} for fate in kept
            ],
        }

    @property
    def kernel_floor(self) -> dict[str, int]:
        """How many kernels elimination and fusion of elementwise operators can leave at best.

        ``ild``: operators that reduce, those of one kernel that read one tensor in the same way
        (q, k, v; mean and variance) counted once. ``opaque``: operators kept as they are.
        ``bound``: their sum and :data:`BOUND_ALLOWANCE`, for what a graph's inputs and outputs
        force. Operators that nothing needs are not counted; of an opaque operator with several
        launches only one is. Fewer kernels than ``ild + opaque`` take fusion of one reduction
        with another.
        """
        counts = {"ild": LayoutClass.ILD.value, "opaque": LayoutClass.OPAQUE.value}
        found = {
            name: sum(
                fate.layout_class == layout_class and fate.fate not in ("merged", "dead")
                for fate in self.fates
            )
            for name, layout_class in counts.items()
        }
        return {**found, "bound": sum(found.values()) + BOUND_ALLOWANCE}


def explain(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    dtype: str = "float32",
    disable: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
    records: str | PathLike[str] | Records | None = None,
) -> Explanation:
    """Run the pipeline up to scheduled kernels and collect what its passes decided.

    Parameters
    ----------
    mod
        Relax module of operators, as the frontend makes it.
    target, dtype, disable
        As for :func:`smartmem_tvm.pipeline.pipeline_stages`.
    progress
        Called with the name of each stage before it starts.
    records
        Tuned schedules, as for :func:`smartmem_tvm.compiler.compile`.
    """
    operators: list[_Operator] = []
    decisions: list[Decision] = []
    seconds: dict[str, float] = {}
    divisions: dict[str, int] = {}
    half: tuple[Choice, ...] = ()
    tuned = Tuned.read(records)
    with target:
        for name, passes in pipeline_stages(target, dtype, disable, tuned.rules):
            if name == "lower":
                break
            if progress is not None:
                progress(name)
            if name == "layouts" and not passes:  # left out: say how tensors lie without it
                passes = [SelectLayouts(solver="none"), ClassifyOperators()]
            start = time.perf_counter()
            mod = tvm.transform.Sequential(passes)(mod)
            seconds[name] = round(time.perf_counter() - start, 4)
            if name == "cast_to_half":
                half = read_choices(mod)
            elif name == "legalise":
                operators = _list_operators(mod)
                divisions["before"] = total_divisions(mod, written_divisions)
            elif name == "eliminate":
                decisions = read_decisions(mod)
                composed = mod.get_attr(COMPOSED_DIVISIONS)
                divisions["before"] = divisions["before"] if composed is None else int(composed)
                divisions["after"] = total_divisions(mod, written_divisions)
        place = [*relax.backend.gpu_generic.dataflow_lower_passes(target), PlanMemory()]
        memory = read_memory(tvm.transform.Sequential(place)(mod))
    divisions["inner_loops"] = total_divisions(mod, lambda func: len(inner_divisions(func)))
    calls = _calls(mod)
    scheduled = {gv: scheduled_readings(mod[gv]) for gv in {call[2] for call in calls}}
    fates = _resolve(operators, decisions, _makers(mod))
    return Explanation(
        tuple(fates),
        tuple(list_kernels(mod)),
        seconds,
        divisions,
        _with_kernels(mod, calls, scheduled),
        count(how for _, _, gv in calls for how in scheduled[gv].values()),
        memory,
        half,
        schedules_of(mod),
    )


@dataclass(frozen=True)
class _Operator:
    """One ``call_tir`` before elimination, with the names of the tensors that it makes."""

    name: str
    tensors: tuple[str, ...]
    kind: str
    layout_class: LayoutClass
    reason: str


def _bindings(mod: tvm.IRModule) -> list[Any]:
    return [
        binding
        for func in mod.functions.values()
        if isinstance(func, relax.Function) and isinstance(func.body, relax.SeqExpr)
        for block in func.body.blocks
        for binding in block.bindings
    ]


def _calls(mod: tvm.IRModule) -> list[tuple[Any, tuple[str, ...], Any]]:
    """Variable of every ``call_tir``, the names of the tensors that it makes, its function."""
    bindings = _bindings(mod)
    names: dict[tuple[Any, int], str] = {}
    for binding in bindings:
        if isinstance(binding.value, relax.TupleGetItem):
            place = (binding.value.tuple_value, int(binding.value.index))
            names.setdefault(place, binding.var.name)
    found = []
    for binding in bindings:
        var, value = binding.var, binding.value
        if isinstance(value, relax.Call) and any(value.op.same_as(op) for op in CALLS):
            tensors: tuple[str, ...] = (var.name,)
            if isinstance(var.ty, tvm.ir.TupleType):
                tensors = tuple(
                    names.get((var, number), f"{var.name}_{number}")
                    for number in range(len(var.ty.fields))
                )
            found.append((var, tensors, value.args[0]))
    return found


def _list_operators(mod: tvm.IRModule) -> list[_Operator]:
    classes = {gv: classify(f) for gv, f in mod.functions.items() if isinstance(f, tirx.PrimFunc)}
    return [
        _Operator(
            var.name,
            tensors,
            function.name_hint,
            classes[function].layout_class,
            classes[function].reason,
        )
        for var, tensors, function in _calls(mod)
        if function in classes
    ]


def _makers(mod: tvm.IRModule) -> dict[str, str]:
    """Function that makes each tensor, by the tensor's name."""
    return {
        tensor: function.name_hint for _, tensors, function in _calls(mod) for tensor in tensors
    }


def _with_kernels(
    mod: tvm.IRModule,
    calls: list[tuple[Any, tuple[str, ...], Any]],
    scheduled: dict[Any, dict[int, str]],
) -> tuple[TensorLayout, ...]:
    """Tensors with the functions that read them, and how their scheduled loops do that."""
    values = {binding.var: binding.value for binding in _bindings(mod)}
    functions: dict[str, str] = {}
    found: dict[tuple[str, str], str] = {}
    for var, made, function in calls:
        functions[made[0]] = function.name_hint
        constants = 0
        for number, argument in enumerate(values[var].args[1].fields):
            if isinstance(argument, tvm.ir.Var):
                name = argument.name
            else:
                constants += 1
                name = f"{made[0]}.constant_{constants}"
            if number in scheduled[function]:
                found[made[0], name] = scheduled[function][number]

    def scheduled_as(tensor: TensorLayout, reading: Reading) -> Reading:
        how = found.get((reading.reader, tensor.name), "")
        reason = reading.reason
        if not reason and how and how not in STRIDE_ONE and reading.reduced:
            reason = "the rule that scheduled its kernel took another walk than the cost model"
        kernel = functions.get(reading.reader, "")
        return replace(reading, kernel=kernel, scheduled=how, reason=reason)

    return tuple(
        replace(tensor, readings=tuple(scheduled_as(tensor, r) for r in tensor.readings))
        for tensor in read_tensor_layouts(mod)
    )


def _resolve(
    operators: list[_Operator], decisions: list[Decision], makers: dict[str, str]
) -> list[Fate]:
    last: dict[str, Decision] = {}
    into: dict[str, set[str]] = {}
    views: dict[str, tuple[dict[str, object], ...]] = {}
    for decision in decisions:
        before = last.get(decision.operator)
        if before is None or (before.fate, decision.fate) != ("merged", "kernel"):
            last[decision.operator] = decision
        into.setdefault(decision.operator, set()).update(decision.into)
        views[decision.operator] = views.get(decision.operator, ()) + decision.views
    fates = []
    for operator in operators:
        found = [last[tensor] for tensor in operator.tensors if tensor in last]
        kernels = _kernels_of(operator.tensors, into, makers)
        fate, reason = _fate(operator, found, kernels)
        maps = tuple(view for tensor in operator.tensors for view in views.get(tensor, ()))
        fates.append(
            Fate(
                operator.name,
                operator.kind,
                operator.layout_class.value,
                fate,
                kernels,
                reason,
                maps,
            )
        )
    return fates


def _kernels_of(
    tensors: tuple[str, ...], into: dict[str, set[str]], makers: dict[str, str]
) -> tuple[str, ...]:
    """Functions that make the tensors, or what they were eliminated, fused or merged into."""
    seen, waiting, found = set(tensors), list(tensors), set()
    while waiting:
        name = waiting.pop()
        if name in makers:
            found.add(makers[name])
        for other in into.get(name, ()):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return tuple(sorted(found))


def _fate(
    operator: _Operator, decisions: list[Decision], kernels: tuple[str, ...]
) -> tuple[str, str]:
    """Fate and reason: what is kept of an operator with several results says more than the rest."""
    if decisions:
        kept = [decision for decision in decisions if decision.fate == "kept"]
        decision = (kept or decisions)[0]
        if decision.fate != "kernel" or operator.layout_class is LayoutClass.ILD:
            return decision.fate, decision.reason
        return "fused", ""
    if operator.layout_class is LayoutClass.OPAQUE:
        return "kept", operator.reason
    return ("kernel" if kernels else "dead"), ""
