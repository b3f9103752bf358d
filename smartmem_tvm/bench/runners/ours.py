"""What is measured: models compiled by this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from .base import Case, Facts, Runner
from .traffic import footprint_of

_FOLDER = "artefact"


class SmartMem(Runner):
    """A model compiled by :func:`smartmem_tvm.compile`, stored and loaded as an artefact."""

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "dtype": ("float32", "float16"),
        "records": (),
    }
    PARTS: ClassVar[tuple[str, ...]] = ("",)
    REMOTE: ClassVar[bool] = True

    @classmethod
    def dtype(cls, dtype: str, options: Mapping[str, str]) -> str:
        """The switch wins over what the command says for all."""
        return options.get("dtype", dtype)

    @classmethod
    def made_from(cls, options: Mapping[str, str]) -> dict[str, str]:
        """The records of tuned schedules."""
        from ...tuning.records_file import read_records

        file = options.get("records")
        return {} if file is None else {"records": read_records(file).digest}

    def prepare(self, case: Case) -> Facts:
        """Compile and export."""
        from ...compiler import compile as compile_model

        remote = case.connect()
        try:
            artifact = compile_model(
                str(case.model),
                case.device,
                dtype=self.dtype(case.dtype, case.options),
                host=case.host,
                opencl_device=None if remote is not None else case.opencl_device,
                rpc=remote,
                linker=case.linker,
                disable=case.disable,
                records=case.options.get("records"),
            )
        finally:
            if remote is not None:
                remote.close()
        artifact.export(case.artefacts / _FOLDER)
        manifest = artifact.manifest
        return Facts(
            manifest.launches,
            manifest.layout_launches,
            footprint_of(manifest.kernels),
            details={
                "profile": manifest.profile_name,
                "disabled": list(case.disable),
                "tuned": len(manifest.tuned),
                "stages_s": dict(manifest.stages_s),
            },
        )

    def load(self, case: Case) -> Facts:
        """Load the artefact; it opens its device at the first inference."""
        from ...artifact import Artifact

        self._artifact = Artifact.load(
            case.artefacts / _FOLDER, device=case.opencl_device, rpc=case.connect()
        )
        self._inputs = dict(case.inputs)
        return Facts()

    def outputs(self) -> dict[str, np.ndarray]:
        """Run one inference."""
        return self._artifact.run(self._inputs)

    def run(self) -> float:
        """Time one inference; upload and download are not counted."""
        return self._artifact.benchmark(self._inputs, warmup=0, repeats=1).median
