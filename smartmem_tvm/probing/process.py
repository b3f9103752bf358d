"""The asker's end of a probe in a process of its own.

TVM's RPC client waits without limit for a server that hangs, and a driver may hang or crash
whoever launches a kernel: a probe therefore runs in a child, every wait for it is bounded, and its
end in any way is an answer.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..processes.parent import ChildEnded, ChildProcess

DONE = "done"


class ProbeFailure(Exception):
    """A probe that gives no more answers; its process is gone when the ``with`` block ends."""


class ProbeProcess:
    """A function in a child process that answers with a stream of JSON objects.

    Parameters
    ----------
    entry : str
        ``module:function``; called there as ``function(request, emit)``.
    request : Mapping[str, Any]
        What JSON can hold.
    """

    def __init__(self, entry: str, request: Mapping[str, Any]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="smartmem-probe-"))
        self._child = ChildProcess(["smartmem_tvm.probing.worker", entry], self._folder / "log")
        self._child.send(request)

    def receive(self, limit_s: float) -> dict[str, Any] | None:
        """Wait for the next answer; None once the function has returned.

        Raises
        ------
        ProbeFailure
            If none comes within ``limit_s`` seconds, or the process ended without one.
        """
        deadline = time.monotonic() + limit_s
        while True:
            left = deadline - time.monotonic()
            try:
                answer = self._child.receive(max(left, 0.0))
            except ChildEnded as end:
                raise ProbeFailure(f"{end}") from None
            if answer is not None:
                return None if DONE in answer else answer
            if left <= 0:
                raise ProbeFailure(f"no answer within {limit_s:.3g} s")

    def close(self) -> None:
        """End the process and what it started, and remove what it printed."""
        self._child.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> ProbeProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
