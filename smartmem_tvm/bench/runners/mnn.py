"""MNN on the processor.

Its wheel has no OpenCL, and asking for OpenCL falls back to the processor without a word: nothing
here may be reported as OpenCL.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...errors import ModelError
from .base import Case, Facts, Runner, milliseconds

_CONVERTED = "model.mnn"


class Mnn(Runner):
    """The CPU backend in full precision."""

    PACKAGE: ClassVar[str | None] = "MNN"

    def prepare(self, case: Case) -> Facts:
        """Convert the ONNX file."""
        _convert(str(case.model), str(case.artefacts / _CONVERTED))
        return Facts()

    def load(self, case: Case) -> Facts:
        """Open a module and put the inputs in place."""
        import MNN

        config = {"backend": "CPU", "numThread": case.threads, "precision": "high"}
        manager = MNN.nn.create_runtime_manager((config,))
        self._names = list(case.output_names)
        self._module = MNN.nn.load_module_from_file(
            str(case.artefacts / _CONVERTED),
            list(case.inputs),
            self._names,
            runtime_manager=manager,
        )
        self._inputs = [_variable(value) for value in case.inputs.values()]
        return Facts(details={"version": MNN.version(), "backend": "CPU"})

    def outputs(self) -> dict[str, np.ndarray]:
        """Run one inference."""
        return dict(zip(self._names, self._infer(), strict=True))

    def run(self) -> float:
        """Time one inference; evaluation is lazy, so the outputs are read."""
        return milliseconds(self._infer)

    def _infer(self) -> list[np.ndarray]:
        from MNN import expr

        results = self._module.forward(self._inputs)
        results = results if isinstance(results, (list, tuple)) else [results]
        # A result may be in MNN's packed layout, which reads as if it were plain.
        plain = [expr.convert(r, expr.NCHW) if r.data_format == expr.NC4HW4 else r for r in results]
        return [np.array(value.read(), copy=True) for value in plain]


def _convert(source: str, target: str) -> None:
    # Not the wheel's `mnnconvert` command: importing it installs a package with pip and it reports
    # each conversion to a server. This is the converter that it calls.
    import _tools

    arguments = {"-f": "ONNX", "--modelFile": source, "--MNNModel": target, "--bizCode": "smartmem"}
    _tools.mnnconvert(["mnnconvert", *(word for pair in arguments.items() for word in pair)])


def _variable(value: np.ndarray) -> Any:
    from MNN import expr

    kinds = {"float32": expr.float, "int32": expr.int, "int64": expr.int, "uint8": expr.uint8}
    kind = kinds.get(str(value.dtype))
    if kind is None:
        raise ModelError(f"MNN takes no input of type {value.dtype}.")
    if value.dtype == np.int64:
        # MNN has no 64-bit integers; token identifiers fit.
        value = value.astype(np.int32)
    variable = expr.placeholder(list(value.shape), expr.NCHW, kind)
    variable.write(np.ascontiguousarray(value))
    return variable
