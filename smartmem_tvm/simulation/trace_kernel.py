"""A launch as a host function that reports its accesses instead of computing.

::

    for bx in blockIdx.x(2), tx in threadIdx.x(16):
        for r in range(32):
            if tx < 12:
                s[0] = s[0] + A[bx * 512 + r * 16 + tx]
        C[bx * 16 + tx] = s[0]
    →
    for turn in range(turns):                       # one work-group for each core
        forget(model, 0)
        for r in range(32):
            forget(model, 1)
            for core in range(4), lane in range(16):
                places[core, lane] = 4 * (groups[turn, core] * 512 + r * 16 + lane)
                                     if groups[turn, core] >= 0 and lane < 12 else -1
            access(model, 0, places, 16)
        for core in range(4), lane in range(16): …  # C
            access(model, 1, places, 16)

Work-groups go to the cores in turn, and all cores advance together, instruction by instruction; so
do the waves of a work-group, which is what barriers ask for. A work-item that a condition excludes
takes part in no access. Loops run as often as the work-item that needs most, the others are masked.

What is an access is said in :mod:`.trace_accesses`.

Requires: a launch of a function from :func:`.lowering.lower_for_tracing`.
Guarantees: a function of (model, groups, turns, places, data…) for LLVM. Refused with a reason:
symbolic extents, loops whose rounds depend on data, pointers to device memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_equal, structural_walk

from ..analysis.expressions import static, substitute, uses
from ..analysis.launches import Launch, bound_thread
from ..analysis.traffic_accesses import is_device_memory
from ..errors import SmartMemError
from .cache_model import Site
from .lowering import Memories
from .trace_accesses import AccessTracer, RolledLoop, const64, sequence

_SHORT = 8  # iterations of a loop that compilers unroll unasked
_STEPS = "pragma_auto_unroll_max_step"


@dataclass
class TracedKernel:
    """What :func:`trace_kernel` makes of a launch.

    Attributes
    ----------
    function
        The host function.
    sites
        Its memory instructions, by the numbers that it reports.
    work_groups, group_size
        Extent of the launch, in work-groups and work-items.
    data
        Buffers whose elements it takes after its other arguments.
    assumed
        What it takes elements for that are not given.
    """

    function: tirx.PrimFunc
    sites: list[Site]
    work_groups: int
    group_size: int
    data: list[Any]
    assumed: tuple[str, ...]


def trace_kernel(
    launch: Launch,
    memories: Memories,
    cores: int,
    given: Mapping[Any, Any] | None = None,
    fixed: Mapping[Any, int] | None = None,
    split_unaligned: bool = False,
) -> TracedKernel:
    """Make the host function of a launch.

    Parameters
    ----------
    launch
        Of the lowered function.
    memories
        Device memory of that function; what the launch names is added.
    cores
        Cores that work-groups go to in turn.
    given
        Buffers whose elements are known: in indices and conditions they are read.
    fixed
        Values of host loops around the launch.
    split_unaligned
        Whether vectors count lane by lane where their address is not proved to be a multiple of
        their size, which is how TVM's code generator writes them without
        :class:`smartmem_tvm.passes.LowerVectors`.
    """
    return _Tracer(launch, memories, cores, given or {}, fixed or {}, split_unaligned).run()


class _Tracer(AccessTracer):
    """Walks a launch and writes the host function."""

    _unroll_steps = 0

    def run(self) -> TracedKernel:
        """Trace the launch."""
        body = self._statement(self._launch.body)
        turns = tirx.Var("turns", "int64")
        whole = sequence([self._forget(0), *body])
        loop = tirx.For(self._turn, const64(0), turns, tirx.ForKind.SERIAL, whole)
        params = [self._model, self._group_list, turns, self._places, *self._data.values()]
        function = tirx.PrimFunc(params, loop).with_attr("global_symbol", "trace")
        return TracedKernel(
            function,
            self._sites,
            self._groups,
            self._group,
            list(self._data),
            tuple(self._assumed),
        )

    def _statement(self, stmt: Any) -> list[Any]:
        handlers: dict[type, Any] = {
            tirx.SeqStmt: lambda s: [new for item in s for new in self._statement(item)],
            tirx.For: self._loop,
            tirx.AttrStmt: self._attribute,
            tirx.IfThenElse: self._branch,
            tirx.Bind: self._bind,
            tirx.BufferStore: self._store,
            tirx.Evaluate: lambda s: self._reads(s.value, ()),
            tirx.DeclBuffer: lambda s: [],
            tirx.AllocBuffer: lambda s: [],
            tirx.AssertStmt: lambda s: [],
        }
        handler = handlers.get(type(stmt))
        if handler is None:
            raise SmartMemError(
                f"it has a statement of kind {type(stmt).__name__}, whose rounds or effects depend "
                "on data"
            )
        result: list[Any] = handler(stmt)
        return result

    def _attribute(self, stmt: tirx.AttrStmt) -> list[Any]:
        bound = bound_thread(stmt)
        if bound is not None and bound[0] in self._axes:
            return self._thread(stmt.node.var, *bound, stmt.body)
        outer = self._unroll_steps
        if stmt.attr_key == _STEPS:
            self._unroll_steps = static(stmt.value) or 0
        body = self._statement(stmt.body)
        self._unroll_steps = outer
        return body

    def _thread(self, var: Any, tag: str, extent: Any, body: Any) -> list[Any]:
        axis = self._axes[tag]
        self._values.bind(var, axis.astype(var.ty.dtype))
        size = self._constant(extent, tag)
        narrow = size < self._extents[tag]
        if narrow:
            self._guards.append((axis < size, len(self._loops)))
        result = self._statement(body)
        if narrow:
            self._guards.pop()
        return result

    def _loop(self, loop: tirx.For) -> list[Any]:
        bound = bound_thread(loop)
        if bound is not None and bound[0] in self._axes:
            return self._thread(loop.loop_var, *bound, loop.body)
        low, extent = self._values.substituted(loop.min), self._values.substituted(loop.extent)
        accesses = self._reads(extent, ())
        most = static(self._analyzer.simplify(extent))
        masked = most is None
        if most is None:
            most = self._most(extent, loop.loop_var)
        if most <= 0:
            return accesses
        # One variable of our own: the original may start elsewhere, or differ between work-items.
        var = tirx.Var(loop.loop_var.name, loop.loop_var.ty)
        self._bind_range(var, most)
        self._values.bind(loop.loop_var, self._analyzer.simplify(var + low))
        if masked:
            self._guards.append((var < self._values.of(extent), len(self._loops)))
        rolled = self._stays(loop, most)
        if rolled:
            self._loops.append(RolledLoop(var, *self._reused(loop, var)))
        depth = len(self._loops)
        body = self._statement(loop.body)
        if rolled:
            self._loops.pop()
        if masked:
            self._guards.pop()
        if not body:
            return accesses
        start, count = tirx.IntImm(var.ty.dtype, 0), tirx.IntImm(var.ty.dtype, most)
        if rolled:
            body = [self._forget(depth), *body]
        new = tirx.For(var, start, count, tirx.ForKind.SERIAL, sequence(body))
        return [*accesses, new, *([self._forget(depth)] if rolled else [])]

    def _most(self, extent: Any, var: Any) -> int:
        """Rounds of a loop whose extent depends on the work-item or on loops around it."""
        data = self._values.depends_on_data(extent)
        if data is not None:
            raise SmartMemError(
                f"loop '{var.name}' runs as often as an element of '{data}' says, which is not "
                "known before the kernel runs"
            )
        bound = self._analyzer.const_int_bound(extent).max_value
        if bound >= self._analyzer.const_int_bound(tirx.Var("any", extent.ty)).max_value:
            raise SmartMemError(
                f"loop '{var.name}' has the symbolic extent {extent}: bind it to a number"
            )
        return int(bound)

    def _stays(self, loop: tirx.For, extent: int) -> bool:
        """Whether compilers keep the loop instead of writing its iterations out."""
        if loop.kind != tirx.ForKind.SERIAL or extent <= _SHORT:
            return False
        return extent * _steps(loop.body) > self._unroll_steps

    def _reused(self, loop: tirx.For, var: Any) -> tuple[set[Any], set[Any]]:
        """Memory that a loop writes: what it accesses at several places, and what at one place."""
        places: dict[Any, list[Any]] = {}
        written: set[Any] = set()
        inner: dict[Any, Any] = {}
        alike: dict[int | None, Any] = {}

        def visit(node: Any) -> None:
            if isinstance(node, tirx.For):
                # Loops of one length walk alike: an initial value and its update have their own.
                same = alike.setdefault(static(node.extent), node.loop_var)
                inner[node.loop_var] = same.astype(node.loop_var.ty.dtype)
                return
            buffer = node.source if isinstance(node, TensorLoad) else node.buffer
            if is_device_memory(buffer):
                root = self._memories.behind(buffer)
                place = [self._values.substituted(index) for index in node.indices]
                places.setdefault(root, []).append(place)
                if isinstance(node, tirx.BufferStore):
                    written.add(root)

        structural_walk(loop.body, ((tirx.For, TensorLoad, tirx.BufferStore), visit), order="pre")
        conflicts, kept = set(), set()
        for root in written:
            first, *others = ([substitute(i, inner) for i in place] for place in places[root])
            if not all(structural_equal(first, other) for other in others):
                conflicts.add(root)
            elif not any(uses(index, var) for index in first):
                kept.add(root)
        return conflicts, kept

    def _branch(self, stmt: tirx.IfThenElse) -> list[Any]:
        condition = self._values.substituted(stmt.condition)
        result = self._reads(condition, ())
        for guard, branch in ((condition, stmt.then_case), (tirx.Not(condition), stmt.else_case)):
            if branch is None:
                continue
            guard = self._analyzer.simplify(guard)
            if static(guard) == 0:
                continue
            self._guards.append((guard, len(self._loops)))
            result += self._statement(branch)
            self._guards.pop()
        return result

    def _bind(self, stmt: tirx.Bind) -> list[Any]:
        value = self._values.substituted(stmt.value)
        result = self._reads(value, ())
        self._values.bind(stmt.var, value)
        return result

    def _store(self, store: tirx.BufferStore) -> list[Any]:
        result = []
        for index in store.indices:
            result += self._reads(index, ())
        result += self._reads(store.value, ())
        if is_device_memory(store.buffer):
            result += self._access(store.buffer, store.indices, (), store=True)
        elif str(store.buffer.ty.storage_scope) == "local":
            self._values.store(store)
        return result


def _steps(body: Any) -> int:
    """Iterations of the longest nest of loops in a statement."""
    if isinstance(body, tirx.For):
        return (static(body.extent) or 1) * _steps(body.body)
    if isinstance(body, tirx.SeqStmt):
        return max((_steps(item) for item in body), default=1)
    if isinstance(body, tirx.IfThenElse):
        return max(_steps(body.then_case), _steps(body.else_case))
    return _steps(body.body) if hasattr(body, "body") else 1
