"""Maxima and minima of infinite elements, and what is no extreme."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from relax_graphs import graph
from tvm import relax
from tvm.relax import op
from tvm.s_tir import SBlock
from tvm_ffi import structural_walk

import smartmem_tvm
from smartmem_tvm.passes import LegaliseExtremes


@pytest.mark.parametrize("kind", ["max", "min"])
def test_extremes_of_infinite_elements(kind, opencl_device):
    x = np.array([[-np.inf] * 5, [np.inf] * 5, [-np.inf, 1, 2, np.inf, 3]], "float32")
    mod = graph(lambda a: getattr(op, kind)(a, axis=[1]), x.shape)
    (made,) = smartmem_tvm.compile(mod).run([x]).values()
    np.testing.assert_array_equal(made, getattr(x, kind)(axis=1))


def initial(func):
    """Initial value of each block that has one."""
    found = []
    structural_walk(func.body, (SBlock, found.append))
    return [block.init.value.value for block in found if block.init is not None]


def test_softmax_starts_at_minus_infinity():
    mod = LegaliseExtremes()(graph(op.nn.softmax, (4, 8)))
    (func,) = (f for f in mod.functions.values() if not isinstance(f, relax.Function))
    assert initial(func) == [-np.inf, 0.0]


@pytest.mark.parametrize(("kind", "dtype"), [("max", "int32"), ("sum", "float32")])
def test_others_stay(kind, dtype):
    mod = graph(lambda a: getattr(op, kind)(a, axis=[1]), ((4, 5), dtype))
    tvm.ir.assert_structural_equal(LegaliseExtremes()(mod), mod)
