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

import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from ..processes.child import die_with, one_line, private_stdout, reply
from .arrays import read_arrays, write_arrays
from .prepare import INPUTS, REFERENCE
from .runners import load_class
from .runners.base import Case, RpcAddress, Runner, milliseconds


def main(entry: str, parent: int) -> int:
    """Serve requests until told to quit or the harness is gone."""
    die_with(parent)
    requests, replies = sys.stdin, private_stdout()
    try:
        runner = load_class(entry)()
    except (ImportError, AttributeError) as error:
        reply(replies, {"ok": False, "error": f"{type(error).__name__}: {error}"})
        return 1
    # Whatever a framework raises is the result of this row: it answers the request and ends the
    # worker.
    sys.excepthook = lambda kind, error, trace: _answer_error(replies, error)
    for line in requests:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        reply(replies, {"ok": True, **_serve(runner, request)})
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


def _answer_error(stream: IO[str], error: BaseException) -> None:
    traceback.print_exception(error)
    reply(stream, {"ok": False, "error": one_line(error)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
