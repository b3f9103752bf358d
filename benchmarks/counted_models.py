"""Figures of models that are counted one by one and kept in a file: the command line of those."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smartmem_tvm.bench.machine import commit
from smartmem_tvm.whole_files import write_json


def count_models(
    description: str | None,
    output: Path,
    schema: int,
    names: Sequence[str],
    count: Callable[[str], dict[str, Any]],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Count what is missing, or what is named, write after every model, and return all.

    Parameters
    ----------
    description, output
        Of the command, and the file that it continues.
    schema, names
        Of the file, and the models that it is to have, as NAME/SIZE.
    count
        Figures of one model.
    note
        Receives the name of each before it is counted.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="NAME/SIZE")
    parser.add_argument("--output", type=Path, default=output, metavar="FILE")
    parser.add_argument("--table", action="store_true", help="print what there is, count nothing")
    arguments = parser.parse_args()
    document: dict[str, Any] = {"schema": schema, "models": {}}
    if arguments.output.exists():
        document = json.loads(arguments.output.read_text(encoding="utf-8"))
    models = document["models"]
    wanted = [] if arguments.table else arguments.models or [n for n in names if n not in models]
    for name in wanted:
        note(name)
        models[name] = {"commit": commit(), **count(name)}
        document["models"] = models = dict(sorted(models.items()))
        write_json(arguments.output, document)
    found: dict[str, Any] = models
    return found
