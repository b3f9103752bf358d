"""Kernels that compute one index again and again, which more than one file of tests needs."""

from __future__ import annotations

import tvm
from tvm import tirx

ITEMS, WINDOW = 64, 50


def repeated_index(copies):
    """``y[i, j] = x[p + j % 50] + x[p + j]`` where all copies share a place p, j written out."""
    x = tirx.decl_buffer((8192,), "float32", "x", layout=None)
    y = tirx.decl_buffer((ITEMS, copies), "float32", "y", layout=None)
    thread = tirx.Var("threadIdx.x", "int32")
    place = tirx.floormod(thread * 7, 13) * 300 + tirx.floordiv(thread * 11, 3)
    stores = [
        tirx.BufferStore(y, x[place + j % WINDOW] + x[place + j], [thread, j])
        for j in range(copies)
    ]
    extent = tvm.ir.Range(0, ITEMS)
    axis = tirx.IterVar(extent, thread, tirx.IterVar.ThreadIndex, "threadIdx.x")
    body = tirx.AttrStmt(axis, "thread_extent", ITEMS, tirx.SeqStmt(stores))
    func = tirx.PrimFunc([x, y], body).with_attr("global_symbol", "main")
    return func.with_attr("tirx.noalias", True)
