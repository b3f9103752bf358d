"""OpenVINO on the processor."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .base import Case, Facts, Runner, milliseconds


class OpenVino(Runner):
    """The CPU plugin, in float32 and tuned for latency."""

    PACKAGE: ClassVar[str | None] = "openvino"

    def load(self, case: Case) -> Facts:
        """Compile the ONNX file and put the inputs in place."""
        import openvino

        core = openvino.Core()
        model = core.read_model(str(case.model))
        self._names = list(case.output_names)
        # The plugin lowers to bfloat16 on processors that have it unless told otherwise.
        config = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(case.threads),
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._request = core.compile_model(model, "CPU", config).create_infer_request()
        for name, value in case.inputs.items():
            self._request.set_tensor(name, openvino.Tensor(np.ascontiguousarray(value)))
        return Facts(details={"version": openvino.__version__, "plugin": "CPU"})

    def outputs(self) -> dict[str, np.ndarray]:
        """Run one inference."""
        self._request.infer()
        return {name: self._request.get_tensor(name).data.copy() for name in self._names}

    def run(self) -> float:
        """Time one inference."""
        return milliseconds(self._request.infer)
