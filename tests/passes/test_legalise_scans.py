"""Running sums and products on the device, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op

import smartmem_tvm
from smartmem_tvm.analysis import find_launches
from smartmem_tvm.passes import LegaliseScans

OPENCL = tvm.target.Target("opencl", host="llvm")


def module(scan, shape, element="float32", **options):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(list(shape), element))
    with builder.function("main", [x]):
        with builder.dataflow():
            made = builder.emit_output(scan(x, **options))
        builder.emit_func_output(made)
    return builder.get()


def run(mod, x):
    (made,) = smartmem_tvm.compile(mod).run([x]).values()
    return made


def expected(x, numpy_scan, axis, exclusive, dtype):
    made = numpy_scan(x, axis=axis, dtype=dtype)
    if not exclusive:
        return made
    if axis is None:
        made, axis = made.reshape(-1), 0
    first = np.full_like(np.take(made, [0], axis), numpy_scan is np.cumprod)
    return np.concatenate([first, np.delete(made, -1, axis)], axis)


@pytest.mark.parametrize("exclusive", [False, True], ids=["inclusive", "exclusive"])
@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("kind", ["cumsum", "cumprod"])
def test_scans(kind, axis, exclusive, opencl_device):
    x = np.random.default_rng(0).uniform(0.5, 1.5, (5, 7, 3)).astype("float32")
    mod = module(getattr(op, kind), x.shape, axis=axis, exclusive=exclusive)
    wanted = expected(x, getattr(np, kind), axis, exclusive, "float32")
    np.testing.assert_allclose(run(mod, x), wanted, rtol=1e-5)


def test_long_lines_and_many(opencl_device):
    for shape, axis in (((3, 3000), 1), ((3000, 3), 0), ((200, 4, 5), 1)):
        x = np.random.default_rng(0).integers(-9, 9, shape).astype("int32")
        made = run(module(op.cumsum, shape, "int32", axis=axis), x)
        np.testing.assert_array_equal(made, np.cumsum(x, axis, dtype="int32"))


def test_sums_are_formed_in_the_type_asked_for(opencl_device):
    x = np.full((4, 100), 100, "int8")
    made = run(module(op.cumsum, x.shape, "int8", axis=1, dtype="int32"), x)
    np.testing.assert_array_equal(made, np.cumsum(x, 1, dtype="int32"))


def test_one_scheduled_launch():
    with OPENCL:
        after = LegaliseScans()(module(op.cumsum, (4, 5), axis=0))
    relax.analysis.well_formed(after)
    (func,) = (f for f in after.functions.values() if not isinstance(f, relax.Function))
    assert len(find_launches(func)) == 1
    assert "R.cumsum" not in after.script()


def test_other_operators_stay():
    mod = module(op.sort, (4, 5))
    tvm.ir.assert_structural_equal(LegaliseScans()(mod), mod)


def test_symbolic_shape(opencl_device):
    length = tvm.tirx.Var("n", "int64")
    mod = module(op.cumsum, (length, 3), axis=0)
    with OPENCL:
        after = LegaliseScans()(mod)
    relax.analysis.well_formed(after)
