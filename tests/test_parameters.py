from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir.expr import GenericConst
from tvm.relax.backend.gpu_generic import dataflow_lower_passes, finalize_passes

from smartmem_tvm.parameters import BIND, lift_parameters

TARGET = tvm.target.Target("llvm")


def lowered(build):
    """A module of one function, lowered for the virtual machine on the host."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4, 32), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(build(builder, x))
        builder.emit_func_output(result)
    passes = [relax.transform.LegalizeOps()]
    passes += dataflow_lower_passes(TARGET) + finalize_passes(TARGET)
    with TARGET:
        return tvm.transform.Sequential(passes)(builder.get())


def run(mod, x, parameters):
    executable = relax.build(mod, TARGET, relax_pipeline=tvm.transform.Sequential([]))
    machine = relax.VirtualMachine(executable, [tvm.cpu()])
    return machine, machine["main"](tvm.runtime.tensor(x), list(parameters.values()))


def constants(mod):
    found = []

    def visit(expr):
        if isinstance(expr, GenericConst) and isinstance(expr.value, tvm.runtime.Tensor):
            found.append(expr.value)

    relax.analysis.post_order_visit(mod["main"], visit)
    return found


def test_constants_become_one_tuple_each_value_once():
    bias = np.arange(32, dtype=np.float32)
    weight = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)

    def build(builder, x):
        b = relax.const(bias)
        h = builder.emit(relax.op.matmul(x, relax.const(weight)))
        h = builder.emit(relax.op.add(h, b))
        h = builder.emit(relax.op.add(h, b))  # the same constant again
        return relax.Tuple([h, b])  # and as an output

    mod, parameters = lift_parameters(lowered(build))
    assert sorted(value.shape for value in parameters.values()) == [(32,), (32, 32)]
    assert constants(mod) == []
    x = np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)
    machine, (result, returned) = run(mod, x, parameters)
    np.testing.assert_allclose(result.numpy(), x @ weight + 2 * bias, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(returned.numpy(), bias)
    bound = machine[BIND](*parameters.values())
    assert [tensor.shape for tensor in bound] == [v.shape for v in parameters.values()]


def test_small_constants_stay():
    small = np.float32([1, 2, 3, 4])[:, None]
    mod, parameters = lift_parameters(
        lowered(lambda builder, x: builder.emit(relax.op.multiply(x, relax.const(small))))
    )
    assert parameters == {}
    assert [value.shape for value in constants(mod)] == [(4, 1)]
    x = np.ones((4, 32), np.float32)
    machine, result = run(mod, x, parameters)
    np.testing.assert_array_equal(result.numpy(), x * small)
    assert len(machine[BIND]()) == 0


def test_the_module_given_is_not_changed():
    mod = lowered(
        lambda builder, x: builder.emit(relax.op.add(x, relax.const(np.ones((4, 32), "f"))))
    )
    before = mod.script(show_meta=True)
    lift_parameters(mod)
    assert mod.script(show_meta=True) == before
