"""What became of every operator of a model, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx

from .analysis import KernelInfo, list_kernels
from .analysis.decisions import Decision, read_decisions
from .analysis.layout_class import LayoutClass, classify
from .pipeline import pipeline_stages

CALL_TIR = tvm.ir.Op.get("relax.call_tir")


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
    """Fates of all operators, and the kernels that are left."""

    fates: tuple[Fate, ...]
    kernels: tuple[KernelInfo, ...]
    stages_s: dict[str, float]

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
    def index_divisions(self) -> dict[str, int]:
        """Divisions and modulos in the readers' maps, composed and after simplification."""
        totals = {"before": 0, "after": 0}
        for fate in self.fates:
            for view in fate.views:
                for name in totals:
                    totals[name] += int(str(view[f"{name}_divisions"]))
        return totals


def explain(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    dtype: str = "float32",
    disable: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
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
    """
    operators: list[tuple[str, str, LayoutClass, str]] = []
    decisions: list[Decision] = []
    seconds: dict[str, float] = {}
    makers: dict[str, str] = {}
    with target:
        for name, passes in pipeline_stages(target, dtype, disable):
            if name == "lower":
                break
            if progress is not None:
                progress(name)
            start = time.perf_counter()
            mod = tvm.transform.Sequential(passes)(mod)
            seconds[name] = round(time.perf_counter() - start, 4)
            if name == "legalise":
                operators = _list_operators(mod)
            elif name == "eliminate":
                decisions = read_decisions(mod)
                makers = _makers(mod)
    fates = _resolve(operators, decisions, makers)
    return Explanation(tuple(fates), tuple(list_kernels(mod)), seconds)


def _calls(mod: tvm.IRModule) -> list[tuple[Any, Any, str]]:
    """Binding variable, result variables and function name of every ``call_tir``."""
    found = []
    for func in mod.functions.values():
        if not isinstance(func, relax.Function) or not isinstance(func.body, relax.SeqExpr):
            continue
        for block in func.body.blocks:
            for binding in block.bindings:
                value = binding.value
                if isinstance(value, relax.Call) and value.op.same_as(CALL_TIR):
                    found.append((binding.var, value.args[0], value.args[0].name_hint))
    return found


def _list_operators(mod: tvm.IRModule) -> list[tuple[str, str, LayoutClass, str]]:
    operators = []
    classes: dict[str, Any] = {}
    for var, global_var, name in _calls(mod):
        if name not in classes:
            func = mod[global_var]
            classes[name] = classify(func) if isinstance(func, tirx.PrimFunc) else None
        found = classes[name]
        if found is not None:
            operators.append((var.name, name, found.layout_class, found.reason))
    return operators


def _makers(mod: tvm.IRModule) -> dict[str, str]:
    """Function that makes each tensor, by the tensor's name."""
    makers = {}
    tuples = {}
    for var, _, name in _calls(mod):
        makers[var.name] = name
        tuples[var] = name
    for func in mod.functions.values():
        if isinstance(func, relax.Function) and isinstance(func.body, relax.SeqExpr):
            for block in func.body.blocks:
                for binding in block.bindings:
                    value = binding.value
                    if isinstance(value, relax.TupleGetItem) and value.tuple_value in tuples:
                        makers[binding.var.name] = tuples[value.tuple_value]
    return makers


def _resolve(
    operators: list[tuple[str, str, LayoutClass, str]],
    decisions: list[Decision],
    makers: dict[str, str],
) -> list[Fate]:
    last: dict[str, Decision] = {}
    into: dict[str, set[str]] = {}
    views: dict[str, tuple[dict[str, object], ...]] = {}
    for decision in decisions:
        last[decision.operator] = decision
        into.setdefault(decision.operator, set()).update(decision.into)
        views[decision.operator] = views.get(decision.operator, ()) + decision.views

    def kernels_of(operator: str) -> tuple[str, ...]:
        seen, waiting, found = {operator}, [operator], set()
        while waiting:
            name = waiting.pop()
            if name in makers:
                found.add(makers[name])
            for other in into.get(name, ()):
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return tuple(sorted(found))

    fates = []
    for name, kind, layout_class, opaque in operators:
        parts = [part for part in last if part == name or part.startswith(f"{name}_")]
        decision = last.get(name) or (last[parts[0]] if parts else None)
        kernels = kernels_of(decision.operator if decision else name)
        if decision is not None and (decision.fate != "kernel" or layout_class is LayoutClass.ILD):
            fate, reason = decision.fate, decision.reason
        elif decision is not None:
            fate, reason = "fused", ""
        elif layout_class is LayoutClass.OPAQUE:
            fate, reason = "kept", opaque
        else:
            fate, reason = ("kernel" if kernels else "dead"), ""
        maps = tuple(view for part in {name, *parts} for view in views.get(part, ()))
        fates.append(Fate(name, kind, layout_class.value, fate, kernels, reason, maps))
    return fates
