"""Kernels that read and write images: right on the device, and by whole texels."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from tvm.script import tirx as T

from smartmem_tvm.analysis.fused_kernel import read_kernel
from smartmem_tvm.analysis.texels import axis_of_texels, split_texels
from smartmem_tvm.devices import load_profile
from smartmem_tvm.pipeline import register
from smartmem_tvm.schedules import ApplySchedules, own_rules

RNG = np.random.default_rng(0)


def image(rows, columns):
    return T.Buffer((1, rows, columns // 4, 4), scope="global.texture")


# fmt: off


def product(m, k, n):
    @T.prim_func(s_tir=True)
    def func(A: image(m, k), B: T.Buffer((k, n)), C: image(m, n)):
        T.func_attr({"tirx.noalias": True})
        acc = T.sblock_alloc_buffer((m, n))
        for i, j, r in T.grid(m, n, k):
            with T.sblock("acc"):
                vi, vj, vr = T.axis.remap("SSR", [i, j, r])
                with T.init():
                    acc[vi, vj] = T.float32(0)
                acc[vi, vj] = acc[vi, vj] + A[0, vi, vr // 4, vr % 4] * B[vr, vj]
        for i, j in T.grid(m, n):
            with T.sblock("out"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[0, vi, vj // 4, vj % 4] = acc[vi, vj] + T.float32(1)

    return func


def shifted(m, k, shift):
    """Sums of parts of rows that begin inside of a texel."""
    @T.prim_func(s_tir=True)
    def func(A: image(m, k), C: T.Buffer((m,))):
        T.func_attr({"tirx.noalias": True})
        for i, r in T.grid(m, k - 4):
            with T.sblock("acc"):
                vi, vr = T.axis.remap("SR", [i, r])
                with T.init():
                    C[vi] = T.float32(0)
                C[vi] = C[vi] + A[0, vi, (vr + shift) // 4, (vr + shift) % 4]

    return func


def padded(m, k, low, high):
    """Sums of rows under a condition, that of a padding: it may tell lanes apart."""
    @T.prim_func(s_tir=True)
    def func(A: image(m, k), C: T.Buffer((m,))):
        T.func_attr({"tirx.noalias": True})
        for i, r in T.grid(m, k):
            with T.sblock("acc"):
                vi, vr = T.axis.remap("SR", [i, r])
                with T.init():
                    C[vi] = T.float32(0)
                C[vi] = C[vi] + T.if_then_else(
                    low <= vr and vr < high and 1 <= vi,
                    A[0, vi - 1, vr // 4, vr % 4],
                    T.float32(0.5),
                )

    return func


def parts(m, n):
    """One product whose halves are images of their own: the second half counts from 0 again."""
    @T.prim_func(s_tir=True)
    def func(A: T.Buffer((m, n)), C: image(m, n // 2), D: image(m, n // 2)):
        T.func_attr({"tirx.noalias": True})
        for i, j in T.grid(m, n):
            with T.sblock("out"):
                vi, vj = T.axis.remap("SS", [i, j])
                if vj < n // 2:
                    C[0, vi, vj // 4, vj % 4] = A[vi, vj] * T.float32(2)
                if n // 2 <= vj:
                    D[0, vi, (vj - n // 2) // 4, (vj - n // 2) % 4] = A[vi, vj] + T.float32(3)

    return func
# fmt: on


def scheduled(func, profile="adreno-740"):
    register()
    target = load_profile(profile).target()
    mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    with target:
        return ApplySchedules(own_rules())(mod)["main"], target


def run(func, arrays, device, profile="adreno-740"):
    """The arguments after a launch; images are allocated as the parameters' scopes say."""
    made, target = scheduled(func, profile)
    built = tvm.tirx.build(tvm.IRModule({"main": made}), target=target, pipeline="smartmem")
    tensors = []
    for parameter, array in zip(func.params, arrays, strict=True):
        scope = str(parameter.ty.storage_scope)
        where = scope if scope != "global" else None
        tensor = tvm.runtime.empty(array.shape, "float32", device, mem_scope=where)
        tensors.append(tensor.copyfrom(array))
    built["main"](*tensors)
    return [tensor.numpy() for tensor in tensors]


def normal(*shape):
    return RNG.standard_normal(shape).astype("float32")


@pytest.mark.device
@pytest.mark.parametrize("profile", ["adreno-740", "mali-g710", "cpu"])
@pytest.mark.parametrize(("m", "k", "n"), [(5, 4, 4), (13, 32, 20), (1, 8, 12), (64, 12, 4)])
def test_products(opencl_device, m, k, n, profile):
    a, b = normal(m, k), normal(k, n)
    image, empty = a.reshape(1, m, k // 4, 4), np.zeros((1, m, n // 4, 4), "float32")
    *_, found = run(product(m, k, n), [image, b, empty], opencl_device, profile)
    np.testing.assert_allclose(found.reshape(m, n), a @ b + 1, rtol=1e-4, atol=1e-5)


@pytest.mark.device
@pytest.mark.parametrize("shift", [0, 1, 2, 4])
def test_sums_that_begin_inside_of_a_texel(opencl_device, shift):
    a = normal(9, 24)
    image = a.reshape(1, 9, 6, 4)
    *_, found = run(shifted(9, 24, shift), [image, np.zeros(9, "float32")], opencl_device)
    np.testing.assert_allclose(found, a[:, shift : shift + 20].sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.device
@pytest.mark.parametrize(("low", "high"), [(0, 24), (4, 20), (3, 22)])
def test_choices_around_reads(opencl_device, low, high):
    a = normal(9, 24)
    image = a.reshape(1, 9, 6, 4)
    *_, found = run(padded(9, 24, low, high), [image, np.zeros(9, "float32")], opencl_device)
    chosen = np.full((9, 24), 0.5, "float32")
    chosen[1:, low:high] = a[:-1, low:high]
    np.testing.assert_allclose(found, chosen.sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.device
@pytest.mark.parametrize("n", [8, 24, 40])
def test_parts_in_images_of_their_own(opencl_device, n):
    a, empty = normal(7, n), np.zeros((1, 7, n // 8, 4), "float32")
    _, first, second = run(parts(7, n), [a, empty, empty], opencl_device)
    np.testing.assert_allclose(first.reshape(7, n // 2), a[:, : n // 2] * 2, rtol=1e-6)
    np.testing.assert_allclose(second.reshape(7, n // 2), a[:, n // 2 :] + 3, rtol=1e-6)


def reads(func):
    made, target = scheduled(func)
    built = tvm.tirx.build(tvm.IRModule({"main": made}), target=target, pipeline="smartmem")
    source = built.imports[0].inspect_source()
    return len(re.findall(r"READ_IMAGEF\((?!image)", source)), source


def test_a_texel_is_read_once_for_its_lanes():
    count, source = reads(product(5, 32, 4))
    # Each row of the tile has one read in the loop over texels, where four lanes are used.
    assert count <= 8, source
    assert source.count("write_imagef") <= 8


def test_lanes_become_axes():
    kernel = split_texels(read_kernel(product(5, 32, 12)))
    (stage,) = kernel.reductions
    assert [int(axis.extent) for axis in stage.axes if axis.reduced] == [8, 4]
    assert [int(axis.extent) for axis in kernel.sink.axes] == [5, 3, 4]
    assert axis_of_texels(kernel) == 2
    assert len(kernel.texels) == 2


def test_what_begins_inside_of_a_texel_is_not_split():
    kernel = split_texels(read_kernel(shifted(9, 24, 1)))
    assert not kernel.texels
    assert axis_of_texels(kernel) is None
