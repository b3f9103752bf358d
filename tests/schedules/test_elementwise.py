"""Elementwise: values, copies through index maps, gathers and conditions against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
from schedule_helpers import check, normal, schedule, source_of
from tvm import te, topi

SHAPES = [(1,), (7,), (5, 7, 3), (64, 48), (1, 3, 64, 64)]


@pytest.mark.parametrize("shape", SHAPES)
def test_broadcast_and_relu(shape, opencl_device):
    a, b = te.placeholder(shape), te.placeholder(shape[-1:])
    func = te.create_prim_func([a, b, topi.nn.relu(topi.add(a, b))])
    x, y = normal(*shape), normal(shape[-1], seed=1)
    check(func, [x, y], [np.maximum(x + y, 0)], opencl_device, rule="Elementwise")


@pytest.mark.parametrize("shape", SHAPES)
def test_transposed_functions(shape, opencl_device):
    a = te.placeholder(shape)
    t = topi.transpose(a)
    func = te.create_prim_func([a, topi.multiply(topi.erf(t), topi.exp(t))])
    x = normal(*shape)
    want = (np.vectorize(math.erf)(x.T) * np.exp(x.T)).astype("float32")
    check(func, [x], [want], opencl_device, rule="Elementwise")


@pytest.mark.parametrize("shape", SHAPES)
def test_padding(shape, opencl_device):
    a = te.placeholder(shape)
    func = te.create_prim_func([a, topi.nn.pad(a, [1] * len(shape), [2] * len(shape), 0.5)])
    x = normal(*shape)
    want = np.pad(x, [(1, 2)] * len(shape), constant_values=0.5)
    check(func, [x], [want], opencl_device, rule="Elementwise")


@pytest.mark.parametrize("shape", SHAPES)
def test_choice_by_value(shape, opencl_device):
    a = te.placeholder(shape)
    func = te.create_prim_func([a, topi.where(topi.greater(a, 0.0), a, topi.multiply(a, 0.1))])
    x = normal(*shape)
    want = np.where(x > 0, x, x * np.float32(0.1))
    check(func, [x], [want], opencl_device, rule="Elementwise")


def test_integers_and_casts(opencl_device):
    a = te.placeholder((3, 33))
    func = te.create_prim_func([a, topi.cast(topi.add(topi.cast(a, "int32"), 1), "float32")])
    x = normal(3, 33) * 5
    check(func, [x], [(x.astype("int32") + 1).astype("float32")], opencl_device)


def test_gather_by_data(opencl_device):
    a, i = te.placeholder((11, 33)), te.placeholder((7,), dtype="int64")
    func = te.create_prim_func([a, i, topi.multiply(topi.take(a, i, 0, mode="clip"), 2.0)])
    x, at = normal(11, 33), np.array([0, 10, 3, 3, 9, 1, 5])
    check(func, [x, at], [x[at] * 2], opencl_device, rule="Elementwise")


def test_two_outputs(opencl_device):
    a = te.placeholder((9, 20))
    func = te.create_prim_func([a, topi.exp(a), topi.nn.relu(a)])
    x = normal(9, 20)
    check(func, [x], [np.exp(x), np.maximum(x, 0)], opencl_device, rule="Elementwise")


def test_flat_axes_have_no_divisions():
    a, b = te.placeholder((1, 6, 14, 14)), te.placeholder((1, 6, 14, 14))
    _, source = source_of(schedule(te.create_prim_func([a, b, topi.add(a, b)])))
    assert "%" not in source
    assert "vstore16" in source


@pytest.mark.parametrize("shape", [(1,), (37,), (4, 64)])
def test_booleans_are_not_vectors(shape, opencl_device):
    a = te.placeholder(shape, dtype="int64")
    negative = te.compute(shape, lambda *i: a(*i) < tvm.tirx.const(0, "int64"))
    func = te.create_prim_func([a, negative, topi.logical_not(negative)])
    x = np.random.default_rng(0).integers(-3, 3, shape)
    check(func, [x], [x < 0, x >= 0], opencl_device, rule="Elementwise")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("shape", [(25,), (5, 5), (4, 64)])
def test_bytes_are_not_vectors(shape, dtype, opencl_device):
    a = te.placeholder(shape, dtype)
    func = te.create_prim_func([a, te.compute(shape, lambda *i: a(*i).astype(dtype))])
    x = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    check(func, [x], [x], opencl_device, rule="Elementwise")
