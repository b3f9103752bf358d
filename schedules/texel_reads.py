"""Reads of images by whole texels, ahead of the loop over their lanes.

::

    for k in range(4): s += x[0, i, ko, k] * …    →    t[0:4] = x[0, i, ko, 0:4]
                                                       for k in range(4): s += t[k] * …

A choice around a read goes along with it, so that nothing is read where its condition does not
hold; one that tells the lanes apart stays with reads of single lanes.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferLoad
from tvm_ffi import structural_equal

from smartmem_tvm.analysis.expressions import const, dtype_of, loads_of, substitute, uses
from smartmem_tvm.analysis.index_maps import simplify_divisions
from smartmem_tvm.analysis.index_reading import IF_THEN_ELSE
from smartmem_tvm.analysis.texels import LANES, is_texture

from .lanes import Lane
from .scope import Scope


def by_texels(item: Any, value: Any, at: Any, scope: Scope) -> Any:
    """Value whose reads of images along the lanes `at` are made in a scope around their loop.

    `at` is a variable that runs over four lanes, or None.
    """
    is_tile = item._lane is not None and item._lane.var.same_as(at)

    def along(load: TensorLoad) -> bool:
        # Vectors of the tile are read from local memory where they are used.
        shared = load.source.ty.storage_scope == "shared" and not is_tile
        return (shared or is_texture(load.source)) and bool(load.indices[-1].same_as(at))

    if at is None or not any(map(along, loads_of(value))):
        return value
    lane = Lane(at, LANES, item.analyzer)

    def visit(node: Any, mutator: Any) -> Any:
        if isinstance(node, TensorLoad):
            return _texel(item, node, at, scope) if along(node) else node
        is_choice = isinstance(node, tvm.ir.Call) and node.op.same_as(IF_THEN_ELSE)
        if is_choice and any(map(along, loads_of(node))):
            condition, *choices = node.args
            if lane.step(condition) != 0:
                return node
            condition = substitute(condition, {at: const(0, at)})
            return _texel(item, tirx.if_then_else(condition, *choices), at, scope)
        return mutator.default_mutate(node)

    return tvm_ffi.structural_mutate(value, (tvm.ir.Expr, visit))


def _texel(item: Any, value: Any, at: Any, scope: Scope) -> TensorLoad:
    """Compute the four lanes of a value in a scope; returns the load of one lane."""
    if item._lane is not None and uses(value, item._lane.var):
        # Divisions hide what is the same: (4 * i + lane) // 24 is so for all four.
        value = simplify_divisions(value, item.analyzer)
    for made, load in scope.values:
        if structural_equal(made, value):
            return load
    rows = [(var, n) for var, n in item._rows if uses(value, var)]
    across = item._lane
    if across is not None and not across.var.same_as(at) and uses(value, across.var):
        rows.append((across.var, across.width))
    place = [var for var, _ in rows]
    texel = item._private("texel", [*(n for _, n in rows), LANES], dtype_of(value))
    lane = Lane(tirx.Var(item._name("lane"), at.ty), LANES, item.analyzer)
    to = BufferLoad(texel, [*place, lane.var])
    scope.statements.append(item._assign(to, substitute(value, {at: lane.var}), rows, lane))
    load = BufferLoad(texel, [*place, at])
    scope.values.append((value, load))
    return load
