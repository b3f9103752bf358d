"""The bench's work in a process of its own: ``python -m tuning_child``.

Requests and replies are lines of JSON on stdin and stdout::

    {"do": "read", …}             the tasks of a model                  (:mod:`tuning_pool`)
    {"do": "session", …}          a session of one of our strategies    (:mod:`tuning_sessions`)
    {"do": "metaschedule", …}     a session of MetaSchedule's           (:mod:`tuning_metaschedule`)
    {"do": "collect", …}          what MetaSchedule found
    {"do": "load" | "add" | "time", …}    schedules of a task, in turns (:mod:`tuning_versions`)

A request that fails answers ``{"ok": false, "error": TEXT}`` and ends the process.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any

from smartmem_tvm.processes.child import die_with, one_line, private_stdout, reply


def main(parent: int) -> int:
    """Serve requests until their end, or until the parent is gone."""
    die_with(parent)
    replies = private_stdout()
    sys.excepthook = lambda kind, error, trace: _answer_error(replies, error)
    handlers = _handlers()
    for line in sys.stdin:
        request = json.loads(line)
        reply(replies, {"ok": True, **handlers[request.pop("do")](**request)})
    return 0


def _handlers() -> dict[str, Callable[..., dict[str, Any]]]:
    import tuning_metaschedule
    import tuning_pool
    import tuning_sessions
    import tuning_versions

    versions = tuning_versions.Versions()
    return {
        "read": tuning_pool.read_tasks,
        "session": tuning_sessions.run_session,
        "metaschedule": tuning_metaschedule.tune,
        "collect": tuning_metaschedule.collect,
        "load": versions.load,
        "add": versions.add,
        "time": versions.time,
    }


def _answer_error(stream: IO[str], error: BaseException) -> None:
    traceback.print_exception(error)
    reply(stream, {"ok": False, "error": one_line(error)})
    sys.stderr.flush()
    os._exit(1)  # what a wrong kernel left of the process need not be tidied up in order


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
