"""From a model to an artefact: import, the pipeline's stages, parameters out, code generation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

import tvm
from tvm import relax
from tvm.relax.op import vm
from tvm.relax.vm_build import VMExecutable

from .analysis import KernelInfo, list_kernels
from .artifact import Artifact
from .devices import AUTO, DeviceProfile, choose_profile
from .errors import SmartMemError
from .execution import BUFFER, opencl_modules
from .frontend import ImportedModel, import_model
from .linking import check_host, default_host, find_linker
from .manifest import Manifest
from .parameters import BIND, ENTRY, lift_parameters
from .pipeline import check_switches, pipeline_stages
from .rpc.session import Remote
from .schedules import ScheduleRule
from .tuning.recorded_rule import Tuned, tuned_functions
from .tuning.records import Records

DTYPES = ("float32", "float16")
_KERNELS_AFTER = "verify"


def compile(
    model: Any,
    device: str | PathLike[str] | DeviceProfile = "auto",
    *,
    dtype: str = "float32",
    host: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    opencl_device: str | int | None = None,
    rpc: Remote | None = None,
    linker: str | None = None,
    disable: Collection[str] = (),
    records: str | PathLike[str] | Records | None = None,
    progress: Callable[[str], None] | None = None,
) -> Artifact:
    """Compile a model for a device.

    Parameters
    ----------
    model : str or Path or onnx.ModelProto or torch.export.ExportedProgram or tvm.IRModule or \
ImportedModel
        An ONNX file, ``zoo:NAME[/SIZE]``, or a model in memory.
    device : str or Path or DeviceProfile
        A device profile, its name or file. ``auto`` reads the real OpenCL device, which is the
        server's where ``rpc`` is given.
    dtype : str
        Storage type of the activations: ``float32`` or ``float16``.
    host : str, optional
        LLVM triple of the machine that drives the device, when it is not this one.
    shapes : Mapping[str, tuple], optional
        Shapes of inputs that the model leaves open.
    opencl_device : str or int, optional
        Which OpenCL device ``auto`` reads and the artefact runs on: an index or part of a name.
    rpc : Remote, optional
        Run the artefact on this session's device instead.
    linker : str, optional
        C++ compiler driver that links for ``host``.
    disable : Collection[str]
        Optimisations to leave out (:data:`smartmem_tvm.pipeline.SWITCHES`).
    records : str or Path or Records, optional
        Tuned schedules: a file that ``smartmem tune`` wrote for this profile. Kernels without a
        record are scheduled by the rules.
    progress : Callable[[str], None], optional
        Called with the name of each stage before it starts.

    Returns
    -------
    Artifact
        Ready to run or to export.

    Raises
    ------
    SmartMemError
        For a model, device, dtype or host that cannot be used; the message says why.
    """
    if dtype not in DTYPES:
        raise SmartMemError(f"dtype '{dtype}' is not offered: use {' or '.join(DTYPES)}.")
    check_switches(disable)
    if host is not None:
        check_host(host)
        find_linker(host, linker)
    info = rpc.device_info() if rpc is not None and device == AUTO else None
    profile = choose_profile(device, dtype, opencl_device, info)
    tuned = Tuned.read(records)
    clock = _Clock(progress)
    with clock.stage("import"):
        imported = model if isinstance(model, ImportedModel) else import_model(model, shapes=shapes)
    target = profile.target(host)
    mod, kernels, functions = _lower(imported.mod, target, dtype, disable, tuned.rules, clock)
    with clock.stage("build"):
        mod, parameters = lift_parameters(mod)
        mod = _bind_to_images(mod)
        executable = _build(mod, target)
    manifest = Manifest(
        model=imported.name,
        profile=profile.to_dict(),
        dtype=dtype,
        host=host or default_host(),
        inputs=tuple(imported.inputs),
        outputs=tuple(imported.outputs),
        operators=imported.operators,
        kernels=tuple(kernels),
        parameter_scopes=_parameter_scopes(mod),
        stages_s=clock.seconds,
        tuned=functions,
        records_digest=tuned.digest,
    )
    return Artifact(
        manifest,
        executable,
        parameters,
        _opencl_sources(executable.mod),
        device=opencl_device,
        rpc=rpc,
        linker=linker,
    )


def _lower(
    mod: tvm.IRModule,
    target: tvm.target.Target,
    dtype: str,
    disable: Collection[str],
    rules: Sequence[ScheduleRule],
    clock: _Clock,
) -> tuple[tvm.IRModule, list[KernelInfo], dict[str, str]]:
    """Run the pipeline's stages; kernels are counted where they are final and still named.

    Returns the module, its kernels, and its functions with recorded schedules.
    """
    functions: dict[str, str] = {}
    kernels: list[KernelInfo] | None = None
    with target:
        for name, passes in pipeline_stages(target, dtype, disable, rules):
            with clock.stage(name):
                mod = tvm.transform.Sequential(passes)(mod)
            if name == _KERNELS_AFTER:
                kernels, functions = list_kernels(mod), tuned_functions(mod)
    if kernels is None:
        raise LookupError(f"the pipeline has no stage '{_KERNELS_AFTER}'")
    return mod, kernels, functions


def _build(mod: tvm.IRModule, target: tvm.target.Target) -> VMExecutable:
    # The Relax pipeline has run already, and running one twice is an error of TVM.
    nothing = tvm.transform.Sequential([])
    return relax.build(mod, target, relax_pipeline=nothing, tir_pipeline="smartmem")


def _parameter_scopes(mod: tvm.IRModule) -> dict[str, str]:
    """Memory scopes of lifted parameters that are no plain buffers, as their types have them."""
    fields = mod[ENTRY].params[-1].ty.fields
    places = {f"p{i}": ty.vdevice for i, ty in enumerate(fields) if ty.vdevice is not None}
    scopes = {name: str(place.memory_scope) for name, place in places.items()}
    return {name: scope for name, scope in scopes.items() if scope != BUFFER}


def _bind_to_images(mod: tvm.IRModule) -> tvm.IRModule:
    """Let ``bind_parameters`` copy to images what an RPC client hands over.

    ::

        def bind_parameters(p0, p1):                def bind_parameters(p0, p1):
            return (p0, p1)                   →         image = alloc_tensor(…)  # of p1's scope
                                                        copy(p1, image)
                                                        return (p0, image)

    A virtual machine takes the tensors of an RPC client by copying them to buffers, whatever scope
    they have.
    """
    scopes = _parameter_scopes(mod)
    if not scopes:
        return mod
    spaces = [str(place.memory_scope) for place in mod.global_infos["vdevice"]]
    types = {f"p{i}": ty for i, ty in enumerate(mod[ENTRY].params[-1].ty.fields)}
    copy = relax.ExternFunc("runtime.TVMTensorCopyFromTo")
    params = [relax.Var(p, relax.TensorType(ty.shape, ty.dtype)) for p, ty in types.items()]
    builder = relax.BlockBuilder()
    with builder.function(BIND, params, attrs={"relax.force_pure": True}):
        bound = []
        for param, ty in zip(params, types.values(), strict=True):
            if param.name not in scopes:
                bound.append(param)
                continue
            dtype, space = str(ty.dtype), spaces.index(scopes[param.name])
            size = math.prod(map(int, ty.shape.values)) * tvm.DataType(dtype).itemsize
            # A storage only names memory: the runtime makes an image of the tensor's extents.
            storage = vm.alloc_storage(relax.ShapeExpr([size]), space, "uint8", BUFFER)
            storage = builder.emit(storage)
            image = vm.alloc_tensor(storage, 0, ty.shape, dtype, space)
            bound.append(builder.emit(image))
            builder.emit(relax.Call(copy, [param, bound[-1]], ty_args=[relax.TupleType([])]))
        builder.emit_func_output(relax.Tuple(bound))
    bind = builder.get()[BIND].with_attr("global_symbol", BIND)
    mod = mod.clone()
    mod[BIND] = bind
    return mod


def _opencl_sources(module: tvm.runtime.Module) -> dict[str, str]:
    """OpenCL C of every device module in the import tree, by file name."""
    modules = opencl_modules(module)
    return {f"kernels_{i}.cl": device.inspect_source() for i, device in enumerate(modules)}


class _Clock:
    """Seconds per stage, in the order in which the stages ran."""

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._progress is not None:
            self._progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 4)
