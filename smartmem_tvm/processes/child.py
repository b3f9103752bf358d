"""A worker's own end: its replies, and its end when the parent is gone."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Be killed when the process `parent` ends in any way, SIGKILL included."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    try:
        # Where memory runs out all the same, the kernel is to end a worker and not its parent.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        pass


def private_stdout() -> IO[str]:
    """Keep the pipe to the parent; what libraries print to stdout goes to stderr."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def reply(stream: IO[str], value: Mapping[str, Any]) -> None:
    """Send a line."""
    stream.write(json.dumps(value) + "\n")
    stream.flush()


def one_line(error: BaseException) -> str:
    """An error as a line of at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # TVM's errors open with a stack; the sentence that says what went wrong is the last line.
    text = lines[0] if lines and not lines[0].startswith("Traceback") else (lines or [""])[-1]
    return f"{type(error).__name__}: {text}"[:300]
