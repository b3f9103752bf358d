"""Measured schedules of kernels: one record each, and what a file of them says is best.

::

    {"smartmem_records": 1, "package": "0.1.0", "tvm": "0.27.0"}
    {"task": "0f3a…", "name": "conv2d", …, "choice": {…}, "status": "ok", "seconds": [0.0012, …], …}
    {"task": "0f3a…", "name": "conv2d", …, "choice": {…}, "status": "wrong", "seconds": [], …}

A file is a header and a line of JSON for each record (:mod:`.records_file` writes them). A writer
that was killed leaves a torn last line: it does not count. Damage anywhere else is an error.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import SmartMemError

SCHEMA = 1
_MARK = "smartmem_records"
STATUSES = ("ok", "wrong", "timeout", "crash", "error", "illegal", "lost")
_TASK = re.compile("[0-9a-f]{16}")
_WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?(Z|\+00:00)")
_DEEPEST = 8
# JSON has no infinity, and the error of an output that is not a number is infinite.
_INFINITE = "inf"


@dataclass(frozen=True)
class Record:
    """One candidate that was measured, or that failed to be.

    Attributes
    ----------
    task : str
        16 hexadecimal digits: a hash of the kernel's structure.
    name : str
        The kernel's name, for people.
    profile : str
        What the target has as ``model`` (:func:`smartmem_tvm.devices.register_profile`).
    device, driver : str
        Where it was measured.
    choice : dict[str, Any]
        The schedule (``Choice.to_dict``); kept as JSON has it, with lists for tuples and sorted
        keys. Its fields are read by who applies it, so that records outlive versions.
    status : str
        One of :data:`STATUSES`; ``lost``: the worker or device was gone before it answered.
    seconds : tuple[float, ...]
        Seconds of each repeat; empty unless ``ok``.
    error : float or None
        The largest relative error of the outputs; infinite where one is not a number.
    reason : str or None
        Why it failed.
    strategy, seed, trial
        Which search proposed it, and as which candidate, counted from 0.
    when : str
        ISO 8601 in UTC, such as ``2026-01-31T12:00:00.250Z`` (:func:`utc_now`).

    Raises
    ------
    SmartMemError
        For a value that a field cannot have: names the field and the value.
    """

    task: str
    name: str
    profile: str
    device: str
    driver: str
    choice: dict[str, Any]
    status: str
    seconds: tuple[float, ...]
    error: float | None
    reason: str | None
    strategy: str
    seed: int
    trial: int
    when: str

    def __post_init__(self) -> None:
        task = isinstance(self.task, str) and _TASK.fullmatch(self.task)
        self._expect("task", task, "a text of 16 hexadecimal digits")
        for name in ("name", "profile", "device", "strategy"):
            value = getattr(self, name)
            self._expect(name, isinstance(value, str) and value, "a text that is not empty")
        self._expect("driver", isinstance(self.driver, str), "a text")
        self._expect("reason", isinstance(self.reason, str | None), "a text or null")
        self._expect("status", self.status in STATUSES, f"one of {', '.join(STATUSES)}")
        choice = isinstance(self.choice, dict) and _is_json(self.choice)
        self._expect("choice", choice, "an object of JSON's values")
        seconds = isinstance(self.seconds, list | tuple)
        seconds = seconds and all(_finite(value) and value > 0 for value in self.seconds)
        self._expect("seconds", seconds, "a list of positive numbers")
        told = f"{'some' if self.status == 'ok' else 'none'} with status '{self.status}'"
        self._expect("seconds", bool(self.seconds) == (self.status == "ok"), told)
        error = self.error in (None, math.inf) or (_finite(self.error) and self.error >= 0)
        self._expect("error", error, f"null, a number that is not negative, or '{_INFINITE}'")
        self._expect("seed", _whole(self.seed), "a whole number")
        self._expect("trial", _whole(self.trial) and self.trial >= 0, "a whole number from 0 on")
        moment = _moment(self.when)
        self._expect("when", moment, "ISO 8601 in UTC, such as 2026-01-31T12:00:00.250Z,")
        object.__setattr__(self, "choice", _plain(self.choice))
        object.__setattr__(self, "seconds", tuple(float(value) for value in self.seconds))
        object.__setattr__(self, "error", None if self.error is None else float(self.error))

    def _expect(self, name: str, legal: object, what: str) -> None:
        if not legal:
            value = _excerpt(getattr(self, name))
            raise SmartMemError(
                f"field '{name}' of a record cannot be {value}: {what} is expected."
            )

    @property
    def typical(self) -> float | None:
        """Seconds that stand for all repeats; None unless the status is ``ok``."""
        return typical(self.seconds)

    @property
    def choice_text(self) -> str:
        """The choice as JSON: equal for equal choices."""
        return json.dumps(self.choice, sort_keys=True)

    @property
    def order(self) -> tuple[Any, ...]:
        """What records are sorted by: task, device, time and trial; the rest decides ties."""
        return (self.task, self.device, _moment(self.when), self.trial, self.line())

    def to_dict(self) -> dict[str, Any]:
        """What JSON keeps."""
        error = _INFINITE if self.error == math.inf else self.error
        return {**asdict(self), "seconds": list(self.seconds), "error": error}

    def line(self) -> str:
        """The line of a file, without its end: the same text for equal records."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Record:
        """Read what :meth:`to_dict` wrote, before or after JSON.

        Raises
        ------
        SmartMemError
            For a field too many or too few, or a value that the field cannot have.
        """
        if not isinstance(document, Mapping):
            raise SmartMemError(f"a record is an object of JSON, not {_excerpt(document)}.")
        known = [item.name for item in fields(cls)]
        if unknown := sorted(set(document) - set(known)):
            raise SmartMemError(
                f"a record has no field '{unknown[0]}' (it is {_excerpt(document[unknown[0]])}): "
                f"its fields are {', '.join(known)}."
            )
        if missing := [name for name in known if name not in document]:
            raise SmartMemError(f"the record has no field '{missing[0]}'.")
        values = dict(document)
        if values["error"] == _INFINITE:
            values["error"] = math.inf
        return cls(**values)


@dataclass(frozen=True)
class Header:
    """The first line of a file: versions of who began it, whoever appended since."""

    package: str
    tvm: str

    def line(self) -> str:
        """The line of a file, without its end."""
        return json.dumps({_MARK: SCHEMA, "package": self.package, "tvm": self.tvm})

    @classmethod
    def read(cls, line: bytes, path: Path) -> Header:
        """Read the first line of a file; SmartMemError says what it is where it is no header."""
        try:
            document = json.loads(line.decode())
            what = f"JSON, {_excerpt(document)}"
        except (ValueError, RecursionError):
            document = None
            what = f"binary data, {line[:16]!r}" if b"\0" in line else f"text, {line[:40]!r}"
        if not isinstance(document, dict) or _MARK not in document:
            if isinstance(document, dict) and {"task", "choice"} <= set(document):
                what = "a record, the header above it is lost"
            raise SmartMemError(
                f"'{path}' is no records file: it should begin with a line '{_MARK}', and "
                f"{f'that is {what}' if line else 'it is empty'}. It is left alone: give another."
            )
        schema, package, tvm = (document.get(name) for name in (_MARK, "package", "tvm"))
        if isinstance(schema, int) and schema > SCHEMA:
            raise SmartMemError(
                f"records file '{path}' has schema {schema} of smartmem-tvm {package}; this is "
                f"{cls.here().package}, which reads {SCHEMA}. Install that version or a later one."
            )
        if (
            not _whole(schema)
            or schema != SCHEMA
            or not isinstance(package, str)
            or not isinstance(tvm, str)
        ):
            raise SmartMemError(damage(path, 1, f"{_excerpt(document)} is no header."))
        if not line.endswith(b"\n"):
            raise SmartMemError(damage(path, 1, "the header's line does not end."))
        return cls(package, tvm)

    @classmethod
    def here(cls) -> Header:
        """The versions of this process."""
        import tvm

        from .. import __version__

        return cls(__version__, tvm.__version__)


@dataclass(frozen=True)
class Records:
    """What a file holds.

    Attributes
    ----------
    path : Path
        The file.
    header : Header
        Versions of who began it.
    records : list[Record]
        In the order of the lines; not to be changed.
    size : int
        Bytes of the header and the whole records.
    torn : int
        Bytes of a torn last line after them, which does not count.
    """

    path: Path
    header: Header
    records: list[Record]
    size: int
    torn: int = 0

    @cached_property
    def _by_task(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for record in self.records:
            found.setdefault(record.task, []).append(record)
        return found

    def main_device(self, task: str, profile: str) -> tuple[str, str] | None:
        """Device and driver with most records of a task for a profile; the first by name of equals.

        None where there is no record.
        """
        mine = [r for r in self._by_task.get(task, []) if r.profile == profile]
        counts = Counter((r.device, r.driver) for r in mine)
        return min(counts, key=lambda place: (-counts[place], place), default=None)

    def best(self, task: str, profile: str, device: tuple[str, str] | None = None) -> Record | None:
        """Find the fastest schedule of a task; the order of lines does not matter.

        Parameters
        ----------
        task, profile : str
            As in the records.
        device : tuple[str, str], optional
            Device and driver whose measurements count. Times of two devices or drivers cannot be
            compared and are never mixed: without this, those of :meth:`main_device` count alone.

        Returns
        -------
        Record or None
            The ``ok`` record of least time (:func:`typical`); of equals the first by
            ``choice_text``. A choice that was measured several times counts with all its seconds,
            and so does the record returned: the earliest of them, with the seconds of all. None
            where nothing is ``ok``.

        Notes
        -----
        A choice that was ``wrong`` even once on this device and driver, for whatever profile, is
        never best.
        """
        place = self.main_device(task, profile) if device is None else device
        here = [r for r in self._by_task.get(task, []) if (r.device, r.driver) == place]
        wrong = {r.choice_text for r in here if r.status == "wrong"}
        measured: dict[str, list[Record]] = {}
        for record in here:
            text = record.choice_text
            if record.status == "ok" and record.profile == profile and text not in wrong:
                measured.setdefault(text, []).append(record)
        pooled = {text: _together(same) for text, same in measured.items()}
        fastest = min(pooled, key=lambda text: (pooled[text].typical, text), default=None)
        return None if fastest is None else pooled[fastest]

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of what decides :meth:`best`; the order of lines does not matter."""
        kept = ("task", "profile", "device", "driver", "choice", "status", "seconds")
        lines = [json.dumps([getattr(r, name) for name in kept]) for r in self.records]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def typical(seconds: Sequence[float]) -> float | None:
    """The time that a third of all repeats is below; None without any.

    What else a machine does adds to times, and for minutes: medians of two schedules that were
    measured in different minutes compare the loads. The least of all would be a timer's one error.
    """
    return sorted(seconds)[len(seconds) // 3] if seconds else None


def utc_now() -> str:
    """The time of a record."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def damage(path: Path, number: int, what: str) -> str:
    """Message for a damaged line, counted from 1."""
    return (
        f"records file '{path}', line {number}: {what} No line is left out silently: remove it, or "
        "take the file from a copy."
    )


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    """Whether a value is a number that a float can be; JSON's integers can be larger."""
    limit = sys.float_info.max
    return (isinstance(value, float) or _whole(value)) and -limit <= value <= limit


def _moment(text: object) -> datetime | None:
    """The time that a text names; None where it names none."""
    if not isinstance(text, str) or not _WHEN.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:  # a 13th month
        return None


def _is_json(value: object, depth: int = 0) -> bool:
    """Whether JSON keeps a value as it is, but for tuples."""
    if isinstance(value, dict | list | tuple):
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        named = not isinstance(value, dict) or all(isinstance(key, str) for key in value)
        return named and depth < _DEEPEST and all(_is_json(item, depth + 1) for item in inner)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def _plain(value: Any) -> Any:
    """What JSON gives back of a value, keys sorted."""
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _together(same: Sequence[Record]) -> Record:
    """One record of measurements of the same choice; the very record where there is one."""
    if len(same) == 1:
        return same[0]
    ordered = sorted(same, key=lambda record: record.order)
    errors = [record.error for record in ordered if record.error is not None]
    seconds = tuple(value for record in ordered for value in record.seconds)
    return replace(ordered[0], seconds=seconds, error=max(errors, default=None))
