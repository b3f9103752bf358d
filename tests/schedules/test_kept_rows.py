"""Costly values of a row: evaluated once, kept in an array, read by later passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from schedule_helpers import check, normal, run, schedule, source_of
from tvm import te, tirx, topi
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_walk

from smartmem_tvm.devices import load_profile
from smartmem_tvm.schedules import row_reduction
from smartmem_tvm.schedules.cost import costs_of
from smartmem_tvm.schedules.kept_rows import keep_rows
from smartmem_tvm.schedules.limits import limits_of
from smartmem_tvm.schedules.tile import Tile

EXP = tvm.ir.Op.get("tirx.exp")


def _softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _softmax_func(shape, axis=-1):
    data = te.placeholder(shape)
    return te.create_prim_func([data, topi.nn.softmax(data, axis)])


def _arrays(scheduled):
    """Names of the arrays of rows that a scheduled function loads."""
    loads = []
    structural_walk(scheduled.body, (TensorLoad, loads.append))
    sources = {load.source for load in loads if load.source.ty.storage_scope == "local"}
    return [source.name for source in sources if source.name.endswith(("_row", "_rows"))]


def _exponentials(scheduled):
    calls = []
    structural_walk(scheduled.body, (tvm.ir.Call, calls.append))
    return sum(call.op.same_as(EXP) for call in calls)


def _limits(profile="cpu"):
    return limits_of(load_profile(profile).target())


def _without_arrays(monkeypatch):
    limits = replace(_limits(), row_bytes=0)
    monkeypatch.setattr(row_reduction, "limits_of", lambda _target: limits)


@pytest.mark.parametrize("length", [1, 2, 5, 15, 16, 17, 31, 32, 33, 197, 768])
def test_softmax_along_the_row(length, opencl_device):
    x = 3 * normal(7, length)
    scheduled = check(_softmax_func((7, length)), [x], [_softmax(x)], opencl_device)
    if length == 1:
        return
    assert len(_arrays(scheduled)) == 1
    lanes = 1 << min(length.bit_length() - 1, 4)
    # What vectors leave over is filled by one more vector.
    assert _exponentials(scheduled) == (1 if length % lanes == 0 else 2)


@pytest.mark.parametrize(
    ("shape", "axis"), [((64, 49), 0), ((33, 16), 0), ((2, 17, 5, 7), 1), ((1, 5, 197), 1)]
)
def test_softmax_across_rows(shape, axis, opencl_device):
    x = 3 * normal(*shape)
    scheduled = check(_softmax_func(shape, axis), [x], [_softmax(x, axis)], opencl_device)
    assert _exponentials(scheduled) == 1
    assert [name.rsplit("_", 1)[1] for name in _arrays(scheduled)] == ["rows"]


@pytest.mark.parametrize("length", [16, 31, 197, 256])
def test_vectors_stay_vectors(length):
    _, source = source_of(schedule(_softmax_func((3, length))))
    # An array that only whole vectors fill becomes one of vectors.
    declared = "float16 v_i1_row_ptr[" if length % 16 == 0 else "float v_i1_row_ptr["
    assert declared in source
    computed = [line for line in source.splitlines() if "exp(" in line]
    assert len(computed) == (1 if length % 16 == 0 else 2)
    assert all("exp((vload16(0, " in line for line in computed)
    (stored,) = [line for line in source.splitlines() if "_norm_ptr +" in line]
    assert "vstore16((vload16(0, " in stored or "vstore16((v_i1_row_ptr[" in stored


@pytest.mark.parametrize(("shape", "axis"), [((6, 37), 1), ((37, 16), 0), ((6, 32), 1)])
def test_same_numbers_with_masked_rows(shape, axis, opencl_device, monkeypatch):
    x = 3 * normal(*shape)
    x[np.random.default_rng(1).random(shape) < 0.4] = -np.inf
    x = np.moveaxis(x, axis, -1)
    x[2] = -np.inf  # not a number, whether kept or not
    x[3, :-1] = -np.inf
    x = np.ascontiguousarray(np.moveaxis(x, -1, axis))
    func = _softmax_func(shape, axis)
    kept = schedule(func)
    _without_arrays(monkeypatch)
    again = schedule(func)
    assert _arrays(kept)
    assert not _arrays(again)
    (one,), (other,) = (run(f, [x], [x], opencl_device) for f in (kept, again))
    with np.errstate(invalid="ignore"):
        want = _softmax(x, axis)
    np.testing.assert_array_equal(np.isnan(one), np.isnan(want))
    np.testing.assert_allclose(one, want, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("length", [16, 37])
def test_scale_and_mask(length, opencl_device):
    x, mask = (te.placeholder(s) for s in ((2, 3, length), (3, length)))
    score = te.compute(
        x.shape, lambda b, i, k: x[b, i, k] / te.const(8.5, "float32") + mask[i, k], "score"
    )
    func = te.create_prim_func([x, mask, topi.nn.softmax(score)])
    hidden = np.where(normal(3, length, seed=1) > 0.5, np.float32(-np.inf), np.float32(0))
    hidden[:, 0] = 0
    data = 5 * normal(2, 3, length)
    want = _softmax(data / np.float32(8.5) + hidden)
    scheduled = check(func, [data, hidden], [want], opencl_device)
    assert len(_arrays(scheduled)) == 2  # the quotient, then the exponential that reads it


def test_causal_mask(opencl_device):
    x = te.placeholder((3, 21, 21))
    low = te.const(-1e30, "float32")
    score = te.compute(x.shape, lambda b, i, k: tirx.if_then_else(k <= i, x[b, i, k], low))
    func = te.create_prim_func([x, topi.nn.softmax(score)])
    data = normal(3, 21, 21)
    want = _softmax(np.where(np.tri(21, dtype=bool), data, np.float32(-1e30)))
    assert _arrays(check(func, [data], [want], opencl_device))


@pytest.mark.parametrize("length", [16, 37])
def test_logarithm_reads_no_array(length, opencl_device):
    data = te.placeholder((4, length))
    func = te.create_prim_func([data, topi.nn.log_softmax(data)])
    x = normal(4, length)
    scheduled = check(func, [x], [np.log(_softmax(x))], opencl_device)
    assert not _arrays(scheduled)


@pytest.mark.parametrize("shape", [(5, 64), (3, 37)])
def test_function_before_a_normalisation(shape, opencl_device):
    # Three passes evaluate the function.
    data, gamma, beta = (te.placeholder(s) for s in (shape, shape[-1:], shape[-1:]))
    active = te.compute(shape, lambda i, k: data[i, k] * te.tanh(te.exp(data[i, k])))
    func = te.create_prim_func(
        [data, gamma, beta, topi.nn.layer_norm(active, gamma, beta, [1], 1e-5)]
    )
    x, g, b = normal(*shape), normal(shape[1], seed=1), normal(shape[1], seed=2)
    y = x * np.tanh(np.exp(x))
    spread = np.sqrt(y.var(-1, keepdims=True) + np.float32(1e-5))
    want = (y - y.mean(-1, keepdims=True)) / spread * g + b
    scheduled = check(func, [x, g, b], [want], opencl_device)
    assert len(_arrays(scheduled)) == 1
    assert _exponentials(scheduled) == (1 if shape[1] % 16 == 0 else 2)


def test_half_precision_in_memory(opencl_device, opencl_info):
    if not opencl_info.fp16:
        pytest.skip("the device has no numbers of 16 bits")
    data = te.placeholder((5, 37), "float16")
    wide = te.compute(data.shape, lambda i, k: data[i, k].astype("float32"))
    exact = topi.nn.softmax(wide)
    func = te.create_prim_func(
        [data, te.compute(data.shape, lambda *i: exact(*i).astype("float16"))]
    )
    x = normal(5, 37).astype("float16")
    want = _softmax(x.astype("float32")).astype("float16")
    scheduled = check(func, [x], [want], opencl_device, tolerance=2e-3)
    assert _arrays(scheduled)


def _reads_under_conditions(written, read):
    """A sum and a sink that compute one value, each under a condition or not."""
    x = te.placeholder((4, 32))
    k = te.reduce_axis((0, 32))
    none = te.const(0, "float32")

    def value(i, j, hidden):
        plain = te.exp(x[i, j])
        return tirx.if_then_else(j < 7, none, plain) if hidden else plain

    total = te.compute((4,), lambda i: te.sum(value(i, k, written), axis=k))
    out = te.compute((4, 32), lambda i, j: value(i, j, read) * total[i] + x[i, j])
    return te.create_prim_func([x, out])


@pytest.mark.parametrize(
    ("written", "read", "arrays"), [(False, True, 1), (True, False, 0), (True, True, 1)]
)
def test_conditions(written, read, arrays, opencl_device):
    x = normal(4, 32)
    e = np.exp(x)
    hidden = np.where(np.arange(32) < 7, np.float32(0), e)
    first, then = (hidden if choice else e for choice in (written, read))
    want = then * first.sum(1, keepdims=True) + x
    func = _reads_under_conditions(written, read)
    assert len(_arrays(check(func, [x], [want], opencl_device))) == arrays


def test_values_that_differ_are_not_kept(opencl_device):
    x = te.placeholder((4, 32))
    k = te.reduce_axis((0, 32))
    total = te.compute((4,), lambda i: te.sum(te.exp(x[i, k]), axis=k))
    other = te.compute((4, 32), lambda i, j: te.exp(x[i, 31 - j]) / total[i])
    data = normal(4, 32)
    e = np.exp(data)
    want = e[:, ::-1] / e.sum(1, keepdims=True)
    assert not _arrays(check(te.create_prim_func([x, other]), [data], [want], opencl_device))


def test_cheap_values_are_not_kept():
    data, gamma, beta = (te.placeholder(s) for s in ((4, 32), (32,), (32,)))
    norm = topi.nn.layer_norm(data, gamma, beta, [1], 1e-5)
    assert not _arrays(schedule(te.create_prim_func([data, gamma, beta, norm])))
    x = te.placeholder((4, 32))
    halved = te.compute((4, 32), lambda i, k: x[i, k] / te.const(8, "float32"))
    shifted = halved - topi.max(halved, 1, keepdims=True)
    assert not _arrays(schedule(te.create_prim_func([x, shifted])))


@pytest.mark.parametrize(("length", "arrays"), [(4096, 1), (4097, 0)])
def test_rows_as_long_as_the_limit(length, arrays):
    assert _limits().row_bytes == 4 * 4096
    assert len(_arrays(schedule(_softmax_func((3, length))))) == arrays


def test_longest_row(opencl_device):
    x = normal(3, 4095)
    assert _arrays(check(_softmax_func((3, 4095)), [x], [_softmax(x)], opencl_device))


@pytest.mark.parametrize("profile", ["adreno-740", "adreno-640", "mali-g710", "nvidia-opencl"])
def test_never_on_a_gpu(profile):
    assert _limits(profile).row_bytes == 0
    assert not _arrays(schedule(_softmax_func((300, 40)), profile))


def test_symbolic_rows_are_not_kept(opencl_device):
    n = te.var("n")
    data = te.placeholder((4, n))
    x = normal(4, 19)
    func = te.create_prim_func([data, topi.nn.softmax(data)])
    assert not _arrays(check(func, [x], [_softmax(x)], opencl_device))


def test_symbolic_number_of_rows(opencl_device):
    n = te.var("n")
    data = te.placeholder((n, 19))
    x = normal(4, 19)
    func = te.create_prim_func([data, topi.nn.softmax(data)])
    assert _arrays(check(func, [x], [_softmax(x)], opencl_device))


@pytest.mark.parametrize(
    "tile",
    [Tile(inner=(1,), team=32), Tile(((0, 4),), inner=(1,)), Tile(inner=(0, 1)), Tile(lane=1)],
)
def test_other_tiles_keep_nothing(tile):
    kernel = costs_of(_softmax_func((8, 32)), _limits()).kernel
    assert not keep_rows(kernel, tile, 1 << 20).rows
    assert keep_rows(kernel, Tile(inner=(1,)), 1 << 20).rows


def test_limit_counts_all_arrays():
    x = te.placeholder((4, 64))
    scaled = te.compute(x.shape, lambda i, k: x[i, k] / te.const(3, "float32"))
    kernel = costs_of(te.create_prim_func([x, topi.nn.softmax(scaled)]), _limits()).kernel
    tile = Tile(inner=(1,))
    found = [len(keep_rows(kernel, tile, 256 * n - short).rows) for n, short in ((2, 0), (2, 1))]
    assert found == [2, 1]
    # A vector for each element.
    across = Tile(lane=0, width=4, inner=(1,))
    assert len(keep_rows(kernel, across, 256 * 4).rows) == 1
    assert not keep_rows(kernel, across, 256 * 4 - 1).rows


@pytest.mark.parametrize(("times", "unrolled"), [(1, True), (60, False)])
def test_long_values_are_written_out_once(times, unrolled):
    # Lanes across rows, eight elements a row: such a loop is written out if that is short.
    x = te.placeholder((8, 64))

    def value(i, j):
        total = x[i, j]
        for _ in range(times):
            total = te.exp(total * x[i, j])
        return total

    k = te.reduce_axis((0, 8))
    total = te.compute((64,), lambda j: te.sum(value(k, j), axis=k))
    out = te.compute((8, 64), lambda i, j: value(i, j) / total[j])
    scheduled = schedule(te.create_prim_func([x, out]))
    loops = []
    structural_walk(scheduled.body, (tirx.For, loops.append))
    long = [one for one in loops if one.kind == tirx.ForKind.UNROLLED and int(one.extent) == 8]
    assert _arrays(scheduled)
    assert _exponentials(scheduled) == times
    assert bool(long) == unrolled
