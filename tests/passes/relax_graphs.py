"""Small Relax modules, what passes make of them, and their values on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from smartmem_tvm.analysis.decisions import Decision, read_decisions
from smartmem_tvm.analysis.layout_class import classify
from smartmem_tvm.passes import EliminateLayoutTransforms, FuseOperators, MergeParallelOperators

CALL_TIR = tvm.ir.Op.get("relax.call_tir")
HOST = tvm.target.Target("llvm")
STAGE = (EliminateLayoutTransforms, MergeParallelOperators, FuseOperators)


def graph(body: Callable[..., Any], *inputs: Any) -> tvm.IRModule:
    """Module of PrimFuncs: what :func:`module` makes, legalised."""
    return legalised(module(body, *inputs))


def module(body: Callable[..., Any], *inputs: Any) -> tvm.IRModule:
    """Module of operators: ``main`` of inputs x0, x1, … returns what `body` makes of them.

    An input is a shape, of float32, or a shape and a dtype; a body that returns a tuple makes a
    function with several outputs.
    """
    builder = relax.BlockBuilder()
    types = [
        relax.TensorType(list(i[0]), i[1])
        if len(i) == 2 and isinstance(i[1], str)
        else relax.TensorType(list(i), "float32")
        for i in inputs
    ]
    params = [relax.Var(f"x{number}", ty) for number, ty in enumerate(types)]
    with builder.function("main", params):
        with builder.dataflow():
            made = body(*params)
            made = builder.emit(relax.Tuple(list(made)) if isinstance(made, tuple) else made)
            made = builder.emit_output(made)
        builder.emit_func_output(made)
    return builder.get()


def legalised(mod: tvm.IRModule) -> tvm.IRModule:
    """Module of PrimFuncs that computes what a module of operators does."""
    passes = [
        relax.transform.CanonicalizeBindings(),
        relax.transform.LegalizeOps(),
        relax.transform.DeadCodeElimination(),
        relax.transform.CanonicalizeBindings(),
    ]
    with HOST:
        return tvm.transform.Sequential(passes)(mod)


def const(value: Any, dtype: str = "float32") -> relax.Constant:
    """Constant tensor."""
    return relax.const(np.asarray(value, dtype), dtype)


def apply(mod: tvm.IRModule, *passes: Any) -> tvm.IRModule:
    """Module after the passes, which must be well formed after each."""
    for make in passes:
        mod = (make() if isinstance(make, type) else make)(mod)
        relax.analysis.well_formed(mod)
    return relax.transform.DeadCodeElimination()(mod)


def calls(mod: tvm.IRModule) -> list[Any]:
    """Every ``call_tir`` of ``main``."""
    return [
        binding.value
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and binding.value.op.same_as(CALL_TIR)
    ]


def kernels(mod: tvm.IRModule) -> list[tirx.PrimFunc]:
    """Function of every ``call_tir`` of ``main``."""
    return [mod[call.args[0]] for call in calls(mod)]


def classes(mod: tvm.IRModule) -> list[str]:
    """Layout class of every ``call_tir`` of ``main``."""
    return [classify(func).layout_class.value for func in kernels(mod)]


def decisions(mod: tvm.IRModule, kind: str) -> list[Decision]:
    """What was decided of the operators whose function has that name, bar numbers."""
    return [d for d in read_decisions(mod) if d.kind.rstrip("0123456789") == kind]


def fates(mod: tvm.IRModule, kind: str) -> list[str]:
    """Fates of the operators whose function has that name."""
    return [decision.fate for decision in decisions(mod, kind)]


def random_feed(mod: tvm.IRModule, **symbols: int) -> list[np.ndarray]:
    """Random inputs of ``main``: floats around 0, integers from 0 to 3."""
    rng = np.random.default_rng(0)
    feed = []
    for param in mod["main"].params:
        shape = [
            int(d) if isinstance(d, tirx.IntImm) else symbols[d.name] for d in param.ty.shape.values
        ]
        dtype = str(param.ty.dtype)
        made = rng.integers(0, 4, shape) if dtype.startswith("int") else rng.standard_normal(shape)
        feed.append(np.asarray(made, dtype))
    return feed


def host_outputs(mod: tvm.IRModule, feed: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of ``main`` as TVM's own lowering computes them on the host."""
    passes = [
        *relax.backend.gpu_generic.dataflow_lower_passes(HOST),
        *relax.backend.gpu_generic.finalize_passes(HOST),
    ]
    with HOST:
        lowered = tvm.transform.Sequential(passes)(mod)
        built = relax.build(lowered, HOST, relax_pipeline=tvm.transform.Sequential([]))
    machine = relax.VirtualMachine(built, tvm.cpu())
    made = machine["main"](*[tvm.runtime.tensor(value) for value in feed])
    return [part.numpy() for part in ([made] if hasattr(made, "numpy") else made)]


def assert_same_values(before: tvm.IRModule, after: tvm.IRModule, **symbols: int) -> None:
    """Check that two modules compute the same outputs for random inputs."""
    feed = random_feed(before, **symbols)
    expected, actual = host_outputs(before, feed), host_outputs(after, feed)
    assert len(expected) == len(actual)
    for one, other in zip(expected, actual, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


def transformed(mod: tvm.IRModule, *passes: Any, **symbols: int) -> tvm.IRModule:
    """Module after the passes (elimination, merging and fusion if none), checked on the host."""
    after = apply(mod, *(passes or STAGE))
    assert_same_values(mod, after, **symbols)
    return after
