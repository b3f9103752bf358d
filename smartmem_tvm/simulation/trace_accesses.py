"""Instructions of a traced launch: what expressions load and stores write, and where.

::

    C[i * 8:i * 8 + 8] = A[ramp(j * 8, 1, 8)] + texture2d_load(B, x, y, 0, …)
    →
    site 0: 16 bytes of A at 4 * (j * 8)         site 2: a texel of B at y * width + x
    site 1: 16 bytes of A at 4 * (j * 8) + 16    sites 3, 4: 16 bytes of C, written

What a work-item asks for in one instruction is at most 16 bytes, what mobile GPUs' load and store
instructions move: a vector of 16 floats is four requests. A vector that does not lie in one piece
is one request for each lane, a texel is one. Which instructions compilers leave out, because a
register has the value, is said where the levels of sites are found (:meth:`AccessTracer._level`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import sym, tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_visit

from ..analysis.expressions import dtype_of, static, substitute, uses
from ..analysis.launches import Launch
from ..analysis.traffic_accesses import is_device_memory
from ..errors import SmartMemError
from .cache_model import Site
from .index_values import Values, lane, lanes_of
from .lowering import Memories

REQUEST_BYTES = 16
_AXES = ("x", "y", "z")
_REFUSED = ("tirx.address_of", "tirx.tvm_access_ptr", "tirx.buffer_data")
_IF_THEN_ELSE = "prim.if_then_else"
_TEXTURE_LOAD, _TEXTURE_STORE = "tirx.texture2d_load", "tirx.texture2d_store"


@dataclass
class RolledLoop:
    """A loop that stays a loop.

    Attributes
    ----------
    var
        Its variable.
    conflicts
        Memory that it writes and accesses at different places.
    kept
        Memory that it writes, all at one place that stays the same: a register holds it.
    """

    var: Any
    conflicts: set[Any] = field(default_factory=set)
    kept: set[Any] = field(default_factory=set)


class AccessTracer:
    """Makes the sites of a launch; `_guards` are in force, each with the number of loops around."""

    def __init__(
        self,
        launch: Launch,
        memories: Memories,
        cores: int,
        given: Mapping[Any, Any],
        fixed: Mapping[Any, int],
        split_unaligned: bool,
    ) -> None:
        self._launch = launch
        self._memories = memories
        self._cores = cores
        self._split_unaligned = split_unaligned
        self._analyzer = sym.Analyzer()
        self._sites: list[Site] = []
        self._assumed: dict[str, None] = {}
        self._guards: list[tuple[Any, int]] = []
        self._loops: list[RolledLoop] = []
        self._given = {memories.behind(buffer): array for buffer, array in given.items()}
        self._data: dict[Any, Any] = {}
        self._values = Values(launch.body, self._element)
        for var, value in fixed.items():
            self._values.bind(var, tirx.IntImm(var.ty.dtype, value))

        self._extents = {tag: self._constant(extent, tag) for tag, extent in launch.threads.items()}
        self._groups = self._product("blockIdx")
        self._group = self._product("threadIdx")
        self._model = tirx.Var("model", "handle")
        self._turn, self._core = tirx.Var("turn", "int64"), tirx.Var("core", "int64")
        self._item = tirx.Var("item", "int64")
        self._group_list = tirx.decl_buffer((tirx.Var("listed", "int64"),), "int64", "groups")
        self._places = tirx.decl_buffer((cores * self._group,), "int64", "places")
        place = self._turn * cores + self._core
        self._work_group = tirx.BufferLoad(self._group_list, [place])
        self._axes = {tag: tirx.Var(tag.replace(".", "_"), "int64") for tag in self._extents}
        for tag, axis in self._axes.items():
            self._bind_range(axis, self._extents[tag])

    def _reads(self, expr: Any, guards: tuple[Any, ...]) -> list[Any]:
        """Accesses of an expression, in the order in which it is evaluated."""
        result: list[Any] = []

        def visit(node: Any, visitor: Any) -> Any:
            nonlocal result
            if isinstance(node, TensorLoad):
                for index in node.indices:
                    result += self._reads(index, guards)
                if is_device_memory(node.source):
                    result += self._access(node.source, node.indices, guards, store=False)
                return None
            if isinstance(node, tirx.Select) or _is_call(node, _IF_THEN_ELSE):
                select = isinstance(node, tirx.Select)
                parts = (node.condition, node.true_value, node.false_value) if select else node.args
                condition = self._values.substituted(parts[0])
                result += self._reads(condition, guards)
                result += self._reads(parts[1], (*guards, condition))
                result += self._reads(parts[2], (*guards, tirx.Not(condition)))
                return None
            if _is_call(node, _TEXTURE_LOAD) or _is_call(node, _TEXTURE_STORE):
                for argument in node.args[1:]:
                    result += self._reads(argument, guards)
                result += self._texel(node, guards)
                return None
            if _is_call(node, *_REFUSED) and is_device_memory(_pointed(node)):
                raise SmartMemError(
                    f"it takes a pointer to '{_pointed(node).name}', through which anything may be "
                    "accessed"
                )
            return visitor.default_visit(node)

        structural_visit(expr, [((TensorLoad, tvm.ir.Call, tirx.Select), visit)])
        return result

    def _texel(self, call: Any, guards: tuple[Any, ...]) -> list[Any]:
        column, row, layer = (self._values.substituted(a) for a in call.args[1:4])
        number = self._memories.number(call.args[0])
        image = self._memories.found[number]
        if not image.width:
            raise SmartMemError(f"'{image.name}' is read or written as an image and is a buffer")
        layer, row, column = (each.astype("int64") for each in (layer, row, column))
        place = (layer * image.height + row) * image.width + column
        return self._site(
            call.args[0], place, image.element_bytes, guards, _is_call(call, _TEXTURE_STORE)
        )

    def _access(self, buffer: Any, indices: Any, guards: tuple[Any, ...], store: bool) -> list[Any]:
        if len(indices) != 1:
            raise SmartMemError(f"'{buffer.name}' has {len(indices)} axes after lowering, not one")
        index = self._analyzer.simplify(self._values.substituted(indices[0]))
        dtype = tvm.DataType(dtype_of(buffer))
        element = max(1, dtype.bits * dtype.lanes // 8)
        lanes = lanes_of(index)
        if isinstance(index, tirx.Broadcast):
            index, lanes = index.value, 1
        if lanes == 1:
            return self._pieces(buffer, index, element, element, guards, store)
        if isinstance(index, tirx.Ramp) and static(index.stride) == 1 and self._is_whole(index):
            return self._pieces(buffer, index.base, element, lanes * element, guards, store)
        number = tirx.Var("lane", "int64")
        self._bind_range(number, lanes)
        body = self._pieces(buffer, lane(index, number), element, element, guards, store)
        extent = const64(lanes)
        return [tirx.For(number, const64(0), extent, tirx.ForKind.SERIAL, sequence(body))]

    def _is_whole(self, ramp: tirx.Ramp) -> bool:
        if not self._split_unaligned:
            return True
        known, lanes = sym.Analyzer().modular_set(ramp.base), int(ramp.lanes)
        return bool(known.coeff % lanes == 0 and known.base % lanes == 0)

    def _pieces(
        self, buffer: Any, index: Any, element: int, size: int, guards: tuple[Any, ...], store: bool
    ) -> list[Any]:
        """Requests of at most 16 bytes for what lies in one piece."""
        result = []
        for first in range(0, size, REQUEST_BYTES):
            place = index.astype("int64") * element + first
            part = min(REQUEST_BYTES, size - first)
            result += self._site(buffer, place, part, guards, store)
        return result

    def _site(
        self, buffer: Any, place: Any, size: int, guards: tuple[Any, ...], store: bool
    ) -> list[Any]:
        """One instruction: the place of each work-item, then the report."""
        depth = len(self._loops)
        active: list[tuple[Any, int]] = []
        for guard, at in [*self._guards, *((guard, depth) for guard in guards)]:
            data = self._values.depends_on_data(guard)
            if data is not None:
                self._assumed[f"conditions on elements of '{data}' hold"] = None
                continue
            plain = self._analyzer.simplify(self._values.of(guard))
            if static(plain) == 0:
                return []
            if static(plain) is None:
                active.append((plain, at))
        data = self._values.depends_on_data(place)
        if data is not None:
            self._assumed[f"elements of '{data}' that are used as an index are 0"] = None
        place = self._values.of(place)
        root = self._memories.behind(buffer)
        level = self._level(root, place, active)
        number = len(self._sites)
        self._sites.append(Site(self._memories.number(buffer), size, store, level))

        condition = tirx.all(self._work_group >= 0, *(guard for guard, _ in active))
        chosen = tirx.if_then_else(condition, place.astype("int64"), const64(-1))
        at = self._core * self._group + self._item
        core, item = tirx.Var("core", "int64"), tirx.Var("item", "int64")
        write = tirx.BufferStore(self._places, self._located(chosen), [at])
        write = substitute(write, {self._core: core, self._item: item})
        inner = tirx.For(item, const64(0), const64(self._group), tirx.ForKind.SERIAL, write)
        outer = tirx.For(core, const64(0), const64(self._cores), tirx.ForKind.SERIAL, inner)
        report = self._call("access", const64(number), self._places.data, const64(self._group))
        return [outer, report]

    def _level(self, root: Any, place: Any, guards: list[tuple[Any, int]]) -> int:
        """How many loops around an access repeat it.

        A work-item keeps in registers what it has loaded or stored, as compilers do:

        * an access moves out of a loop that neither its place nor its conditions depend on, unless
          a condition inside the loop decides about it, or the loop writes the same memory at
          another place;
        * a sum that is kept in memory is kept in a register throughout its loop;
        * in what is left of its innermost loop, and in the loops around that, written out where
          they are short or marked, it happens once for each place.
        """
        level = 0
        for depth, loop in enumerate(self._loops, start=1):
            if root in loop.kept:
                continue
            inside = any(at >= depth for _, at in guards)
            depends = uses(place, loop.var) or any(uses(guard, loop.var) for guard, _ in guards)
            if inside or depends or root in loop.conflicts:
                level = depth
        return level

    def _located(self, expr: Any) -> Any:
        """Expression with thread axes in terms of the work-group and the work-item."""
        found = {}
        for kind, whole in (("blockIdx", self._work_group), ("threadIdx", self._item)):
            step = 1
            for axis in _AXES:
                tag = f"{kind}.{axis}"
                extent = self._extents.get(tag, 1)
                if tag in self._axes:
                    part = tirx.truncmod(tirx.truncdiv(whole, const64(step)), const64(extent))
                    found[self._axes[tag]] = part if extent > 1 else const64(0)
                step *= extent
        return substitute(expr, found)

    def _element(self, load: TensorLoad) -> Any:
        """Element of a buffer whose data is given, as an expression of the host function."""
        root = self._memories.behind(load.source)
        array = self._given.get(root)
        if array is None or len(load.indices) != 1 or lanes_of(load.indices[0]) != 1:
            return None
        if root not in self._data:
            self._data[root] = tirx.decl_buffer((array.size,), str(array.dtype), root.name)
        index = load.indices[0].astype("int64")
        inside = tirx.max(tirx.min(index, const64(array.size - 1)), const64(0))
        return tirx.BufferLoad(self._data[root], [inside]).astype(load.ty.dtype)

    def _constant(self, extent: Any, tag: str) -> int:
        number = static(extent)
        if number is None:
            raise SmartMemError(
                f"{tag} has the symbolic extent {extent}: bind it to a number, as --shape does"
            )
        return number

    def _product(self, kind: str) -> int:
        product = 1
        for tag, extent in self._extents.items():
            product *= extent if tag.startswith(f"{kind}.") else 1
        return product

    def _bind_range(self, var: Any, extent: int) -> None:
        dtype = dtype_of(var)
        bounds = tvm.ir.Range(tirx.IntImm(dtype, 0), tirx.IntImm(dtype, extent))
        self._analyzer.bind(var, bounds)

    def _forget(self, level: int) -> Any:
        return self._call("forget", const64(level))

    def _call(self, name: str, *arguments: Any) -> Any:
        return tirx.Evaluate(
            tirx.call_extern("int32", f"smartmem_caches_{name}", self._model, *arguments)
        )


def const64(value: int) -> tirx.IntImm:
    """Constant of 64 bits."""
    return tirx.IntImm("int64", value)


def sequence(statements: list[Any]) -> Any:
    """Statements one after the other."""
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


def _pointed(call: tvm.ir.Call) -> Any:
    inner = call.args[0]
    return inner.source if isinstance(inner, TensorLoad) else inner


def _is_call(node: Any, *names: str) -> bool:
    is_call = isinstance(node, tvm.ir.Call) and isinstance(node.op, tvm.ir.Op)
    return is_call and node.op.name in names
