"""The footprint of each buffer by itself."""

from __future__ import annotations

from tvm.script import tirx as T

from smartmem_tvm.analysis.footprint import footprint_by_buffer, footprint_of


@T.prim_func(s_tir=True)
def rows(
    a: T.Buffer((8, 16), "float32"), g: T.Buffer((16,), "float32"), o: T.Buffer((8, 4), "float32")
):
    for i, j, k in T.grid(8, 4, 4):
        with T.sblock("sum"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                o[vi, vj] = T.float32(0)
            o[vi, vj] = o[vi, vj] + a[vi, vj * 2] * g[vk]


def test_every_buffer_counts_its_own_elements():
    a, g, o = rows.params
    found = footprint_by_buffer(rows.body)
    by_param = {n: f for n, p in enumerate((a, g, o)) for b, f in found.items() if b.same_as(p)}
    assert {n: (f.read, f.written) for n, f in by_param.items()} == {
        0: (8 * 4 * 4, 0),
        1: (4 * 4, 0),
        2: (0, 8 * 4 * 4),
    }
    whole = footprint_of(rows.body)
    assert whole.bytes == sum(part.bytes for part in found.values())
    assert whole.exact


@T.prim_func(s_tir=True)
def symbolic(a: T.handle, b: T.handle):
    n = T.int64()
    x = T.match_buffer(a, (n,), "float32")
    y = T.match_buffer(b, (n,), "float32")
    for i in range(n):
        with T.sblock("copy"):
            vi = T.axis.spatial(n, i)
            y[vi] = x[vi]


def test_symbolic_shapes_have_none():
    assert footprint_by_buffer(symbolic.body) is None
