"""The harness's end of a worker process: requests with limits on time and memory.

A worker is stopped (SIGSTOP) whenever it has no request: threads that a framework leaves spinning
after an inference would slow down whoever runs next.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..processes.parent import ChildEnded, ChildProcess

_POLL_S = 0.05
_GIB = 1 << 30


class WorkerFailure(Exception):
    """A worker that cannot go on; the process is gone or about to be closed.

    Attributes
    ----------
    kind : str
        ``error``, ``crash``, ``time`` or ``memory``.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Worker:
    """One runner in a process of its own.

    Parameters
    ----------
    entry : str
        ``module:class`` of the runner.
    log : Path
        File for what the process prints.
    time_limit_s : float
        Seconds of work in all; those between requests do not count.
    memory_limit : Callable[[], int]
        Bytes that the process and its children may hold, asked while it works.
    """

    def __init__(
        self,
        entry: str,
        log: Path,
        time_limit_s: float,
        memory_limit: Callable[[], int],
        threads: int,
    ) -> None:
        self.memory = 0
        self.peak_memory = 0
        self.seconds = 0.0
        self._time_limit_s = time_limit_s
        self._memory_limit = memory_limit
        self._child = ChildProcess(
            ["smartmem_tvm.bench.worker", entry], log, _thread_settings(threads)
        )

    @property
    def alive(self) -> bool:
        """Whether the process runs or is stopped."""
        return self._child.alive

    def request(self, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its reply.

        Raises
        ------
        WorkerFailure
            If the runner raised, the process ended, or a limit was passed. The worker is closed.
        """
        start = time.monotonic()
        try:
            self._child.send_signal(signal.SIGCONT)
            self._child.send(fields)
            reply = self._receive(start)
            self._child.send_signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise
        finally:
            self.seconds += time.monotonic() - start
        if not reply.pop("ok"):
            self.close()
            raise WorkerFailure("error", reply["error"])
        return reply

    def close(self) -> None:
        """End the process and what it started."""
        self._child.close()
        self.memory = 0

    def _receive(self, start: float) -> dict[str, Any]:
        while True:
            try:
                reply = self._child.receive(_POLL_S)
            except ChildEnded as end:
                raise WorkerFailure("crash", str(end)) from None
            self._check_limits(start)
            if reply is not None:
                return reply

    def _check_limits(self, start: float) -> None:
        self.memory = self._child.resident()
        self.peak_memory = max(self.peak_memory, self.memory)
        limit = self._memory_limit()
        if self.memory > limit:
            raise WorkerFailure(
                "memory", f"the process passed its limit of {limit / _GIB:.2f} GiB (--memory-limit)"
            )
        if self.seconds + time.monotonic() - start > self._time_limit_s:
            raise WorkerFailure(
                "time", f"not done after {self._time_limit_s:.0f} s of work (--time-limit)"
            )


def _thread_settings(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: str(threads) for name in names}
