"""A runner in a process of its own: ``python -m smartmem_tvm.bench.worker MODULE:CLASS``.

Requests and replies are lines of JSON on stdin and stdout::

    {"do": "prepare", "case": {…}}    {"ok": true, "kernels": 112, …}
    {"do": "load", "case": {…}}       {"ok": true, …}
    {"do": "outputs", "file": PATH}   {"ok": true, "ms": 98.0}
    {"do": "run", "untimed": 1}       {"ok": true, "ms": 97.2}
    {"do": "quit"}

A request that fails answers ``{"ok": false, "error": TEXT}`` and ends the process.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from .arrays import read_arrays, write_arrays
from .prepare import INPUTS, REFERENCE
from .runners import load_class
from .runners.base import Case, RpcAddress, Runner, milliseconds

_PR_SET_PDEATHSIG = 1


def main(entry: str, parent: int) -> int:
    """Serve requests until told to quit or the harness is gone."""
    _die_with(parent)
    requests, replies = sys.stdin, _private_stdout()
    try:
        runner = load_class(entry)()
    except (ImportError, AttributeError) as error:
        _reply(replies, {"ok": False, "error": f"{type(error).__name__}: {error}"})
        return 1
    # Whatever a framework raises is the result of this row: it answers the request and ends the
    # worker.
    sys.excepthook = lambda kind, error, trace: _answer_error(replies, error)
    for line in requests:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        _reply(replies, {"ok": True, **_serve(runner, request)})
    return 0


def _serve(runner: Runner, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] in ("prepare", "load"):
        case = _case(request["case"])
        return asdict(runner.prepare(case) if request["do"] == "prepare" else runner.load(case))
    if request["do"] == "outputs":
        values: dict[str, Any] = {}
        ms = milliseconds(lambda: values.update(runner.outputs()))
        write_arrays(Path(request["file"]), values)
        return {"ms": ms}
    if request["do"] == "run":
        for _ in range(request.get("untimed", 0)):
            runner.run()
        return {"ms": runner.run()}
    raise ValueError(f"no request '{request['do']}'")


def _case(fields: dict[str, Any]) -> Case:
    fields = dict(fields)
    folder, artefacts = Path(fields.pop("folder")), Path(fields.pop("artefacts"))
    allowed = sorted(os.sched_getaffinity(0))
    # Before any framework starts threads, so that all have the same processors.
    os.sched_setaffinity(0, allowed[: fields["threads"]])
    if fields.get("rpc") is not None:
        fields["rpc"] = RpcAddress(**fields["rpc"])
    fields["disable"] = tuple(fields.get("disable", ()))
    if (folder / REFERENCE).exists():
        fields["inputs"] = read_arrays(folder / INPUTS)
        fields["output_names"] = tuple(read_arrays(folder / REFERENCE))
    return Case(folder=folder, artefacts=artefacts, **fields)


def _reply(stream: IO[str], value: dict[str, Any]) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


def _answer_error(stream: IO[str], error: BaseException) -> None:
    traceback.print_exception(error)
    _reply(stream, {"ok": False, "error": _one_line(error)})


def _private_stdout() -> IO[str]:
    """Keep the pipe to the harness; what frameworks print to stdout goes to stderr."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def _die_with(parent: int) -> None:
    """Be killed when the harness ends in any way, SIGKILL included."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    try:
        # Where memory runs out all the same, the kernel is to end a worker and not the harness.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        pass


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # TVM's errors open with a stack; the sentence that says what went wrong is the last line.
    text = lines[0] if lines and not lines[0].startswith("Traceback") else (lines or [""])[-1]
    return f"{type(error).__name__}: {text}"[:300]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
