"""Scatters on the device, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op

import smartmem_tvm
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.passes import LegaliseScatters

COMBINE = {
    "update": lambda _old, new: new,
    "add": np.add,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
}


def module(scatter, *inputs, **options):
    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"x{number}", relax.TensorType(list(shape), dtype))
        for number, (shape, dtype) in enumerate(inputs)
    ]
    with builder.function("main", params):
        with builder.dataflow():
            made = builder.emit_output(scatter(*params, **options))
        builder.emit_func_output(made)
    return builder.get()


def run(scatter, *arrays, **options):
    mod = module(scatter, *((array.shape, str(array.dtype)) for array in arrays), **options)
    (made,) = smartmem_tvm.compile(mod).run(list(arrays)).values()
    return made


def scattered_nd(data, indices, updates, reduction):
    result = data.copy()
    for place in np.ndindex(indices.shape[:-1]):
        at = tuple(indices[place])
        result[at] = COMBINE[reduction](result[at], updates[place])
    return result


def scattered_elements(data, indices, updates, axis, reduction):
    result = data.copy()
    for place in np.ndindex(indices.shape):
        at = list(place)
        at[axis] = indices[place]
        result[tuple(at)] = COMBINE[reduction](result[tuple(at)], updates[place])
    return result


@pytest.mark.parametrize("reduction", COMBINE)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_nd(depth, reduction, opencl_device):
    """With indices that occur twice: they are applied in their order."""
    rng = np.random.default_rng(depth)
    data = rng.standard_normal((4, 5, 3)).astype("float32")
    indices = rng.integers(0, data.shape[:depth], (2, 6, depth)).astype("int64")
    updates = rng.standard_normal((2, 6, *data.shape[depth:])).astype("float32")
    made = run(op.scatter_nd, data, indices, updates, reduction=reduction)
    np.testing.assert_allclose(made, scattered_nd(data, indices, updates, reduction), rtol=1e-5)


@pytest.mark.parametrize("reduction", COMBINE)
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("part", [(2, 5, 3), (2, 2, 2), (4, 1, 3)])
def test_scatter_elements(part, axis, reduction, opencl_device):
    """Of all lines and of some, with negative indices."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((4, 5, 3)).astype("float32")
    extent = data.shape[axis]
    indices = rng.integers(-extent, extent, part).astype("int64")
    updates = rng.standard_normal(part).astype("float32")
    made = run(op.scatter_elements, data, indices, updates, axis=axis, reduction=reduction)
    wanted = scattered_elements(data, indices, updates, axis, reduction)
    np.testing.assert_allclose(made, wanted, rtol=1e-5)


def test_unknown_part_is_refused():
    lines = tvm.tirx.Var("n", "int64")
    mod = module(
        op.scatter_elements,
        ((4, 5), "float32"),
        ((lines, 5), "int64"),
        ((lines, 5), "float32"),
        axis=1,
    )
    with pytest.raises(SmartMemError, match="the indices' shape must be known"):
        LegaliseScatters()(mod)


def test_scatter_of_whole_lines_stays():
    mod = module(
        op.scatter_elements, ((4, 5), "float32"), ((4, 2), "int64"), ((4, 2), "float32"), axis=1
    )
    tvm.ir.assert_structural_equal(LegaliseScatters()(mod), mod)
