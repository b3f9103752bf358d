"""The cost model's counts against an enumeration of every point of every work-item."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from count_accesses import NOMINAL, Touched
from tvm import te, tirx, topi

from smartmem_tvm.analysis.fused_kernel import read_kernel
from smartmem_tvm.analysis.layouts import Layout, innermost, row_major
from smartmem_tvm.analysis.transactions import KernelCost, Memory, Walk
from smartmem_tvm.devices import resolve_profile

# Nothing is lost from the first cache; what is lost is the matter of test_cache_lines.py.
CPU = replace(Memory.of(resolve_profile("cpu")), rows=4, first_cache=1 << 30)
ADRENO = Memory.of(resolve_profile("adreno-740"))
KINDS = ("pieces", "shared", "gathered", "scattered", "conditional")


def _kernel(body, *shapes, dtype="float32", dtypes=()):
    """Function of an expression of tensors x0, x1, …"""
    tensors = []
    for number, shape in enumerate(shapes):
        own = dtypes[number] if number < len(dtypes) else dtype
        tensors.append(te.placeholder(shape, name=f"x{number}", dtype=own))
    return te.create_prim_func([*tensors, body(*tensors)])


def _matmul(a, b, dtype="float32", **transposed):
    return _kernel(lambda x, y: topi.nn.matmul(x, y, **transposed), a, b, dtype=dtype)


def _conv(pad, stride):
    return _kernel(
        lambda x, w: topi.nn.conv2d_nchw(x, w, stride, pad, 1, "float32"),
        (1, 2, 16, 16),
        (16, 2, 3, 3),
    )


def _depthwise():
    return _kernel(
        lambda x, w: topi.nn.group_conv2d_nchw(x, w, 1, 1, 1, 2, "float32"),
        (1, 2, 16, 16),
        (2, 1, 3, 3),
    )


def _windows(x):
    """[height, width, channels] in windows of four by four."""
    split = topi.reshape(x, (2, 4, 2, 4, 16))
    return topi.reshape(topi.transpose(split, (0, 2, 1, 3, 4)), (4, 16, 16))


def _layer_norm(x):
    length = float(int(x.shape[-1]))
    apart = topi.subtract(x, topi.divide(topi.sum(x, -1, keepdims=True), length))
    variance = topi.divide(topi.sum(topi.multiply(apart, apart), -1, keepdims=True), length)
    return topi.divide(apart, topi.sqrt(variance))


def _symbolic():
    n = tirx.Var("n", "int64")
    return _kernel(lambda x, y: topi.nn.matmul(x, y), (n, 16), (16, 32))


# Shapes that vectors and tiles divide: counts are exact.
ALIGNED = {
    "matmul": _matmul((16, 32), (32, 16)),
    "matmul, left transposed": _matmul((32, 16), (32, 16), transpose_a=True),
    "matmul, right transposed": _matmul((16, 32), (16, 32), transpose_b=True),
    "matmul in float16": _matmul((16, 32), (32, 16), dtype="float16"),
    "broadcast": _kernel(
        lambda x, y, z: topi.add(topi.multiply(x, y), z), (4, 16, 16), (16,), (16, 1)
    ),
    "windows": _kernel(lambda x: topi.nn.relu(_windows(x)), (8, 8, 16)),
    "transpose": _kernel(lambda x: topi.exp(topi.transpose(x, (1, 2, 0))), (16, 4, 16)),
    "softmax": _kernel(lambda x: topi.nn.softmax(x, -1), (16, 32)),
    "layer norm": _kernel(_layer_norm, (16, 32)),
    "symbolic": _symbolic(),
}
# Conditions, edges and extents that nothing divides.
RAGGED = {
    "convolution": _conv(1, 1),
    "convolution with stride": _conv(1, 2),
    "convolution without padding": _conv(0, 1),
    "depthwise": _depthwise(),
    "odd matmul": _matmul((13, 37), (37, 21)),
    "odd softmax": _kernel(lambda x: topi.nn.softmax(x, -1), (7, 50)),
    "slice": _kernel(lambda x: topi.exp(topi.strided_slice(x, [3, 5], [14, 31])), (16, 37)),
    "gather": _kernel(
        lambda x, i: topi.take(x, i, axis=0, mode="fast"),
        (31, 32),
        (16,),
        dtypes=("float32", "int32"),
    ),
    "gather of columns": _kernel(
        lambda x, i: topi.take(x, i, axis=1, mode="fast"),
        (16, 31),
        (16,),
        dtypes=("float32", "int32"),
    ),
}
DATA = {"x1": np.random.default_rng(0).permutation(31)[:16]}


def _layouts(shape):
    """All that one dimension makes innermost or cuts, padding included."""
    extents = [int(n) if isinstance(n, tirx.IntImm) else NOMINAL for n in shape]
    ndim = len(extents)
    yield row_major(ndim)
    for d in range(ndim):
        if extents[d] > 1 and ndim > 1:
            yield innermost(ndim, d)
            yield Layout((d, *(o for o in range(ndim) if o != d)), (d, 16))
            yield Layout(tuple(range(ndim)), (d, 4))


def _cases(func, memory):
    """Every access under every layout, and walks of every form."""
    model = KernelCost(read_kernel(func), memory)
    forms = {}
    for walk in model.walks:
        form = (walk.lane and len(walk.lane), walk.along_reduction, walk.team, len(walk.rows))
        forms.setdefault(form, []).append(walk)
    for walks in forms.values():
        for walk in walks[:2]:
            for number, buffer in enumerate(model.buffers):
                for layout in dict.fromkeys(_layouts(buffer.shape)):
                    counted = Touched(model, number, walk, layout, DATA)
                    where = f"{buffer.name} as {layout}, {walk}"
                    yield model, number, walk, layout, counted, where


def _compare(func, memory, lines_of):
    """For every case, the kinds of instructions, and model over enumeration of each count."""
    rows = []
    for model, number, walk, layout, counted, where in _cases(func, memory):
        counts = model.count(number, walk, layout)
        kinds = [k for k in KINDS if getattr(counts, k)]
        assert kinds == [counted.kind], where
        ratios = (
            getattr(counts, counted.kind) / counted.instructions(),
            counts.lines / lines_of(counted),
            model.footprint(number, layout) / counted.footprint(memory.line_bytes),
            model.footprint(number, layout, counted.itemsize) / counted.footprint(counted.itemsize),
        )
        rows.append((ratios, where))
    return rows


@pytest.mark.parametrize("name", ALIGNED)
def test_counts_are_exact_where_tiles_fit(name):
    rows = _compare(ALIGNED[name], CPU, lambda counted: counted.lines(CPU.line_bytes))
    for ratios, where in rows:
        assert ratios == pytest.approx((1, 1, 1, 1)), where


@pytest.mark.parametrize("name", RAGGED)
def test_counts_are_close_where_tiles_do_not_fit(name):
    """Instructions within 10 %; bytes by half, of data-driven indices by all; lines mostly by 30 %.

    An image's border is read by its neighbours' lanes but lies outside, and pieces of a block that
    is not full are counted whole.
    """
    rows = _compare(RAGGED[name], CPU, lambda counted: counted.lines(CPU.line_bytes))
    lines = sorted(ratios[1] for ratios, _ in rows)
    for ratios, where in rows:
        assert ratios[0] == pytest.approx(1, rel=0.1), where
        assert 0.2 < ratios[1] < 3, where
        assert all(0.7 < ratio < (2 if "gather" in name else 1.6) for ratio in ratios[2:]), where
    assert sum(1 / 1.3 < ratio < 1.3 for ratio in lines) > 0.8 * len(lines)
    assert lines[len(lines) // 2] == pytest.approx(1)


@pytest.mark.parametrize("subgroup", [4, 64])
@pytest.mark.parametrize("name", ALIGNED)
def test_subgroups_share_the_lines_of_an_instruction(name, subgroup):
    memory = replace(ADRENO, subgroup=subgroup)
    rows = _compare(ALIGNED[name], memory, lambda c: c.shared_lines(memory.line_bytes, subgroup))
    for ratios, where in rows:
        assert ratios[:2] == pytest.approx((1, 1)), where


@pytest.mark.parametrize("name", ["matmul", "matmul, left transposed", "transpose", "softmax"])
def test_waves_share_what_fits_into_the_cache_of_images(name):
    memory = replace(ADRENO, image_cache=1 << 30)
    whole = 0
    for model, number, walk, layout, counted, where in _cases(ALIGNED[name], memory):
        if model.is_write(number):
            continue
        counts = model.count(number, walk, layout, image=True)
        lines = counted.wave_lines(memory.line_bytes, memory.subgroup)
        assert counts.lines / lines == pytest.approx(1), where
        read = getattr(counts, counted.kind)
        plain = getattr(model.count(number, walk, layout), counted.kind)
        assert read in (plain, plain / 4), where
        if walk.lane is None and not walk.along_reduction and read != plain:
            whole += 1
            assert read == counted.texels(), where
    assert whole or name == "transpose"


def test_rows_that_share_a_set_of_a_cache_are_lost():
    func = _matmul((64, 256), (256, 64))
    model = KernelCost(read_kernel(func), replace(ADRENO, image_cache=4096))
    walk = Walk((1,), 4, rows=((0, 8),))
    row_by_row, by_texels = (
        model.count(0, walk, layout, image=True).lines
        for layout in (Layout((0, 1)), Layout((1, 0), (1, 4)))
    )
    assert by_texels < row_by_row / 2


def test_texels_inside_of_windows_are_read_as_a_whole():
    """Around the lanes of a texel go loops over windows and a wave that a small cache loses."""
    func = _kernel(
        lambda x, w: topi.nn.conv2d_nchw(x, w, 1, 1, 1, "float32"), (1, 16, 14, 56), (32, 16, 3, 3)
    )
    model = KernelCost(read_kernel(func), replace(ADRENO, image_cache=256))
    walk = Walk((1,), 4, fastest=3)
    blocks = Layout((1, 0, 2, 3), (1, 4))
    counts = model.count(0, walk, blocks, image=True)
    texels = model.items(walk) * 16 / 4 * 9
    assert counts.shared == texels
    assert counts.lines <= texels


def test_a_block_is_divided_where_a_loop_goes_through_it():
    model = KernelCost(read_kernel(_matmul((16, 32), (32, 16))), CPU)
    lanes = Walk((1,), 16, rows=((0, 4),))
    left, right, output = range(3)
    counts = {
        (number, dim): model.count(number, lanes, Layout((0, 1), (dim, 4))).divided
        for number in (left, right, output)
        for dim in (0, 1)
    }
    updates = 16 * 32
    assert counts == {
        (left, 0): updates,  # rows
        (left, 1): updates,  # the reduction
        (right, 0): updates / 4,
        (right, 1): 0,  # lanes alone
        (output, 0): 16,
        (output, 1): 0,
    }
    assert model.count(left, lanes, row_major(2)).divided == 0


def test_a_cost_grows_with_every_count():
    """Lanes along the output: the right operand in one piece, gathered, or scattered."""
    model = KernelCost(read_kernel(_matmul((16, 32), (32, 16))), CPU)
    lanes, right = Walk((1,), 16), 1
    costs = [
        model.access(right, lanes, layout)
        for layout in (row_major(2), innermost(2, 0), Layout((1, 0), (1, 4)))
    ]
    assert costs == sorted(costs)
    assert len(set(costs)) == 3
