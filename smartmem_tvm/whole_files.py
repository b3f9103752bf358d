"""Files that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name under which to write a file that then takes the place of ``path``.

    The name is in the same folder, starts with a dot and ends in ``.tmp``: a writer that goes by
    suffixes must be told the format. Whatever is raised inside leaves ``path`` as it was and
    nothing beside it.

    Parameters
    ----------
    path : Path
        What is written or replaced, in a folder that exists. Threads of one process must not write
        the same file at once.

    Yields
    ------
    Path
        What to write, and to close before the block ends.

    Raises
    ------
    OSError
        If the file cannot be renamed, for one because the block did not write it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; nothing is added to it.

    Raises
    ------
    OSError
        If the file cannot be written, for one because its folder does not exist.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write a document as JSON, an item per line, keys in their order, whole or not at all.

    Raises
    ------
    OSError
        If the file cannot be written, for one because its folder does not exist.
    TypeError
        If the document holds what JSON has no form for.
    """
    write_text(path, json.dumps(document, indent=1) + "\n")
