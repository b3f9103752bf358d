"""A process with limits on time and memory."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass

import psutil

GIB = 1 << 30
_POLL_S = 0.2


@dataclass(frozen=True)
class Limits:
    """What a process may take."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Outcome:
    """How a process ended: what it printed, what it took, and the limit it passed, if any."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_memory: int
    passed_limit: str | None


def run(command: list[str], environment: dict[str, str], limits: Limits) -> Outcome:
    """Run a command in a process group of its own; past a limit, end the group."""
    start = time.monotonic()
    peak, passed_limit = 0, None
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            while process.poll() is None and passed_limit is None:
                time.sleep(_POLL_S)
                peak = max(peak, _resident(process.pid))
                if peak > limits.memory:
                    passed_limit = f"memory: more than {limits.memory / GIB:g} GiB"
                elif time.monotonic() - start > limits.seconds:
                    passed_limit = f"time: not done after {limits.seconds:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seconds = time.monotonic() - start
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    return Outcome(process.returncode, texts[0], texts[1], seconds, peak, passed_limit)


def _resident(pid: int) -> int:
    """Bytes that a process and its children hold."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # one that just ended
    return total


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"ended by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def last_line(text: str) -> str:
    """The line that says most about a failure: an error's message ends what is printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # A handler of fatal signals ends with a stack of addresses.
    lines = [line for line in lines if not line.startswith(('File "', "!!!"))]
    return lines[-1] if lines else "nothing was printed"
