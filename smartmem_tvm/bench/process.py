"""The harness's end of a worker process: requests with limits on time and memory.

A worker is stopped (SIGSTOP) whenever it has no request: threads that a framework leaves spinning
after an inference would slow down whoever runs next.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import psutil

_POLL_S = 0.05
# Finding children reads every process of the machine, which would show in what is timed.
_CHILDREN_S = 1.0
_QUIT_S = 5.0
_GIB = 1 << 30
_OF_A_STACK = ('File "', "!!!")


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
        self._log = log
        self._buffer = b""
        with open(log, "wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "smartmem_tvm.bench.worker", entry, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **_thread_settings(threads)},
                # A group of its own: compilers that it starts stop and end with it.
                start_new_session=True,
            )
        # Both exist: they were asked for.
        self._requests = cast(IO[bytes], self._process.stdin)
        self._replies = cast(IO[bytes], self._process.stdout)
        self._watched = psutil.Process(self._process.pid)
        self._family = [self._watched]
        self._look_again = 0.0

    @property
    def alive(self) -> bool:
        """Whether the process runs or is stopped."""
        return self._process.poll() is None

    def request(self, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its reply.

        Raises
        ------
        WorkerFailure
            If the runner raised, the process ended, or a limit was passed. The worker is closed.
        """
        start = time.monotonic()
        try:
            self._signal(signal.SIGCONT)
            self._send(fields)
            reply = json.loads(self._receive(start))
            self._signal(signal.SIGSTOP)
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
        if self.alive:
            self._signal(signal.SIGKILL)
        self._process.wait()
        self.memory = 0
        for stream in (self._requests, self._replies):
            try:
                stream.close()
            except BrokenPipeError:  # an unsent rest of a request
                pass

    def _send(self, fields: dict[str, Any]) -> None:
        try:
            self._requests.write(json.dumps(fields).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError:
            pass  # the process has ended: waiting for its reply says how

    def _receive(self, start: float) -> bytes:
        pipe = self._replies.fileno()
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([pipe], [], [], _POLL_S)
            if ready:
                data = os.read(pipe, 1 << 16)
                if not data:
                    raise WorkerFailure("crash", self._end())
                self._buffer += data
            self._check_limits(start)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _check_limits(self, start: float) -> None:
        self.memory = self._resident()
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

    def _resident(self) -> int:
        total = 0
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + _CHILDREN_S
            try:
                self._family = [self._watched, *self._watched.children(recursive=True)]
            except psutil.NoSuchProcess:
                return 0
        for process in self._family:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                pass
        return total

    def _end(self) -> str:
        """Say how the process ended, with the last line it printed."""
        try:
            code = self._process.wait(_QUIT_S)
        except subprocess.TimeoutExpired:
            return "the process closed its output without an answer"
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code == -signal.SIGKILL:
            how += ", as when the machine is out of memory"
        text = self._log.read_text(encoding="utf-8", errors="replace")
        # Handlers of fatal signals end with a stack of addresses, which says less than the line
        # before it.
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith(_OF_A_STACK)]
        return f"the process ended ({how}){': ' + lines[-1][:200] if lines else ''}"

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass  # ended by itself


def _thread_settings(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: str(threads) for name in names}
