"""Traffic of whole modules: footprint and compulsory bytes of one inference.

Both read a Relax module between ``LegalizeOps`` and the lowering to VM instructions: operators are
``call_tir`` of PrimFuncs. Before the schedule a PrimFunc counts as one launch, after it as the
launches that it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax
from tvm.ir.expr import GenericConst

from ..errors import SmartMemError
from .footprint import Footprint, footprint_of, footprint_of_launch
from .kernels import count_calls, kernel_names
from .launches import Launch, find_launches, is_host_function
from .traffic_accesses import static_extents


@dataclass(frozen=True)
class KernelFootprint:
    """Footprint of one kernel.

    Attributes
    ----------
    name
        The OpenCL kernel, or the PrimFunc when it is not scheduled yet.
    calls
        Launches in one inference.
    read, written
        Unique bytes of one launch; None when a shape is symbolic.
    exact
        False where accesses depend on data and the numbers are upper bounds.
    """

    name: str
    calls: int
    read: int | None
    written: int | None
    exact: bool

    @property
    def bytes(self) -> int | None:
        """Bytes of one launch, read and written together."""
        if self.read is None or self.written is None:
            return None
        return self.read + self.written


@dataclass(frozen=True)
class FootprintTraffic:
    """Footprint of a module: per kernel, and of one inference (None when a shape is symbolic)."""

    total: int | None
    exact: bool
    kernels: tuple[KernelFootprint, ...]


@dataclass(frozen=True)
class CompulsoryTraffic:
    """Bytes that any implementation moves at least once; None where a shape is symbolic."""

    inputs: int | None
    parameters: int
    outputs: int | None

    @property
    def total(self) -> int | None:
        """Inputs, parameters and outputs together."""
        if self.inputs is None or self.outputs is None:
            return None
        return self.inputs + self.parameters + self.outputs


def footprint(module: tvm.IRModule, entry: str = "main") -> FootprintTraffic:
    """Unique bytes that each launch reads and writes, summed over the launches of one inference.

    Parameters
    ----------
    module
        Relax module whose operators are ``call_tir``, scheduled or not. Reshapes that cost nothing
        should be views already (after the stage ``"verify"`` of the pipeline they are).
    entry
        The Relax function that makes one inference.

    Raises
    ------
    SmartMemError
        If the entry function is missing.
    """
    _check_entry(module, entry)
    names = kernel_names(module)
    kernels: list[KernelFootprint] = []
    for func_name, calls in count_calls(module, entry).items():
        func = module[func_name]
        launches = find_launches(func)
        if not launches:
            if not is_host_function(func):
                kernels.append(_describe(func_name, calls, footprint_of(func.body)))
            continue
        for number, (name, launch) in enumerate(zip(names[func_name], launches, strict=True)):
            found = footprint_of_launch(func, launches, number)
            kernels.append(_describe(name, calls * _rounds(launch), found))
    total: int | None = 0
    for kernel in kernels:
        total = (
            None if total is None or kernel.bytes is None else total + kernel.calls * kernel.bytes
        )
    return FootprintTraffic(total, all(kernel.exact for kernel in kernels), tuple(kernels))


def _rounds(launch: Launch) -> int:
    """Launches in one call; a host loop without a constant extent counts as one round."""
    return 1 if launch.repeats is None else max(0, launch.repeats)


def _describe(name: str, calls: int, found: Footprint | None) -> KernelFootprint:
    if found is None:
        return KernelFootprint(name, calls, None, None, False)
    return KernelFootprint(name, calls, found.read, found.written, found.exact)


def compulsory(
    module: tvm.IRModule, entry: str = "main", dtype: str = "float32"
) -> CompulsoryTraffic:
    """Bytes of the model's inputs, parameters and outputs, each once.

    Parameters
    ----------
    module
        The model, best as it was imported: a pass may copy or fold parameters. Constants and
        parameters after ``num_input`` are its parameters.
    entry
        The Relax function that makes one inference.
    dtype
        What floating-point parameters are stored in; inputs and outputs keep their type.

    Raises
    ------
    SmartMemError
        If the entry function is missing.
    """
    _check_entry(module, entry)
    func = module[entry]
    count = int(func.attrs.get("num_input", len(func.params)) or 0) if func.attrs else None
    count = len(func.params) if count is None else count
    constants: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, GenericConst) and not any(
            node.value.same_as(c.value) for c in constants
        ):
            constants.append(node)

    relax.analysis.post_order_visit(func, visit)
    parameters = sum(
        _stored(shape or (), own, dtype) for c in constants for shape, own in _tensors(c.ty)
    )
    for param in func.params[count:]:
        for shape, own in _tensors(param.ty):
            if shape is None:
                raise SmartMemError(
                    f"parameter '{param.name_hint}' has a symbolic shape, so its bytes are unknown"
                )
            parameters += _stored(shape, own, dtype)
    inputs = [tensor for param in func.params[:count] for tensor in _tensors(param.ty)]
    return CompulsoryTraffic(_sum(inputs), parameters, _sum(_tensors(func.ret_ty)))


def _check_entry(module: tvm.IRModule, entry: str) -> None:
    if not any(gv.name_hint == entry for gv in module.get_global_vars()):
        known = ", ".join(sorted(gv.name_hint for gv in module.get_global_vars())) or "none"
        raise SmartMemError(f"the module has no function '{entry}'; it has: {known}")


def _stored(shape: tuple[int, ...], own: str, dtype: str) -> int:
    chosen = dtype if own in ("float16", "float32") else own
    size = 1
    for extent in shape:
        size *= int(extent)
    return size * tvm.DataType(chosen).itemsize


def _tensors(ty: Any) -> list[tuple[tuple[int, ...] | None, str]]:
    """Shapes and dtypes of a tensor type, or of the tensors in a tuple type."""
    if isinstance(ty, tvm.ir.TupleType):
        return [tensor for field in ty.fields for tensor in _tensors(field)]
    if not isinstance(ty, relax.TensorType):
        return []
    extents = static_extents(ty.shape.values) if isinstance(ty.shape, relax.ShapeExpr) else None
    return [(extents, str(getattr(ty.dtype, "dtype", ty.dtype)))]


def _sum(tensors: list[tuple[tuple[int, ...] | None, str]]) -> int | None:
    if any(shape is None for shape, _ in tensors):
        return None
    return sum(_stored(shape or (), dtype, dtype) for shape, dtype in tensors)
