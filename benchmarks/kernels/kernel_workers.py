"""Worker processes of the bench: what one cannot do costs a kernel, not the run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernel_pool import Entry
from kernel_runners import case_fields

from smartmem_tvm.bench.process import Worker, WorkerFailure

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Limits:
    """Seconds of one request, bytes of one process, and processors."""

    seconds: float
    memory: int
    threads: int = 2


class KernelWorker:
    """A worker that is started when it is needed, and anew after a failure.

    Parameters
    ----------
    kind : str
        Class of :mod:`kernel_runners`.
    work : Path
        The work folder; the log is there.
    limits : Limits
        The time is that of each request.
    profile, device : str
        Device profile to compile for, and OpenCL device to run on.
    name : str
        Tells workers of one kind apart.
    """

    def __init__(
        self,
        kind: str,
        work: Path,
        limits: Limits,
        profile: str,
        device: str | None = None,
        name: str = "",
    ) -> None:
        self._kind, self._work, self._limits = kind, work, limits
        self._profile, self._device = profile, device
        self._log = work / f"{kind}{name}.log"
        self._worker: Worker | None = None
        # The worker imports `kernel_runners` and what stands beside it.
        path = os.environ.get("PYTHONPATH")
        if str(HERE) not in (path or "").split(os.pathsep):
            os.environ["PYTHONPATH"] = f"{HERE}{os.pathsep}{path}" if path else str(HERE)

    def request(
        self, do: str, pool: Path, artefacts: Path, entry: Entry | None = None, **options: str
    ) -> dict[str, Any]:
        """Send a request with a case; raises WorkerFailure."""
        if entry is not None:
            options["entry"] = json.dumps(asdict(entry))
        case = case_fields(
            pool, artefacts, self._profile, self._device, self._limits.threads, **options
        )
        return self._send(do=do, case=case)

    def outputs(self, file: Path) -> float:
        """Write the outputs of what is loaded; milliseconds."""
        return float(self._send(do="outputs", file=str(file))["ms"])

    def run(self) -> float:
        """Milliseconds of a launch of what is loaded."""
        return float(self._send(do="run")["ms"])

    def _send(self, **fields: Any) -> dict[str, Any]:
        limits = self._limits
        if self._worker is None or not self._worker.alive:
            self._worker = Worker(
                f"kernel_runners:{self._kind}",
                self._log,
                limits.seconds,
                lambda: limits.memory,
                limits.threads,
            )
        self._worker.seconds = 0.0  # the limit is for each request
        try:
            return self._worker.request(**fields)
        except WorkerFailure:
            self._worker = None
            raise

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def __enter__(self) -> KernelWorker:
        """Nothing starts yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()
