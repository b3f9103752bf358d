"""Footprint by enumeration: every loop runs, nothing is proved, simplified or taken apart.

Statements are replayed for all their iterations, chunk by chunk, from the last to the first; what a
buffer inside the launch is read for decides which iterations of its writers count.
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import SBlockRealize
from tvm_ffi import structural_walk

from smartmem_tvm.analysis.launches import bound_thread

CHUNK = 1 << 20
_INFIX = {
    tirx.Add: "+",
    tirx.Sub: "-",
    tirx.Mul: "*",
    tirx.FloorDiv: "//",
    tirx.FloorMod: "%",
    tirx.EQ: "==",
    tirx.NE: "!=",
    tirx.LT: "<",
    tirx.LE: "<=",
    tirx.GT: ">",
    tirx.GE: ">=",
    tirx.And: "&",
    tirx.Or: "|",
}


class Unpredictable(Exception):
    """A place or condition that depends on data."""


def numpy_source(expr, env):
    """Python text of an integer expression over the names of the variables."""
    if isinstance(expr, tirx.IntImm):
        return str(int(expr))
    if isinstance(expr, tvm.ir.Var):
        return env[expr]
    if isinstance(expr, tirx.Cast):
        return numpy_source(expr.value, env)
    if isinstance(expr, tirx.Not):
        return f"np.logical_not({numpy_source(expr.a, env)})"
    if isinstance(expr, (tirx.Min, tirx.Max)):
        name = "minimum" if isinstance(expr, tirx.Min) else "maximum"
        return f"np.{name}({numpy_source(expr.a, env)}, {numpy_source(expr.b, env)})"
    if type(expr) in _INFIX:
        return f"({numpy_source(expr.a, env)} {_INFIX[type(expr)]} {numpy_source(expr.b, env)})"
    raise Unpredictable(str(expr))


class Store:
    """A store with all loops around it; `loops` maps Python names to extents."""

    def __init__(self, loops, names, guards, node):
        self.loops, self.names, self.guards, self.node = dict(loops), dict(names), guards, node

    def reads(self):
        """(buffer, indices, further conditions) of every load in the value."""
        found = []

        def visit(expr, conditions):
            if isinstance(expr, TensorLoad):
                found.append((expr.source, list(expr.indices), conditions))
                return
            if isinstance(expr, tvm.ir.Call) and expr.op.name == "prim.if_then_else":
                condition, true, false = expr.args
                visit(true, [*conditions, condition])
                visit(false, [*conditions, tirx.Not(condition)])
                return
            if isinstance(expr, tvm.ir.Call):
                children = list(expr.args)
            else:
                slots = ("a", "b", "value", "condition", "true_value", "false_value")
                children = [getattr(expr, slot) for slot in slots if hasattr(expr, slot)]
                if isinstance(expr, (tirx.IntImm, tirx.FloatImm, tvm.ir.Var)):
                    children = []
            for child in children:
                visit(child, conditions)

        visit(self.node.value, [])
        return found


def flatten(body):
    """Stores in program order, and the buffers that are allocated on the way."""
    stores, allocated = [], []
    loops, names, guards = {}, {}, []

    def walk(stmt):
        if isinstance(stmt, tirx.SeqStmt):
            for item in stmt:
                walk(item)
        elif isinstance(stmt, tirx.For):
            name = f"x{len(loops)}_{len(stores)}"
            loops[name] = int(stmt.extent)
            names[stmt.loop_var] = f"({name} + {int(stmt.min)})"
            walk(stmt.body)
            del loops[name]
        elif isinstance(stmt, tirx.IfThenElse):
            for guard, case in (
                (stmt.condition, stmt.then_case),
                (tirx.Not(stmt.condition), stmt.else_case),
            ):
                if case is not None:
                    guards.append(numpy_source(guard, names))
                    walk(case)
                    guards.pop()
        elif isinstance(stmt, SBlockRealize):
            allocated.extend(stmt.block.alloc_buffers)
            guards.append(numpy_source(stmt.predicate, names))
            for var, value in zip(stmt.block.iter_vars, stmt.iter_values, strict=True):
                names[var.var] = numpy_source(value, names)
            if stmt.block.init is not None:
                walk(stmt.block.init)
            walk(stmt.block.body)
            guards.pop()
        elif isinstance(stmt, tirx.BufferStore):
            stores.append(Store(loops, names, list(guards), stmt))
        elif bound_thread(stmt) is not None or not hasattr(stmt, "body"):
            raise Unpredictable(type(stmt).__name__)
        else:
            walk(stmt.body)

    walk(body)
    return stores, allocated


def _used(text, loops):
    return [name for name in loops if name in text]


def mark(mask, store, indices, conditions, wanted=None):
    """Set the elements that an access touches over all iterations of its loops.

    Loops that occur neither in the indices nor in a condition cannot change what is touched, and
    are the only ones that are left out.
    """
    places = [numpy_source(index, store.names) for index in indices]
    held = [*store.guards, *(numpy_source(c, store.names) for c in conditions)]
    target = [numpy_source(index, store.names) for index in store.node.indices]
    text = " ".join([*places, *held, *(target if wanted is not None else [])])
    loops = _used(text, store.loops)
    extents = [store.loops[name] for name in loops]
    place = compile(f"({''.join(p + ',' for p in places)})", "indices", "eval")
    condition = compile(" & ".join(f"({h})" for h in held) or "True", "conditions", "eval")
    at = compile(f"({''.join(t + ',' for t in target)})", "target", "eval")
    for start in range(0, math.prod(extents), CHUNK):
        flat = np.arange(start, min(start + CHUNK, math.prod(extents)))
        env = dict(zip(loops, np.unravel_index(flat, extents), strict=True)) if loops else {}
        env["np"] = np
        ok = np.broadcast_to(np.asarray(eval(condition, env), bool), flat.shape)
        if wanted is not None:
            inside = wanted[tuple(np.broadcast_to(t, flat.shape)[ok] for t in eval(at, env))]
            ok = ok.copy()
            ok[ok] = inside
        mask[tuple(np.broadcast_to(p, flat.shape)[ok] for p in eval(place, env))] = True


def brute_force(body):
    """(bytes read, bytes written) of one launch; raises Unpredictable where data decides."""
    stores, allocated = flatten(body)
    wanted, read, written = {}, {}, {}

    def inside(buffer):
        scope = buffer.ty.storage_scope
        free = scope not in ("", "global") and not scope.startswith("global.")
        return free or any(buffer.same_as(known) for known in allocated)

    def blank(buffer):
        return np.zeros([int(extent) for extent in buffer.ty.shape], bool)

    own = {}
    for number, store in enumerate(stores):
        own.setdefault(store.node.buffer, []).append((number, store))
    for store in reversed(stores):
        buffer = store.node.buffer
        number = next(n for n, s in own[buffer] if s is store)
        want = None
        if inside(buffer):
            want = wanted.setdefault(buffer, blank(buffer))
        else:
            mark(written.setdefault(buffer, blank(buffer)), store, store.node.indices, [])
        for source, indices, conditions in store.reads():
            if inside(source):
                mark(wanted.setdefault(source, blank(source)), store, indices, conditions, want)
                continue
            mask = blank(source)
            mark(mask, store, indices, conditions, want)
            for writer, earlier in own.get(source, []):
                if writer < number:
                    before = blank(source)
                    mark(before, earlier, earlier.node.indices, [])
                    mask &= ~before
            read[source] = read.get(source, blank(source)) | mask

    def total(masks):
        return sum(
            int(mask.sum()) * tvm.DataType(buffer.ty.dtype.dtype).itemsize
            for buffer, mask in masks.items()
        )

    return total(read), total(written)


def depends_on_data(body):
    """Whether an index of the statement holds a load."""
    found = []

    def visit(load):
        for index in load.indices:
            structural_walk(index, (TensorLoad, found.append))

    structural_walk(body, (TensorLoad, visit))
    return bool(found)
