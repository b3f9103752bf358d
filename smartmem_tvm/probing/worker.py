"""A probe's process: ``python -m smartmem_tvm.probing.worker MODULE:FUNCTION PARENT``.

Reads one line of JSON, calls ``FUNCTION(request, emit)`` and writes a line of JSON for each call
of ``emit``, then ``{"done": true}``. An error of a user becomes ``{"error": TEXT}``; any other
ends the process with its traceback, whose last line the asker reports.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

from ..errors import SmartMemError
from ..processes.child import die_with, private_stdout, reply
from .process import DONE


def main(entry: str, parent: int) -> None:
    """Serve the one request; ends the process."""
    die_with(parent)
    answers = private_stdout()

    def emit(value: dict[str, Any]) -> None:
        reply(answers, value)

    request = json.loads(sys.stdin.readline())
    module, _, name = entry.partition(":")
    try:
        getattr(importlib.import_module(module), name)(request, emit)
    except SmartMemError as error:
        emit({"error": str(error)})
    emit({DONE: True})
    # A session whose server is gone, or a driver's threads, may block an ordinary exit.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
