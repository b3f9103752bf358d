"""onnxruntime on the processor."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .base import Case, Facts, Runner, milliseconds


class OnnxRuntime(Runner):
    """The CPU provider with all graph optimisations."""

    PACKAGE: ClassVar[str | None] = "onnxruntime"

    def load(self, case: Case) -> Facts:
        """Open a session."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = case.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(case.model), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = dict(case.inputs)
        self._names = list(case.output_names)
        return Facts(details={"version": onnxruntime.__version__, "provider": "CPU"})

    def outputs(self) -> dict[str, np.ndarray]:
        """Run one inference."""
        return dict(zip(self._names, self._session.run(self._names, self._inputs), strict=True))

    def run(self) -> float:
        """Time one inference."""
        return milliseconds(lambda: self._session.run(self._names, self._inputs))
