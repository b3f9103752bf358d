"""TVM without this package's passes, on the same OpenCL device and runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Case, Loaded, Runner, milliseconds


class _Tvm(Runner):
    """A module compiled by TVM; subclasses say with which target and pipelines."""

    target: str

    def load(self, case: Case) -> Loaded:
        """Import, compile, upload, and count the launches of a first inference."""
        import tvm
        from tvm import relax

        from ... import runtime
        from ...execution import build_kernels, opencl_modules
        from ...frontend import check_inputs, import_model

        imported = import_model(str(case.model))
        target = tvm.target.Target(self.target, host="llvm")
        counter = _kernel_counter()
        with tvm.transform.PassContext(opt_level=3, instruments=[counter]):
            executable, spaces = self._compile(imported.mod, target)
        self._device = runtime.device(case.opencl_device)
        build_kernels(executable.mod, self._device)
        self._main = relax.VirtualMachine(executable, [self._device] * spaces)["main"]
        arrays = check_inputs(imported.inputs, case.inputs)
        self._inputs = [tvm.runtime.tensor(array, self._device) for array in arrays]
        self._names = [spec.name for spec in imported.outputs]
        kernels, layout_kernels = self._count(counter)
        sources = [module.inspect_source() for module in opencl_modules(executable.mod)]
        images = any("image2d_array_t" in source for source in sources)
        details = {"version": tvm.__version__, "target": self.target, "images": images}
        return Loaded(kernels, layout_kernels, details=details)

    def outputs(self) -> dict[str, np.ndarray]:
        """Run one inference."""
        result = self._main(*self._inputs)
        values = [result] if hasattr(result, "numpy") else list(result)
        return {name: value.numpy() for name, value in zip(self._names, values, strict=True)}

    def run(self) -> float:
        """Time one inference, until the device has finished."""
        self._device.sync()
        return milliseconds(self._launch)

    def _launch(self) -> None:
        self._main(*self._inputs)
        self._device.sync()

    def _compile(self, mod: Any, target: Any) -> tuple[Any, int]:
        """Return the executable and its number of memory spaces."""
        raise NotImplementedError

    def _count(self, counter: Any) -> tuple[int | None, int | None]:
        """Launches as the runtime saw them; those that move data, if the module says the same."""
        from ... import runtime

        if runtime.status().provider != "smartmem":
            return None, None
        with runtime.profile(self._device) as records:
            self._launch()
        listed = counter.kernels
        if listed is None or sum(kernel.calls for kernel in listed) != len(records):
            return len(records), None
        return len(records), sum(kernel.calls for kernel in listed if kernel.layout_only)


class Default(_Tvm):
    """``tvm.compile`` with nothing said but the target."""

    target = "opencl"

    def _compile(self, mod: Any, target: Any) -> tuple[Any, int]:
        import tvm

        return tvm.compile(mod, target), 1


class Adreno(_Tvm):
    """TVM's Relax pipeline for Adreno's textures, and our TIR pipeline.

    TVM's own TIR pipeline for it does not build, and its texture stores write wrong values
    (:mod:`smartmem_tvm.upstream`, faults 1 and 2).
    """

    target = "qcom/adreno-opencl-texture"

    def _compile(self, mod: Any, target: Any) -> tuple[Any, int]:
        import tvm
        from tvm import relax

        lowered = relax.get_default_pipeline(target)(mod)
        # The Relax pipeline has run: running one twice is an error of TVM (fault 6).
        nothing = tvm.transform.Sequential([])
        executable = tvm.compile(lowered, target, relax_pipeline=nothing, tir_pipeline="smartmem")
        infos: Mapping = lowered.global_infos
        return executable, max(1, len(infos["vdevice"]) if "vdevice" in infos else 0)


def _kernel_counter() -> Any:
    """Instrument that lists the kernels when they are scheduled and reshapes are views."""
    import tvm

    from ...analysis import list_kernels
    from ...errors import SmartMemError

    @tvm.instrument.pass_instrument
    class KernelCounter:
        def __init__(self) -> None:
            self.kernels = None

        def run_after_pass(self, mod: Any, info: Any) -> None:
            if info.name == "RewriteDataflowReshape":
                try:
                    self.kernels = list_kernels(mod)
                except SmartMemError:  # launches that depend on run-time values
                    self.kernels = None

    return KernelCounter()
