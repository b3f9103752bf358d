"""What is measured: models compiled by this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from .base import Case, Loaded, Runner


class SmartMem(Runner):
    """A model compiled by :func:`smartmem_tvm.compile`.

    Switches are what an ablation turns off: each is a keyword of ``compile``.
    """

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"dtype": ("float32", "float16")}

    @classmethod
    def dtype(cls, dtype: str, options: Mapping[str, str]) -> str:
        """The switch wins over what the command says for all."""
        return options.get("dtype", dtype)

    def load(self, case: Case) -> Loaded:
        """Compile; the artefact opens its device at the first inference."""
        from ...compiler import compile as compile_model

        switches = {"dtype": case.dtype, **case.options}
        self._artifact = compile_model(
            str(case.model), case.device, opencl_device=case.opencl_device, **switches
        )
        self._inputs = dict(case.inputs)
        manifest = self._artifact.manifest
        return Loaded(
            manifest.launches,
            manifest.layout_launches,
            details={"profile": manifest.profile_name, "stages_s": dict(manifest.stages_s)},
        )

    def outputs(self) -> dict[str, np.ndarray]:
        """Run one inference."""
        return self._artifact.run(self._inputs)

    def run(self) -> float:
        """Time one inference; upload and download are not counted."""
        return self._artifact.benchmark(self._inputs, warmup=0, repeats=1).median
