"""The work folder: what is prepared for measuring, and what it was prepared from.

::

    WORK/swin-full/               model.onnx, inputs.npz, reference.npz
    WORK/swin-full/prepared.json  {"key": {…}, "facts": {…}, "failure": null}
    WORK/swin-full/tvm/           what that runner compiled, and its own prepared.json

A ``prepared.json`` is written last, so a folder without one is incomplete and is prepared anew; so
is one whose key is not what it would be now.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SmartMemError
from ..report import json_text
from ..whole_files import write_text

_PREPARED = "prepared.json"
# A limit has to be this much wider before what passed it is tried again.
_WIDER = 1.1


@dataclass(frozen=True)
class Failure:
    """Why something could not be prepared.

    Attributes
    ----------
    kind : str
        ``error``, ``crash``, ``time`` or ``memory``.
    text : str
        ``KIND: sentence``.
    limit : float
        Seconds or bytes that it was given, for ``time`` and ``memory``.
    """

    kind: str
    text: str
    limit: float = 0.0


@dataclass
class Prepared:
    """What is known of a model, or of a model on a runner, without timing it.

    Attributes
    ----------
    key : dict
        What it was made from.
    facts : dict
        Of a model its figures; of a runner what :class:`.runners.Facts` has, with
        ``max_rel_error``, ``wrong``, ``warm_ms``, ``prepare_s`` and ``peak_memory_mib``.
    failure : Failure, optional
        Why it cannot be measured.
    """

    key: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None

    def is_worth_a_retry(self, time_limit_s: float, memory_limit: int) -> bool:
        """Whether it failed at a limit that is wider now."""
        if self.failure is None or self.failure.kind not in ("time", "memory"):
            return False
        now = time_limit_s if self.failure.kind == "time" else memory_limit
        return now > _WIDER * self.failure.limit


def read_prepared(folder: Path) -> Prepared | None:
    """Read what a folder holds; None where it is incomplete."""
    try:
        fields = json.loads((folder / _PREPARED).read_text(encoding="utf-8"))
        failure = fields.pop("failure")
        return Prepared(**fields, failure=None if failure is None else Failure(**failure))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        # Another version's, or damaged: it is made again, which is what the folder is for.
        return None


def write_prepared(folder: Path, prepared: Prepared) -> None:
    """Complete a folder; the file appears whole or not at all."""
    write_text(folder / _PREPARED, json_text(asdict(prepared)))


def empty_folder(folder: Path) -> Path:
    """Make the folder, without what was in it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def work_folder(path: Path, fresh: bool) -> Iterator[Path]:
    """Give the folder to this run alone.

    Raises
    ------
    SmartMemError
        If another run uses it, or if it is something else.
    """
    mark = path / ".smartmem-bench"
    if path.exists() and not mark.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SmartMemError(
            f"work folder '{path}' holds something else: it is left alone. Give another --work."
        )
    try:
        path.mkdir(exist_ok=True)
        # It lies beside results, which are kept under version control.
        (path / ".gitignore").write_text("*\n", encoding="utf-8")
        lock = open(mark, "w", encoding="utf-8")
    except OSError as error:
        raise SmartMemError(f"cannot write to work folder '{path}': {error.strerror}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SmartMemError(
                f"work folder '{path}' is in use by another run: wait for it, or give another "
                "--work."
            ) from error
        if fresh:
            for entry in path.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
        yield path
