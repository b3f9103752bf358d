"""What it costs to compute a value where it is read instead of storing it."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_walk

from smartmem_tvm.analysis.computation import count_points
from smartmem_tvm.analysis.expressions import loads_of, uses
from smartmem_tvm.analysis.layout_class import IF_THEN_ELSE

from ._graph import Node

# Operations: a transcendental function counts as this many additions, a division as those, and a
# byte of global memory as these (the ratio of peak to bandwidth of the devices in devices/).
FUNCTION, DIVISION, BYTE = 16, 4, 8
# Contractions read an element into registers once for so many results, vectors an index.
REUSE = 8
# How much dearer recomputation may be than a kernel of its own: the kernel also costs a launch and
# the bandwidth that its neighbours want.
PATIENCE = 16
# A launch, in operations.
LAUNCH = 20_000
LARGEST = 400


def weight(expr: Any) -> int:
    """Operations in an expression, the loads' indices not counted."""
    total = 0

    def visit(node: Any) -> None:
        nonlocal total
        if isinstance(node, tirx.Div | tirx.FloorDiv | tirx.FloorMod):
            total += DIVISION
        elif isinstance(node, tvm.ir.Call) and not node.op.same_as(IF_THEN_ELSE):
            total += FUNCTION
        else:
            total += 1

    kinds = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min, tvm.ir.Call, TensorLoad)
    structural_walk(expr, (kinds, visit))
    return total


def recomputation_is_cheaper(node: Node, readers: list[Node]) -> str | None:
    """None when the node's value is better computed in its readers, else why not."""
    (stage,) = node.stages
    (store,) = stage.stores
    elements = count_points(stage.axes)
    if elements is None:
        return None
    cost = weight(store.value)
    evaluations = sum(_evaluations(reader, node.outputs[0]) for reader in readers)
    extra = cost * (evaluations - elements)
    itemsize = tirx.const(0, node.outputs[0].dtype).ty.dtype.itemsize
    own = LAUNCH + elements * (2 * itemsize * BYTE + cost)
    if extra > PATIENCE * own:
        return (
            f"recomputed in its readers it would cost {extra} operations, a kernel of its own "
            f"{own} (the limit is {PATIENCE} times that)"
        )
    for reader in readers:
        copies = sum(
            1 for s in reader.stages for load in s.loads() if load.source.same_as(node.outputs[0])
        )
        grown = copies * cost + sum(weight(st.value) for s in reader.stages for st in s.stores)
        if grown > LARGEST:
            return f"the expressions in '{reader.name}' would grow to {grown} operations"
    return None


def _evaluations(reader: Node, buffer: Any) -> int:
    total = 0
    for stage in reader.stages:
        loads = [load for store in stage.stores for load in _direct(store.value, buffer)]
        if not loads:
            continue
        axes = list(stage.axes)
        index_only = all(_only_in_indices(store.value, buffer) for store in stage.stores)
        if index_only:  # known before the loops over what it does not depend on
            indices = [index for load in loads for index in load.indices]
            axes = [a for a in axes if not a.reduced or any(uses(i, a.var) for i in indices)]
        points = count_points(axes) or 0
        sources = {load.source for load in stage.loads()}
        if stage.is_reduction and len(sources) > 1:
            points //= REUSE
        if index_only:
            points //= REUSE
        total += points
    return total


def _only_in_indices(value: Any, buffer: Any) -> bool:
    """Whether it only says which elements are read: the lanes of a work-item share that."""
    inside = [
        load for outer in loads_of(value) for i in outer.indices for load in _direct(i, buffer)
    ]
    return len(inside) >= len(_direct(value, buffer))


def _direct(value: Any, buffer: Any) -> list[TensorLoad]:
    return [load for load in loads_of(value) if load.source.same_as(buffer)]
