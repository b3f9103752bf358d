"""Files of records on disk: read by anyone, appended to by one process, merged whole.

::

    records.jsonl        a header, then a line for each record (:mod:`.records`); locked (flock) by
                         the process that appends
    .records.jsonl.new   while the file is made or merged; renamed once it is whole, and taken
                         over by the next writer where this one was killed

An appended record is on the disk when :meth:`RecordsFile.append` returns. Whoever is killed before
leaves a torn last line at most: readers pass over it and the next writer cuts it off. Damage
anywhere else is an error.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import SmartMemError
from .records import Header, Record, Records, damage

_LONGEST_HEADER = 4096
_PATIENCE_S = 5.0
_POLL_S = 0.01
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


class RecordsFile:
    """A file of records, opened for appending by this process alone; a context manager.

    Parameters
    ----------
    path : str or os.PathLike
        Made where there is none. A torn last line is cut off.

    Attributes
    ----------
    path : Path
        The file.
    earlier : Records
        What it held when it was opened.
    count : int
        Records that it holds now.

    Raises
    ------
    SmartMemError
        If another process has it open (names the process), it cannot be made or opened, or as
        :func:`read_records`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._owner = os.getpid()
        with _failing(self.path, "cannot be opened for appending"):
            self._fd = _open_or_make(Path(os.path.realpath(path)), self.path)
            try:
                self.earlier = _read_locked(self._fd, self.path)
                if self.earlier.torn:
                    os.ftruncate(self._fd, self.earlier.size)
                    os.fsync(self._fd)
            except BaseException:
                os.close(self._fd)
                raise
        self.count = len(self.earlier.records)
        self._size = self.earlier.size

    def append(self, record: Record) -> None:
        """Add a record; it is on the disk when this returns.

        Raises
        ------
        SmartMemError
            If it cannot be written, as on a full disk. The file then holds the records before it
            and takes others later.
        """
        if self._fd < 0 or os.getpid() != self._owner:
            how = "closed" if self._fd < 0 else f"that of process {self._owner}"
            raise SmartMemError(
                f"records file '{self.path}' is {how}: open it again to append to it."
            )
        line = record.line().encode() + b"\n"
        try:
            _write(self._fd, line)
            self._size, self.count = self._size + len(line), self.count + 1
        except OSError as error:
            raise SmartMemError(
                f"records file '{self.path}': record {self.count + 1} cannot be written "
                f"({error.strerror}). The {self.count} before it are kept{self._undo()}. Make room "
                "on its file system and go on."
            ) from error
        except BaseException:  # an interrupt in the middle of a line
            self._undo()
            raise

    def close(self) -> None:
        """Let go of the file; another process may append."""
        if self._fd >= 0:
            # A forked child shares the lock: it would be kept until the child ends, or taken
            # from under the parent.
            if os.getpid() == self._owner:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> RecordsFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _undo(self) -> str:
        """Cut off what was written of a record; say so where it fails, the file being closed."""
        try:
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            self.close()
            return f", with a torn line after them that stays ({error.strerror}): open it again"
        return ""


def read_records(path: str | os.PathLike[str]) -> Records:
    """Read a file of records, also while a process appends to it.

    Raises
    ------
    SmartMemError
        If there is no such file, it is none of records or of a later schema (says what it is), or
        a line other than the last is damaged (names the line, the field and the value).
    """
    path = Path(path)
    try:
        try:
            with open(path, "rb") as stream:
                return _read(stream, path)
        except _DamagedLine:
            if not path.is_file():
                raise
            # A torn line that a writer cuts off while it is read looks the same, once.
            with open(path, "rb") as stream:
                return _read(stream, path)
    except OSError as error:
        raise SmartMemError(
            f"records file '{path}' cannot be read ({error.strerror}): give a file that tuning or "
            "`smartmem records merge` wrote."
        ) from error


def _read(stream: BinaryIO, path: Path) -> Records:
    """Read an open file from its beginning; errors as :func:`read_records`."""
    first = stream.readline(_LONGEST_HEADER)
    header = Header.read(first, path)
    rest = stream.read()
    lines = rest.split(b"\n")
    torn = len(lines.pop())
    records = []
    for number, line in enumerate(lines, start=2):
        try:
            document = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            if number == len(lines) + 1 and not torn:
                torn = len(line) + 1
                break
            raise _DamagedLine(damage(path, number, f"no JSON ({error})")) from error
        try:
            records.append(Record.from_dict(document))
        except SmartMemError as error:
            raise SmartMemError(damage(path, number, str(error))) from error
    return Records(path, header, records, len(first) + len(rest) - torn, torn)


class _DamagedLine(SmartMemError):
    """A line that is no JSON, and not the last."""


def _read_locked(descriptor: int, path: Path) -> Records:
    with open(os.dup(descriptor), "rb") as stream:
        stream.seek(0)
        return _read(stream, path)


def merge(paths: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> Records:
    """Write the records of several files into one; exact duplicates once.

    Parameters
    ----------
    paths : Sequence[str or os.PathLike]
        The inputs. Their order does not change a byte of the output.
    output : str or os.PathLike
        One of several inputs, or another file. It appears whole or stays as it was. Its header
        names the versions of all inputs.

    Returns
    -------
    Records
        What was written, sorted by task, device, time and trial.

    Raises
    ------
    SmartMemError
        Without an input; if the output is the only input, is open for appending, or holds records
        that the inputs lack; and as :func:`read_records`.
    """
    target = Path(os.path.realpath(output))
    inputs = {Path(os.path.realpath(path)): Path(path) for path in paths}
    if not inputs or set(inputs) == {target}:
        given = f"'{output}' is the only input" if inputs else "there is no input"
        raise SmartMemError(f"nothing to merge into '{output}': {given}. Give several files.")
    with _failing(Path(output), "cannot be written"):
        held = _open_locked(target, Path(output))
        try:
            sources = [read_records(path) for path in inputs.values()]
            lines = {record.line(): record for s in sources for record in s.records}
            if held is not None and target not in inputs:
                there = _read_locked(held, Path(output)).records
                if lost := sum(record.line() not in lines for record in there):
                    raise SmartMemError(
                        f"'{output}' holds {lost} records that the inputs lack: name it among the "
                        "inputs, or give another output."
                    )
            records = sorted(lines.values(), key=lambda record: record.order)
            header = Header(
                _versions(source.header.package for source in sources),
                _versions(source.header.tvm for source in sources),
            )
            text = "\n".join([header.line(), *(r.line() for r in records), ""]).encode()
            made = _publish(target, text, replace=held is not None)
        finally:
            if held is not None:
                os.close(held)
    if made is None:
        raise SmartMemError(f"'{output}' was made by another process meanwhile: merge again.")
    os.close(made)
    return Records(Path(output), header, records, len(text))


def _versions(texts: Iterable[str]) -> str:
    """All versions, each once; of merged files as well."""
    return ", ".join(sorted({version for text in texts for version in text.split(", ")}))


def _open_or_make(path: Path, given: Path) -> int:
    """Descriptor of a file that this process has locked; made with a header where there is none."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        descriptor = _open_locked(path, given)
        if descriptor is None:
            header = Header.here().line().encode() + b"\n"
            descriptor = _publish(path, header, replace=False)
        if descriptor is not None:
            return descriptor
        time.sleep(_POLL_S)
    raise SmartMemError(
        f"records file '{given}' is being made by another process since {_PATIENCE_S:.0f} s: wait "
        "for it, or give another file."
    )


def _open_locked(path: Path, given: Path) -> int | None:
    """Descriptor of an existing file that this process has locked; None where there is none."""
    while True:
        try:
            descriptor = os.open(path, _FLAGS)
        except FileNotFoundError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SmartMemError(f"'{given}' is no file: records are appended to files alone.")
            locked = _lock(descriptor)
            if _is_at(descriptor, path):  # not replaced by a merge between the two calls above
                if not locked:
                    raise SmartMemError(_in_use(descriptor, given))
                descriptor, kept = -1, descriptor
                return kept
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _publish(path: Path, data: bytes, *, replace: bool) -> int | None:
    """Write a file under another name, then rename it: its descriptor, locked.

    None where another process is about to, or was first and nothing is to be replaced. The other
    name is the same for all processes and whoever has it locked goes first, so that none renames
    over the file of another.
    """
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, _FLAGS | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    kept = None
    try:
        if not _lock(descriptor) or not _is_at(descriptor, fresh):
            return None
        if not replace and path.exists():
            fresh.unlink()
            return None
        try:
            os.ftruncate(descriptor, 0)  # what a killed process left
            if replace:
                os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
            _write(descriptor, data)
            os.rename(fresh, path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
        kept = descriptor
    finally:
        if kept is None:
            os.close(descriptor)
    return kept


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it, down to the disk."""
    rest = memoryview(data)
    while rest:
        written = os.write(descriptor, rest)
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        rest = rest[written:]
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs files alone
            raise
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; False where another has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _in_use(descriptor: int, given: Path) -> str:
    """Say who has a file locked, as far as the system tells."""
    status = os.fstat(descriptor)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    who = "another process"
    try:
        table = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        table = ""
    for line in table.splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5] == f"{device}:{status.st_ino}":
            who = f"process {words[4]}"
    return (
        f"records file '{given}' is in use: {who} appends to it. Wait until it ends or end it, or "
        "give another file; `smartmem records merge` makes one of both."
    )


@contextmanager
def _failing(path: Path, what: str) -> Iterator[None]:
    """Errors of the system as errors of the user."""
    try:
        yield
    except OSError as error:
        raise SmartMemError(
            f"records file '{path}' {what} ({error.strerror}): give a file in a folder that "
            "exists, can be written and has room, on a file system with locks."
        ) from error
