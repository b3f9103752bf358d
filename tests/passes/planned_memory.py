"""Modules with planned memory: their storages, their values, and what each storage holds."""

from __future__ import annotations

from math import prod

import numpy as np
import tvm
from relax_graphs import HOST
from tvm import relax

from smartmem_tvm.passes import PlanMemory

GENERIC = relax.backend.gpu_generic
STORAGE, PLACED, ALONE = (
    tvm.ir.Op.get(f"relax.{name}")
    for name in ("memory.alloc_storage", "memory.alloc_tensor", "builtin.alloc_tensor")
)
TVM = relax.transform.StaticPlanBlockMemory


def with_allocations(mod):
    with HOST:
        return tvm.transform.Sequential(GENERIC.dataflow_lower_passes(HOST))(mod)


def planned(mod, make=PlanMemory):
    after = make()(with_allocations(mod))
    relax.analysis.well_formed(after)
    return after


def calls(func, wanted):
    found = []

    def visit(node):
        if isinstance(node, relax.Call) and node.op.same_as(wanted):
            found.append(node)

    relax.analysis.post_order_visit(func, visit)
    return found


def storages(mod, name="main"):
    """Bytes of each storage; an expression where they are not constant."""
    return [
        int(size) if isinstance(size, tvm.tirx.IntImm) else size
        for call in calls(mod[name], STORAGE)
        for size in call.args[0].values
    ]


def run_on_host(mod, *inputs):
    """Outputs of a planned module."""
    passes = [p for p in GENERIC.finalize_passes(HOST) if "Static" not in p.info.name]
    with HOST:
        lowered = tvm.transform.Sequential(passes)(mod)
        built = relax.build(lowered, HOST, relax_pipeline=tvm.transform.Sequential([]))
    machine = relax.VirtualMachine(built, tvm.cpu())
    made = machine["main"](*[tvm.runtime.tensor(value) for value in inputs])
    return [part.numpy() for part in ([made] if hasattr(made, "numpy") else made)]


class Replay:
    """Goes through a planned function and notes which tensor each storage holds.

    A tensor is written by the first call that it is given to; from then on, a call with it must
    find it in its storage.
    """

    def __init__(self, func):
        self.names, self.sizes, self.content, self.written = {}, {}, {}, set()
        for block in func.body.blocks:
            for binding in block.bindings:
                self.names[binding.var] = self.value(binding.var, binding.value)
        for tensor in self.leaves(self.value(None, func.body.body)):
            self.find(tensor)

    def value(self, var, value):
        if isinstance(value, relax.Tuple):
            return [self.value(None, field) for field in value.fields]
        if isinstance(value, relax.TupleGetItem):
            return self.value(None, value.tuple_value)[int(value.index)]
        if not isinstance(value, relax.Call):
            return self.names.get(value) if isinstance(value, relax.Var) else None
        if value.op.same_as(STORAGE):
            self.sizes[var] = prod(int(extent) for extent in value.args[0].values)
            return None
        if value.op.same_as(PLACED):
            storage, offset, shape, dtype, _ = value.args
            needed = prod(int(e) for e in shape.values) * np.dtype(dtype.value).itemsize
            assert int(offset) == 0
            assert needed <= self.sizes[storage]
            return (var, storage)
        if value.op.same_as(ALONE):
            return (var, var)
        if isinstance(value.op, tvm.ir.GlobalVar):
            for argument in value.args:
                for tensor in self.leaves(self.value(None, argument)):
                    self.find(tensor)
            return None
        return self.value(None, value.args[0])  # a view

    def leaves(self, held):
        if isinstance(held, list):
            return [leaf for field in held for leaf in self.leaves(field)]
        return [] if held is None else [held]

    def find(self, tensor):
        var, storage = tensor
        if var not in self.written:
            self.written.add(var)
            self.content[storage] = var
        assert self.content[storage].same_as(var), f"{var} was overwritten"
