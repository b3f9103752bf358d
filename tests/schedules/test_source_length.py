"""What is written out stays bounded: sizes are those of the source, and tiles give way."""

from __future__ import annotations

import numpy as np
from schedule_helpers import check, normal, schedule, source_of
from tvm import te, tirx, topi
from tvm.tirx import ForKind

from smartmem_tvm.schedules import emit
from smartmem_tvm.schedules.statements import loop, size_written
from smartmem_tvm.schedules.tile import Tile


def _store():
    buffer = tirx.decl_buffer((64,), "float32", "b", layout=None)
    at = tirx.Var("i", "int32")
    return tirx.BufferStore(buffer, tirx.const(1.0, "float32"), [at]), at


def test_unrolled_loops_count_as_often_as_they_are_written():
    store, at = _store()
    once = size_written(store)
    assert once > 0
    unrolled = loop(at, tirx.IntImm("int32", 8), store, ForKind.UNROLLED)
    assert size_written(unrolled) == 8 * once
    again = loop(tirx.Var("j", "int32"), tirx.IntImm("int32", 4), unrolled, ForKind.UNROLLED)
    assert size_written(again) == 32 * once
    for kind in (ForKind.SERIAL, ForKind.VECTORIZED):
        assert size_written(loop(at, tirx.IntImm("int32", 8), store, kind)) == once


def test_what_a_division_repeats_counts_as_often():
    buffer, at = tirx.decl_buffer((64,), "int32", "b", layout=None), tirx.Var("i", "int32")
    read = buffer[at]
    chosen = tirx.if_then_else(read < 0, read + 9, read)
    sizes = {
        name: size_written(tirx.BufferStore(buffer, value, [at]))
        for name, value in {"read": read, "chosen": chosen}.items()
    }
    three = tirx.const(3, "int32")
    divided = size_written(tirx.BufferStore(buffer, tirx.floordiv(read, three), [at]))
    assert divided == sizes["read"] + 2  # the division and its divisor
    divided = size_written(tirx.BufferStore(buffer, tirx.floordiv(chosen, three), [at]))
    assert divided >= 2 * (sizes["chosen"] - 1)


def test_tiles_become_smaller_until_one_element_is_left():
    tile: Tile | None = Tile(((0, 8), (2, 3)), 1, 16, inner_width=16)
    seen = []
    while tile is not None:
        seen.append((sum(n for _, n in tile.rows), tile.width, tile.inner_width))
        last, tile = tile, tile.smaller()
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == len(set(seen))
    assert last == Tile()


def test_a_smaller_tile_where_the_source_would_be_too_long(monkeypatch, opencl_device):
    x, w = te.placeholder((1, 6, 15, 15), name="x"), te.placeholder((32, 6, 3, 3), name="w")
    func = te.create_prim_func([x, w, topi.nn.conv2d_nchw(x, w, 1, 1, 1)])
    whole = source_of(schedule(func))[1]
    limit = size_written(schedule(func).body) // 2
    monkeypatch.setattr(emit, "LONGEST_SOURCE", limit)
    scheduled = schedule(func)
    assert size_written(scheduled.body) <= limit
    assert len(source_of(scheduled)[1]) < len(whole)
    data, weights = normal(1, 6, 15, 15), normal(32, 6, 3, 3, seed=1)
    padded = np.pad(data, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    want = np.einsum("nchwij,ocij->nohw", windows, weights)
    check(func, [data, weights], [want], opencl_device)
