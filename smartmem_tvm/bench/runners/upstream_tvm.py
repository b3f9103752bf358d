"""TVM without this package's passes, on the same OpenCL device and runtime."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .base import Case, Facts, Runner
from .traffic import footprint_of
from .tvm_machine import open_machine

if TYPE_CHECKING:
    from ...analysis import KernelInfo

_LIBRARY = "model.so"
_PARAMETERS = "parameters.bin"
_STORED = "model.json"
_KERNEL = re.compile(r"__kernel\s+void\s+(?:__attribute__\(\(.*?\)\)\)?\s+)?(\w+)\(([^)]*)\)")


class _Tvm(Runner):
    """A module compiled by TVM; subclasses say with which target and pipelines."""

    # What lists the kernels counts, the rest of the analysis does not: compiling anew takes hours.
    PARTS: ClassVar[tuple[str, ...]] = (
        "parameters",
        "linking",
        "bench.runners.traffic",
        "analysis.expressions",
        "analysis.footprint",
        "analysis.kernels",
        "analysis.launches",
        "analysis.layout_only",
        "analysis.traffic_accesses",
        "analysis.traffic_digits",
        "analysis.traffic_sets",
        "analysis.traffic_values",
    )
    REMOTE: ClassVar[bool] = True

    target: str
    tir_pipeline: str | None = None

    def __init__(self) -> None:
        self._machine: Any = None

    def prepare(self, case: Case) -> Facts:
        """Import, compile, store; then count the launches of a first inference."""
        import tvm

        from ...execution import opencl_modules
        from ...frontend import import_model
        from ...linking import default_host, link
        from ...parameters import ENTRY, lift_parameters

        imported = import_model(str(case.model))
        target = tvm.target.Target(self.target, host={"kind": "llvm", **_triple(case.host)})
        counter = _kernel_counter()
        with tvm.transform.PassContext(opt_level=3, instruments=[counter]):
            lowered = self._lower(imported.mod, target)
            lowered, parameters = lift_parameters(lowered)
            # The Relax pipeline has run: running one twice is an error of TVM (fault 6).
            nothing = tvm.transform.Sequential([])
            executable = tvm.compile(
                lowered,
                target,
                relax_pipeline=nothing,
                **({} if self.tir_pipeline is None else {"tir_pipeline": self.tir_pipeline}),
            )
        infos = lowered.global_infos
        fields = zip(parameters, lowered[ENTRY].params[-1].ty.fields, strict=True)
        stored = {
            "inputs": [spec.name for spec in imported.inputs],
            "outputs": [spec.name for spec in imported.outputs],
            "spaces": max(1, len(infos["vdevice"]) if "vdevice" in infos else 0),
            "scopes": {
                name: str(ty.vdevice.memory_scope) for name, ty in fields if ty.vdevice is not None
            },
        }
        link(executable, case.artefacts / _LIBRARY, case.host or default_host(), case.linker)
        tvm.runtime.save_param_dict_to_file(parameters, str(case.artefacts / _PARAMETERS))
        (case.artefacts / _STORED).write_text(json.dumps(stored), encoding="utf-8")
        sources = [module.inspect_source() for module in opencl_modules(executable.mod)]
        del executable, lowered, parameters, imported
        details = {"version": tvm.__version__, "target": self.target, **_images(sources)}
        self.load(case)
        return self._count(counter.kernels, details)

    def load(self, case: Case) -> Facts:
        """Open the library, upload parameters and inputs."""
        if self._machine is not None:  # by ``prepare``, in this process
            return Facts()
        stored = json.loads((case.artefacts / _STORED).read_text(encoding="utf-8"))
        self._names = stored["outputs"]
        self._machine = open_machine(
            case,
            case.artefacts / _LIBRARY,
            case.artefacts / _PARAMETERS,
            stored["spaces"],
            stored["scopes"],
        )
        self._machine.bind([case.inputs[name] for name in stored["inputs"]])
        return Facts()

    def outputs(self) -> dict[str, np.ndarray]:
        """Run one inference."""
        self._machine.invoke()
        return dict(zip(self._names, self._machine.outputs(), strict=True))

    def run(self) -> float:
        """Time one inference, until the device has finished."""
        return self._machine.time()

    def _lower(self, mod: Any, target: Any) -> Any:
        """Run TVM's Relax pipeline for the target."""
        from tvm import relax

        return relax.get_default_pipeline(target)(mod)

    def _count(self, listed: list[KernelInfo] | None, details: dict[str, Any]) -> Facts:
        """Launches as the runtime saw them; what the module says of them if it says the same."""
        launches = self._machine.launches()
        if launches is None:
            launches = None if listed is None else sum(kernel.calls for kernel in listed)
        if listed is None or sum(kernel.calls for kernel in listed) != launches:
            return Facts(launches, details=details)
        return Facts(
            launches,
            sum(kernel.calls for kernel in listed if kernel.layout_only),
            footprint_of(listed),
            details=details,
        )


class Default(_Tvm):
    """``tvm.compile`` with nothing said but the target."""

    target = "opencl"


class Adreno(_Tvm):
    """TVM's Relax pipeline for Adreno's textures, and our TIR pipeline.

    TVM's own TIR pipeline for it does not build, and its texture stores write wrong values
    (:mod:`smartmem_tvm.upstream`, faults 1 and 2); its Relax pipeline has two faults more
    (:mod:`.adreno_faults`). Textures are placed around packed convolutions alone: a transformer
    gets none. ``details`` has the number of image arguments.
    """

    PARTS: ClassVar[tuple[str, ...]] = (
        *_Tvm.PARTS,
        "upstream",
        "opencl_source",
        "pipeline",
        "analysis.texels",
        "bench.runners.adreno_faults",
        "passes._texture_access",
        "passes._texture_legality",
        "passes.bind_texels",
        "passes.lower_vectors",
        "passes.name_expressions",
        "passes.stage_texture_stores",
        "passes.verify_thread_binding",
    )
    REMOTE: ClassVar[bool] = False
    NOT_REMOTE: ClassVar[str] = "it places weights in textures, which is done on this machine alone"

    target = "qcom/adreno-opencl-texture"
    tir_pipeline = "smartmem"

    def _lower(self, mod: Any, target: Any) -> Any:
        from .adreno_faults import mended_pipeline

        with target:
            return mended_pipeline(target)(mod)


def _triple(host: str | None) -> dict[str, str]:
    return {} if host is None else {"mtriple": host}


def _images(sources: list[str]) -> dict[str, int]:
    """Kernels that take images, and how many image arguments they have together."""
    # A kernel whose source is in several modules counts once.
    kernels = {
        name: text.count("image2d_array_t") for s in sources for name, text in _KERNEL.findall(s)
    }
    return {
        "image_kernels": sum(count > 0 for count in kernels.values()),
        "image_arguments": sum(kernels.values()),
    }


def _kernel_counter() -> Any:
    """Instrument that lists the kernels when they are scheduled and reshapes are views."""
    import tvm

    from ...analysis import list_kernels
    from ...errors import SmartMemError

    @tvm.instrument.pass_instrument
    class KernelCounter:
        def __init__(self) -> None:
            self.kernels: list[KernelInfo] | None = None

        def run_after_pass(self, mod: Any, info: Any) -> None:
            if info.name == "RewriteDataflowReshape":
                try:
                    self.kernels = list_kernels(mod)
                except SmartMemError:  # launches that depend on run-time values
                    self.kernels = None

    return KernelCounter()
