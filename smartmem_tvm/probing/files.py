"""Writing profiles as TOML that ``read_profile`` takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..devices import AUTO, DeviceProfile, list_profiles, read_profile
from ..errors import DeviceError, SmartMemError
from ..whole_files import replacing

_DELETE = "\x7f"


def profile_toml(profile: DeviceProfile) -> str:
    """Text of the profile's file: its keys, then its tables."""
    tables = profile.to_dict()
    lines = [f"# {one_line(profile.description)}", ""]
    lines += [f"{key} = {_value(item)}" for key, item in tables.items() if not _is_table(item)]
    for key, item in tables.items():
        if _is_table(item):
            lines += ["", f"[{key}]"]
            lines += [f"{name} = {_value(value)}" for name, value in item.items()]
    return "\n".join(lines) + "\n"


def write_profile(profile: DeviceProfile, path: Path, *, force: bool = False) -> None:
    """Write a profile; the file appears whole, and only once it reads back as the profile.

    Raises
    ------
    SmartMemError
        If the file exists and ``force`` is not given, or its folder does not exist.
    DeviceError
        If what was written does not read back as the same profile.
    """
    check_output(path, force=force)
    with replacing(path) as partial:
        partial.write_text(profile_toml(profile), encoding="utf-8")
        if read_profile(partial) != profile:
            raise DeviceError(
                f"profile '{profile.name}' does not read back from its file as it was measured, "
                "which is a defect of smartmem: report it with the output of --json."
            )
        check_output(path, force=force)


def check_output(path: Path, *, force: bool = False) -> None:
    """Raise SmartMemError where a profile must not or cannot be written to ``path``."""
    if not path.parent.is_dir():
        raise SmartMemError(f"profile '{path}': there is no folder '{path.parent}'.")
    if path.is_dir():
        raise SmartMemError(f"profile '{path}' is a folder: name a file with -o.")
    if path.exists() and not force:
        raise SmartMemError(
            f"profile '{path}' exists: give --force to write over it, or another file with -o."
        )


def check_name(name: str) -> str:
    """Return the name of a new profile; raises SmartMemError for one that is taken or unusable."""
    if not re.fullmatch(r"[\w.+-]+", name):
        raise SmartMemError(
            f"'{name}' is no name for a profile: letters, digits and any of . _ + - are expected, "
            "such as --name pixel-8."
        )
    if name == AUTO or name in list_profiles():
        raise SmartMemError(
            f"'{name}' is the name of a built-in profile: give one of its own with --name."
        )
    return name


def name_of_device(device: str) -> str:
    """Name for the profile of a device: its own in small letters, with hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "device"


def one_line(text: str) -> str:
    """Text without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _is_table(item: Any) -> bool:
    return isinstance(item, dict)


def _value(item: Any) -> str:
    """A value as TOML writes it; JSON's strings, numbers, booleans and lists are TOML's."""
    return json.dumps(item, ensure_ascii=False).replace(_DELETE, "\\u007f")
