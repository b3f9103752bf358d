"""Simulates the kernels of a module: requests of work-items, and misses of each cache level.

Every launch starts with empty caches, and what is dirty is written back when it ends: an inference
is the sum of its launches. What a producer would leave in the L2 for its consumer is not counted,
so a kernel that is eliminated saves what it moves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx
from tvm.ir.expr import GenericConst
from tvm_ffi import structural_visit

from ..analysis import find_launches, is_host_function
from ..analysis.expressions import static, uses
from ..analysis.kernels import count_calls, kernel_names
from ..analysis.launches import Launch, bound_thread
from ..errors import SmartMemError
from .cache_model import CacheModel
from .configurations import CacheConfigurations, load_configurations
from .lowering import Memories, lower_for_tracing
from .results import Counts, KernelSimulation, Simulation, sum_kernels
from .sampling import choose_sample
from .trace_kernel import TracedKernel, trace_kernel

_MOST_ROUNDS = 256  # of host loops around a launch
_LAUNCHES = {"tirx.disable_cse_tir": True}


def simulate(
    module: tvm.IRModule,
    target: tvm.target.Target,
    configurations: CacheConfigurations | None = None,
    *,
    sample: int | None = None,
    entry: str = "main",
    split_unaligned: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Simulation:
    """Simulate one inference of a module whose functions are scheduled.

    Parameters
    ----------
    module
        The module after the stage ``"verify"`` of the pipeline.
    target
        What it was scheduled for.
    configurations
        Caches; the package's own three when not given.
    sample
        Simulate about this many work-groups of a launch and estimate the others
        (:mod:`.sampling`); all when not given.
    entry
        The Relax function that makes one inference.
    split_unaligned
        See :func:`.trace_kernel.trace_kernel`.
    progress
        Called with the name of each kernel before it is simulated.

    Raises
    ------
    SmartMemError
        If a function is not scheduled, or `sample` is not positive. A kernel that cannot be
        simulated does not raise: its record has the reason.
    """
    if sample is not None and sample < 1:
        raise SmartMemError(f"a sample of {sample} work-groups: at least 1 is needed.")
    chosen = load_configurations() if configurations is None else configurations
    names = kernel_names(module)
    constants = _constants(module)
    kernels: list[KernelSimulation] = []
    with CacheModel(chosen) as model:
        for func_name, calls in count_calls(module, entry).items():
            func = module[func_name]
            if is_host_function(func):
                continue
            if not find_launches(func):
                raise SmartMemError(
                    f"function '{func_name}' has no thread bindings, so nothing is known of its "
                    "accesses: simulate after the schedule stage"
                )
            if progress is not None:
                progress(func_name)
            for name, found in zip(
                names[func_name],
                simulate_function(
                    func,
                    target,
                    model,
                    sample=sample,
                    data=constants.get(func_name, {}),
                    split_unaligned=split_unaligned,
                ),
                strict=True,
            ):
                kernels.append(_named(found, name, func_name, calls))
    total = sum_kernels(kernels, [each.name for each in chosen.configurations])
    return Simulation(total, tuple(kernels))


def simulate_function(
    func: tirx.PrimFunc,
    target: tvm.target.Target,
    model: CacheModel,
    *,
    sample: int | None = None,
    data: Mapping[int, NDArray[Any]] | None = None,
    split_unaligned: bool = False,
) -> list[KernelSimulation]:
    """Simulate each launch of one scheduled function; they are named by their numbers.

    Parameters
    ----------
    func, target
        The function, and what it was scheduled for.
    model
        Caches; it is used from empty.
    sample, split_unaligned
        As for :func:`simulate`.
    data
        Elements of parameters, by their number: indices and conditions that depend on them are
        evaluated. Others are taken for 0, and conditions on them for true.
    """
    launches = len(find_launches(func))
    try:
        lowered = lower_for_tracing("main", func, target)
        memories = Memories(func)
        memories.declare(lowered)
        found = find_launches(lowered)
        if len(found) != launches:
            raise SmartMemError(f"its {launches} launches became {len(found)} when it was lowered")
    except SmartMemError as error:
        return [_refused(number, str(error)) for number in range(launches)]
    given = {
        lowered.params[number]: np.ascontiguousarray(array).reshape(-1)
        for number, array in (data or {}).items()
    }
    results = []
    for number, launch in enumerate(found):
        try:
            rounds = [
                _simulate_launch(launch, memories, model, given, values, sample, split_unaligned)
                for values in _rounds(lowered, launch)
            ]
        except SmartMemError as error:
            results.append(_refused(number, str(error)))
            continue
        repeats = 1 if launch.repeats is None else launch.repeats
        results.append(_together(number, repeats, rounds))
    return results


def _simulate_launch(
    launch: Launch,
    memories: Memories,
    model: CacheModel,
    given: Mapping[Any, NDArray[Any]],
    fixed: Mapping[Any, int],
    sample: int | None,
    split_unaligned: bool,
) -> tuple[TracedKernel, int, Counts]:
    cores = model.configurations.cores
    traced = trace_kernel(launch, memories, cores, given, fixed, split_unaligned)
    with tvm.transform.PassContext(opt_level=3, config=_LAUNCHES):
        compiled = tvm.compile(tvm.IRModule({"trace": traced.function}), "llvm")
    run = compiled["trace"]
    places = tvm.runtime.tensor(np.zeros(cores * traced.group_size, np.int64))
    data = [tvm.runtime.tensor(given[buffer]) for buffer in traced.data]
    chosen = choose_sample(traced.work_groups, sample, cores)
    model.begin(memories.found, traced.sites)
    after = []
    for number, each in enumerate(chosen.runs):
        turns = -(-len(each.groups) // cores)
        listed = np.full(turns * cores, -1, np.int64)
        listed[: len(each.groups)] = each.groups
        run(model.handle, tvm.runtime.tensor(listed), turns, places, *data)
        if number == len(chosen.runs) - 1:
            model.end()
        after.append(model.read())
    return traced, chosen.simulated, chosen.estimate(after)


def _rounds(func: tirx.PrimFunc, launch: Launch) -> list[dict[Any, int]]:
    """Values of the host loops around a launch, for each round in which it differs."""
    loops: list[tirx.For] = []
    around: list[tirx.For] = []

    def statement(stmt: Any, visitor: Any) -> Any:
        if stmt.same_as(launch.body):
            around.extend(loops)
            return None
        if bound_thread(stmt) is not None or not isinstance(stmt, tirx.For):
            return visitor.default_visit(stmt)
        loops.append(stmt)
        result = visitor.default_visit(stmt)
        loops.pop()
        return result

    structural_visit(func.body, [((tirx.For, tirx.AttrStmt), statement)])
    ranges = []
    for loop in around:
        low, extent = static(loop.min), static(loop.extent)
        if low is None or extent is None or extent > _MOST_ROUNDS:
            raise SmartMemError(
                f"the host loop '{loop.loop_var.name}' around it has the extent {loop.extent}: a "
                f"constant one of at most {_MOST_ROUNDS} rounds is simulated"
            )
        ranges.append(range(low, low + extent))
    if not any(uses(launch.body, loop.loop_var) for loop in around):
        return [{}]
    variables = [loop.loop_var for loop in around]
    return [dict(zip(variables, values, strict=True)) for values in itertools.product(*ranges)]


def _together(
    number: int, repeats: int, rounds: list[tuple[TracedKernel, int, Counts]]
) -> KernelSimulation:
    """Mean of the rounds: `calls` counts them all."""
    traced, simulated, counts = rounds[0]
    for _, _, more in rounds[1:]:
        counts = counts.plus(more)
    if len(rounds) > 1:
        empty = counts.plus(counts, -1.0)
        counts = empty.plus(counts, 1 / len(rounds))
    assumed = tuple(dict.fromkeys(text for each, _, _ in rounds for text in each.assumed))
    return KernelSimulation(
        str(number), "", repeats, counts, traced.work_groups, simulated, assumed, None
    )


def _refused(number: int, reason: str) -> KernelSimulation:
    return KernelSimulation(str(number), "", 1, None, refused=reason.partition("\nError in")[0])


def _named(found: KernelSimulation, name: str, func: str, calls: int) -> KernelSimulation:
    return replace(found, name=name, func=func, calls=calls * found.calls)


def _constants(module: tvm.IRModule) -> dict[str, dict[int, NDArray[Any]]]:
    """Integer constants that functions are called with, where all calls agree in them."""
    found: dict[str, dict[int, NDArray[Any]]] = {}
    clashing: set[tuple[str, int]] = set()
    call_tir = tvm.ir.Op.get("relax.call_tir")

    def visit(node: Any) -> None:
        if not isinstance(node, relax.Call) or not node.op.same_as(call_tir):
            return
        callee = node.args[0].name_hint
        arguments = node.args[1].fields if isinstance(node.args[1], relax.Tuple) else ()
        for number, argument in enumerate(arguments):
            known = found.setdefault(callee, {})
            if not isinstance(argument, GenericConst) or "int" not in str(argument.value.dtype):
                clashing.add((callee, number))
                continue
            array = argument.value.numpy()
            if number in known and not np.array_equal(known[number], array):
                clashing.add((callee, number))
            known[number] = array

    for func in module.functions.values():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    return {
        callee: {n: array for n, array in known.items() if (callee, n) not in clashing}
        for callee, known in found.items()
    }
