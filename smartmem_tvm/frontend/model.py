"""What a model is once imported: a Relax module with named inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import tvm
from tvm import relax

from ..errors import ModelError

if TYPE_CHECKING:
    import onnx

EXTENT_LIMITS = "tir_var_upper_bound"
"""Attribute of a Relax function that TVM's memory planning reads as well."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of one input or output.

    Attributes
    ----------
    name : str
        The name in the source graph.
    shape : tuple of int or str
        A string is a symbolic extent (a name, or an expression of names).
    dtype : str
        In TVM's spelling ("float32", "int64", "bool").
    upper : int or None
        For an integer input that indexes a table of the model (token identifiers): the table's
        extent, which every value must stay below.
    limits : tuple of (str, int)
        Symbolic extents of the shape with a declared upper bound, and the bound.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    upper: int | None = None
    limits: tuple[tuple[str, int], ...] = ()

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbolic extents, in order."""
        return tuple(extent for extent in self.shape if isinstance(extent, str))


@dataclass
class ImportedModel:
    """A model in Relax.

    Attributes
    ----------
    name : str
        A short name fit for files and tables.
    mod : tvm.IRModule
        The Relax function "main", its parameters bound as constants, and the PrimFuncs it calls
        (the importer writes an operator that Relax lacks as one).
    inputs, outputs : list of TensorSpec
        In the order of main's parameters and results.
    operators : int
        Operator calls in main once dead shape arithmetic is folded.
    onnx_model : onnx.ModelProto or None
        The graph with its weights, as the reference runs it; None for other sources.
    """

    name: str
    mod: tvm.IRModule
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    operators: int
    onnx_model: onnx.ModelProto | None = field(default=None, repr=False)


def fold(mod: tvm.IRModule) -> tvm.IRModule:
    """Evaluate what depends on constants alone and drop what nothing uses."""
    return tvm.transform.Sequential(
        [relax.transform.FoldConstant(), relax.transform.DeadCodeElimination()]
    )(mod)


def count_operators(mod: tvm.IRModule) -> int:
    """Operator calls in main, calls of PrimFuncs included."""
    calls = 0

    def visit(expr: object) -> None:
        nonlocal calls
        calls += isinstance(expr, tvm.ir.Call) and isinstance(expr.op, tvm.ir.Op)

    relax.analysis.post_order_visit(mod["main"], visit)
    return calls


def input_specs(
    function: relax.Function, names: list[str], upper: dict[str, int] | None = None
) -> list[TensorSpec]:
    """Specifications of main's parameters under the names of the source graph."""
    bounds, limits = upper or {}, extent_limits(function)
    specs = [
        _spec("input", name, param.ty, bounds.get(name))
        for name, param in zip(names, function.params, strict=True)
    ]
    return [
        replace(
            spec, limits=tuple((s, limits[s]) for s in dict.fromkeys(spec.symbols) if s in limits)
        )
        for spec in specs
    ]


def extent_limits(function: relax.Function) -> dict[str, int]:
    """Declared upper bounds of the function's symbolic extents, by name."""
    declared = function.attrs.get(EXTENT_LIMITS) if function.attrs else None
    return {str(name): int(limit) for name, limit in (declared or {}).items()}


def output_specs(function: relax.Function, names: list[str] | None = None) -> list[TensorSpec]:
    """Specifications of main's results; unnamed ones are called output, or output_0 and so on."""
    result = function.ret_ty
    fields = list(result.fields) if isinstance(result, relax.TupleType) else [result]
    if names is None:
        names = ["output"] if len(fields) == 1 else [f"output_{i}" for i in range(len(fields))]
    return [_spec("output", name, ty, None) for name, ty in zip(names, fields, strict=True)]


def _spec(role: str, name: str, ty: tvm.ir.Type, upper: int | None) -> TensorSpec:
    if not isinstance(ty, relax.TensorType):
        raise ModelError(
            f"{role} '{name}' is no tensor ({ty}); every {role} of the model must be a tensor."
        )
    if ty.shape is None or ty.dtype is None:
        raise ModelError(
            f"{role} '{name}' has no known shape or dtype ({ty}): its extents depend on values "
            "computed at run time, which cannot be compiled. Give static shapes for the inputs."
        )
    extents = tuple(
        int(extent) if isinstance(extent, tvm.tirx.IntImm) else str(extent)
        for extent in ty.shape.values
    )
    return TensorSpec(name, extents, str(ty.dtype), upper)
