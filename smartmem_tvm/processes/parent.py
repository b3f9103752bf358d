"""The parent's end of a worker process: it starts it, talks to it, watches it and ends it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import psutil

# Finding children reads every process of the machine, which would show in what is timed.
_CHILDREN_S = 1.0
_QUIT_S = 5.0
_OF_A_STACK = ('File "', "!!!")


class ChildEnded(Exception):
    """The process ended without an answer; the message says how."""


class ChildProcess:
    """A Python module in a process of its own, in a group with all that it starts.

    It is killed when the thread that started it ends (:func:`smartmem_tvm.processes.child.
    die_with`), so start it from one that lives as long.

    Parameters
    ----------
    arguments : Sequence[str]
        What stands after ``python -m``: the module and its arguments. This process's number
        follows them.
    log : Path
        File for what the process prints.
    environment : Mapping[str, str], optional
        Variables beside those of this process.
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        self._buffer = b""
        self._closed = False
        with open(log, "wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(environment or {})},
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
    def pid(self) -> int:
        """Number of the process and of its group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs or is stopped."""
        return self._process.poll() is None

    def fileno(self) -> int:
        """The pipe of replies, for ``select``."""
        return self._replies.fileno()

    def send(self, fields: Mapping[str, Any]) -> None:
        """Send a request; where the process has ended, waiting for its reply says so."""
        try:
            self._requests.write(json.dumps(fields).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError:
            pass

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next line that the process sent; None where none comes in time.

        Raises
        ------
        ChildEnded
            If the process ended, or closed its output.
        """
        if b"\n" not in self._buffer and select.select([self._replies], [], [], seconds)[0]:
            data = os.read(self._replies.fileno(), 1 << 16)
            if not data:
                raise ChildEnded(self._end())
            self._buffer += data
        if b"\n" not in self._buffer:
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return cast("dict[str, Any]", json.loads(line))

    def resident(self) -> int:
        """Bytes that the process and its children hold."""
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

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and what it started."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass  # ended by itself

    def finish(self, seconds: float) -> None:
        """Close the requests, let the process end by itself, and end it where it does not."""
        try:
            self._requests.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        self.close()

    def close(self) -> None:
        """End the process and what it started."""
        if not self._closed:  # its number may be another group's later
            self._closed = True
            self.send_signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._requests, self._replies):
            try:
                stream.close()
            except BrokenPipeError:  # an unsent rest of a request
                pass

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
