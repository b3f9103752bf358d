"""A process of the bench (:mod:`tuning_child`), with limits on time and memory."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smartmem_tvm.bench.process import WorkerFailure
from smartmem_tvm.processes.parent import ChildEnded, ChildProcess

HERE = Path(__file__).resolve().parent
# The child imports modules of this folder, and of the kernel bench.
FOLDERS = (HERE, HERE.parent / "kernels")
_POLL_S = 0.25
_LEAVE_S = 5.0
GIB = 1 << 30


class BenchWorker:
    """A process that serves requests; a context manager that ends it with all that it started.

    Parameters
    ----------
    log : Path
        File for what it prints.
    memory : int
        Bytes that it may hold, with what it starts.
    environment : Mapping[str, str], optional
        Variables beside those of this process.
    """

    def __init__(
        self, log: Path, memory: int, environment: Mapping[str, str] | None = None
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._memory = memory
        paths = [*map(str, FOLDERS), *filter(None, [os.environ.get("PYTHONPATH")])]
        # Each candidate's program is compiled once: kept, it would only displace those of models.
        own = {"PYTHONPATH": os.pathsep.join(paths), "SMARTMEM_CACHE_DIR": "off"}
        self._child = ChildProcess(["tuning_child"], log, {**own, **(environment or {})})

    def request(self, seconds: float, do: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its reply.

        Raises
        ------
        WorkerFailure
            If the process raised or ended, or passed a limit; it is gone then.
        """
        deadline = time.monotonic() + seconds
        self._child.send({"do": do, **fields})
        try:
            while (reply := self._child.receive(_POLL_S)) is None:
                if time.monotonic() > deadline:
                    raise WorkerFailure("time", f"not done after {seconds:g} s")
                if self._child.resident() > self._memory:
                    limit = f"{self._memory / GIB:g} GiB"
                    raise WorkerFailure("memory", f"the process passed its limit of {limit}")
            if not reply.pop("ok"):
                raise WorkerFailure("error", str(reply["error"]))
        except ChildEnded as end:
            self._child.close()
            raise WorkerFailure("crash", str(end)) from None
        except BaseException:
            self._child.close()
            raise
        return reply

    def __enter__(self) -> BenchWorker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._child.finish(_LEAVE_S if exception[0] is None else 0.0)
