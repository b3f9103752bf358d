"""Arithmetic on integers of 8 and 16 bits overflows where it should, in one kernel too."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from relax_graphs import graph
from tvm import relax
from tvm.relax import op

import smartmem_tvm
from smartmem_tvm.passes import LegaliseNarrowIntegers


def sample(dtype, seed):
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, 64).astype(dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_intermediate_results_overflow(dtype, opencl_device):
    """The sum, product and difference are halved before anything is stored."""
    a, b = sample(dtype, 0), sample(dtype, 1)
    two = relax.const(1, dtype)
    for operator, numpy_operator in (
        (op.add, np.add),
        (op.subtract, np.subtract),
        (op.multiply, np.multiply),
    ):
        mod = graph(
            lambda x, y, o=operator: op.right_shift(o(x, y), two), ((64,), dtype), ((64,), dtype)
        )
        (made,) = smartmem_tvm.compile(mod).run([a, b]).values()
        np.testing.assert_array_equal(made, numpy_operator(a, b) >> np.array(1, dtype))


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_remainder_compiles(dtype, opencl_device):
    a, b = sample(dtype, 0), sample(dtype, 1) | 1
    mod = graph(op.floor_mod, ((64,), dtype), ((64,), dtype))
    (made,) = smartmem_tvm.compile(mod).run([a, b]).values()
    np.testing.assert_array_equal(made, np.mod(a, b))


def test_negation_of_bits(opencl_device):
    a = sample("uint8", 0)
    mod = graph(
        lambda x: op.right_shift(op.bitwise_not(x), relax.const(1, "uint8")), ((64,), "uint8")
    )
    (made,) = smartmem_tvm.compile(mod).run([a]).values()
    np.testing.assert_array_equal(made, ~a >> np.uint8(1))


def test_wide_types_stay():
    mod = graph(lambda x, y: op.add(op.multiply(x, y), y), ((8,), "int32"), ((8,), "int32"))
    tvm.ir.assert_structural_equal(LegaliseNarrowIntegers()(mod), mod)
