"""The compilation pipelines: Relax to VM form, and TIR to host and device code.

:func:`pipeline` takes a module of Relax operators to the form that the VM's code generator reads.
Its stages, in order::

    1 simplify      inference form, constants folded, dead code gone
    2 cast_to_half  float16 storage (only for dtype float16)
    3 legalise      operators become PrimFuncs
    4 eliminate     layout transforms become index maps; parallel and elementwise operators join
    5 layouts       every tensor is stored the way that its readers want it
    6 schedule      every PrimFunc gets loops bound to threads; reshapes become views
    7 verify        nothing is left that the device could not run
    8 lower         textures flattened, memory planned, VM instructions

Stages hold TVM's own passes where this package has none yet. Each is a list of ordinary passes in
a named ``Sequential``, so pass instruments (timing, dumps) see every one of them.

``tvm.compile(mod, target, relax_pipeline="smartmem")`` runs it with either TIR pipeline. A PrimFunc
that *allocates* a texture inside itself also needs ``tir_pipeline="smartmem"``, because TVM's
default one does not lower such allocations; textures passed between PrimFuncs do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import tvm
from tvm import relax
from tvm.ir.transform import Pass, Sequential
from tvm.s_tir.backend.adreno.transform import TextureFlatten
from tvm.target import Target
from tvm.tirx import compilation_pipeline

from .errors import SmartMemError
from .passes import (
    BindTexels,
    CastToHalf,
    ClassifyOperators,
    ConcatenateInPlace,
    EliminateLayoutTransforms,
    FuseOperators,
    LegaliseExtremes,
    LegaliseNarrowIntegers,
    LegaliseScans,
    LegaliseScatters,
    LegaliseSorts,
    LowerVectors,
    MapTextures,
    MarkScheduled,
    MergeParallelOperators,
    NameExpressions,
    NarrowIndices,
    PlanMemory,
    RewriteLayouts,
    SelectLayouts,
    SimplifyIndices,
    SplitDividedLoops,
    SplitOutputs,
    StageTextureStores,
    UnrollUnitReductions,
    VerifyThreadBinding,
)
from .schedules import ApplySchedules, ScheduleRule, schedule_rules
from .upstream import (
    Finaliser,
    adreno_tir_pipeline,
    register_opencl_functions,
    truncate_divisions,
)

if TYPE_CHECKING:
    from .devices import DeviceProfile

NAME = "smartmem"
DTYPES = ("float32", "float16")
# What `disable` may leave out: a module compiles without any of them, to the same numbers.
SWITCHES = {
    "eliminate": "relayouts and selections become index maps; concatenations are made in place",
    "merge": "parallel contractions and reductions of one input share a kernel",
    "fuse": "elementwise operators join the kernels before or after them",
    "layouts": "tensors are stored in the order in which their readers reduce over them",
    "textures": "tensors are placed in images where the device prefers them",
    "simplify": "composed index maps are simplified, and once more when all is joined",
}
LOWERED_FOR = "smartmem.lowered_for"


def as_target(device_or_target: DeviceProfile | Target | str) -> Target:
    """Target of a device profile, of a profile's name, or the target itself."""
    if isinstance(device_or_target, str):
        from .devices import resolve_profile

        device_or_target = resolve_profile(device_or_target)
    target = device_or_target
    if not isinstance(target, Target):
        target = target.target()
    if "gpu" not in target.keys:
        raise SmartMemError(
            f"target '{target.kind.name}' runs code on the host, smartmem compiles for OpenCL "
            "devices: give a device profile, or Target('opencl', host='llvm')"
        )
    return target


def _simplify(_target: Target) -> list[Pass]:
    return [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.ConvertToDataflow(),
        relax.transform.FoldConstant(),
        relax.transform.DeadCodeElimination(),
        relax.transform.CanonicalizeBindings(),
    ]


def _cast_to_half(_target: Target) -> list[Pass]:
    # Tensors between kernels become float16 where that is safe; kernels compute in float32. Inputs
    # and outputs keep their type.
    return [
        CastToHalf(),
        relax.transform.FoldConstant(),
        relax.transform.DeadCodeElimination(),
        relax.transform.CanonicalizeBindings(),
    ]


def _legalise(target: Target) -> list[Pass]:
    register_opencl_functions()
    return [
        LegaliseSorts(),
        LegaliseScans(),
        LegaliseScatters(),
        *relax.backend.gpu_generic.library_dispatch_passes(target),
        relax.transform.LegalizeOps(),
        LegaliseExtremes(),
        LegaliseNarrowIntegers(),
        relax.transform.FoldConstant(),
        relax.transform.DeadCodeElimination(),
        relax.transform.CanonicalizeBindings(),
        # Not a part of fusion: the schedule rules keep off marked functions as well.
        MarkScheduled(),
    ]


def _eliminate(_target: Target, disable: Collection[str]) -> list[Pass]:
    simplify = "simplify" not in disable
    # Joining what only moves data is a way to eliminate it.
    joins_fixed = "eliminate" not in disable
    in_place = [ConcatenateInPlace()] if joins_fixed and "fuse" not in disable else []
    passes = {
        "eliminate": EliminateLayoutTransforms(simplify=simplify),
        "merge": MergeParallelOperators(),
        "fuse": FuseOperators(fixed=joins_fixed, simplify=simplify),
        "simplify": SimplifyIndices(),
    }
    return [
        relax.transform.EliminateCommonSubexpr(),
        relax.transform.CanonicalizeBindings(),
        ClassifyOperators(),
        *(made for name, made in passes.items() if name not in disable),
        *in_place,
        relax.transform.DeadCodeElimination(),
        ClassifyOperators(),
    ]


def _layouts(_target: Target, disable: Collection[str]) -> list[Pass]:
    if "layouts" in disable:
        return []
    rewrite = RewriteLayouts(simplify="simplify" not in disable)
    textures = [] if "textures" in disable else [MapTextures()]
    return [SplitOutputs(), SelectLayouts(), rewrite, *textures, ClassifyOperators()]


def _schedule(
    _target: Target, disable: Collection[str], rules: Sequence[ScheduleRule]
) -> list[Pass]:
    # A reshape that moves nothing is a view: no kernel, hence no schedule. Chains of several
    # are recognised only after the schedule has made one block of them.
    views = [relax.transform.RewriteDataflowReshape(), relax.transform.DeadCodeElimination()]
    schedules = [UnrollUnitReductions(), ApplySchedules([*rules, *schedule_rules()])]
    split = [] if "simplify" in disable else [SplitDividedLoops()]
    return [*views, *schedules, *split, truncate_divisions(), NarrowIndices(), *views]


def _verify(_target: Target) -> list[Pass]:
    return [VerifyThreadBinding()]


def _lower(target: Target) -> list[Pass]:
    return [
        StageTextureStores(),
        TextureFlatten(),
        *relax.backend.gpu_generic.dataflow_lower_passes(target),
        *(
            PlanMemory() if made.info.name == "StaticPlanBlockMemory" else made
            for made in relax.backend.gpu_generic.finalize_passes(target)
        ),
    ]


def check_switches(disable: Iterable[str]) -> tuple[str, ...]:
    """Sorted names of what is to be left out, each once; they key what was compiled.

    Raises
    ------
    SmartMemError
        For a name that is not in :data:`SWITCHES`; the message lists those.
    """
    for name in disable:
        if name not in SWITCHES:
            known = ", ".join(f"{known} ({what})" for known, what in SWITCHES.items())
            raise SmartMemError(f"the pipeline has no switch '{name}' to disable: it has {known}.")
    return tuple(sorted(set(disable)))


def pipeline_stages(
    device_or_target: DeviceProfile | Target | str,
    dtype: str = "float32",
    disable: Collection[str] = (),
    rules: Sequence[ScheduleRule] = (),
) -> list[tuple[str, list[Pass]]]:
    """Stages of the pipeline as (name, passes), to be run in order inside ``with target:``.

    The module after stage ``"verify"`` is the one that :func:`smartmem_tvm.analysis.list_kernels`
    reads. Mechanisms named in ``disable`` are left out (:data:`SWITCHES`); `rules` are asked for a
    schedule before those of this package.
    """
    if dtype not in DTYPES:
        raise SmartMemError(f"dtype '{dtype}' is not supported: choose {' or '.join(DTYPES)}")
    left_out = check_switches(disable)
    target = as_target(device_or_target)
    stages = [("simplify", _simplify)]
    if dtype == "float16":
        stages.append(("cast_to_half", _cast_to_half))
    stages += [
        ("legalise", _legalise),
        ("eliminate", lambda target: _eliminate(target, left_out)),
        ("layouts", lambda target: _layouts(target, left_out)),
        ("schedule", lambda target: _schedule(target, left_out, rules)),
        ("verify", _verify),
        ("lower", _lower),
    ]
    return [(name, passes(target)) for name, passes in stages]


def module_before(
    step: str,
    mod: tvm.IRModule,
    target: Target,
    dtype: str = "float32",
    disable: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
) -> tvm.IRModule:
    """The module as it reaches a step: a stage by its name, or a pass of one by its own.

    ``"lower"`` gives it scheduled, with textures not yet flattened; ``"smartmem.ApplySchedules"``
    as the schedule rules get it. `progress` is told the name of every stage that is begun.
    """
    with target:
        for name, passes in pipeline_stages(target, dtype, disable):
            if name == step:
                return mod
            if progress is not None:
                progress(name)
            names = [str(one.info.name) for one in passes]
            if step in names:
                return Sequential(passes[: names.index(step)])(mod)
            mod = Sequential(passes)(mod)
    raise LookupError(f"the pipeline has no step '{step}'")


def pipeline(
    device_or_target: DeviceProfile | Target | str,
    dtype: str = "float32",
    disable: Collection[str] = (),
    rules: Sequence[ScheduleRule] = (),
) -> Pass:
    """Pass that takes a Relax module to VM form for a device.

    Parameters
    ----------
    device_or_target
        A device profile, the name of one, or a target.
    dtype
        Storage of activations and weights inside the model; inputs and outputs keep their type.
    disable
        Optimisations to leave out, by their names in :data:`SWITCHES`: what an ablation does.
    rules
        Schedule rules to ask before those of this package, such as one that knows tuned schedules.

    Returns
    -------
    pass
        For ``tvm.compile(mod, target, relax_pipeline=...)`` or to call on a module. A module that
        it has lowered for the same target comes back unchanged.
    """
    target = as_target(device_or_target)
    stages = [
        Sequential(passes, name=f"{NAME}.{number}_{name}")
        for number, (name, passes) in enumerate(
            pipeline_stages(target, dtype, disable, rules), start=1
        )
    ]

    @tvm.transform.module_pass(opt_level=0, name=f"{NAME}.Pipeline")
    def run(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        lowered_for = mod.get_attr(LOWERED_FOR)
        if lowered_for is not None:
            if str(lowered_for) != str(target):
                raise SmartMemError(
                    f"the module is already lowered, for target {lowered_for}, and cannot be "
                    f"lowered again for {target}: start from the module before compilation"
                )
            return mod
        with target:
            for stage in stages:
                mod = stage(mod)
        return mod.with_attr(LOWERED_FOR, str(target))

    return run


def tir_pipeline() -> tuple[Pass, Finaliser, Finaliser]:
    """Lowering of scheduled PrimFuncs, textures included, and the host and device finalisers."""
    lower, finalise_host, finalise_device = adreno_tir_pipeline()
    passes = [VerifyThreadBinding(), StageTextureStores(), lower]

    def finalise_device_with_vectors() -> Pass:
        return Sequential([finalise_device(), BindTexels(), LowerVectors(), NameExpressions()])

    return Sequential(passes, name=f"{NAME}.TIR"), finalise_host, finalise_device_with_vectors


def _relax_pipeline_for_current_target() -> Pass:
    @tvm.transform.module_pass(opt_level=0, name=f"{NAME}.PipelineForCurrentTarget")
    def run(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        target = Target.current(allow_none=True)
        if target is None:
            raise SmartMemError(
                "the pipeline 'smartmem' needs a target: pass one to tvm.compile, "
                "or run it inside `with target:`"
            )
        return pipeline(target)(mod)

    return run


def register() -> None:
    """Register the name "smartmem" with Relax and with TIR; harmless when done before."""
    if NAME not in relax.pipeline.PIPELINE_MAP:
        relax.register_pipeline(NAME)(_relax_pipeline_for_current_target)
    compilation_pipeline.register_tir_pipeline(NAME, tir_pipeline)
