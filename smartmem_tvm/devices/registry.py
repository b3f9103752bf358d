"""Finding profiles: the built-in ones by name, others by path."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from functools import cache
from pathlib import Path

import tvm

from smartmem_tvm.errors import DeviceError

from .reader import read_profile
from .schema import DeviceProfile

_FOLDER = Path(__file__).parent / "profiles"
_MARK = "@"
_registered: dict[str, DeviceProfile] = {}
AUTO = "auto"


def list_profiles() -> list[str]:
    """Return the names of the built-in profiles, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


@cache
def _built_in(name: str) -> DeviceProfile:
    return read_profile(_FOLDER / f"{name}.toml")


def load_profile(name_or_path: str | os.PathLike[str]) -> DeviceProfile:
    """Load a built-in profile by name, or any profile file by path.

    Parameters
    ----------
    name_or_path : str or os.PathLike
        ``adreno-740`` or ``my/device.toml``. A string is taken as a path when it ends in
        ``.toml`` or holds a path separator. ``auto`` is no file: see ``resolve_profile``.

    Raises
    ------
    DeviceError
        For an unknown name (lists the known ones) and for a bad file.
    """
    if not isinstance(name_or_path, str):
        return read_profile(Path(name_or_path))
    if name_or_path.endswith(".toml") or os.sep in name_or_path:
        return read_profile(Path(name_or_path))
    known = list_profiles()
    if name_or_path in known:
        return _built_in(name_or_path)
    near = difflib.get_close_matches(name_or_path, [*known, AUTO], n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise DeviceError(
        f"unknown device profile '{name_or_path}'.{hint} Known: {', '.join([AUTO, *known])}, or "
        "the path of a .toml file"
    )


def built_in_profiles() -> list[DeviceProfile]:
    """Return all built-in profiles, sorted by name."""
    return [_built_in(name) for name in list_profiles()]


def register_profile(profile: DeviceProfile) -> str:
    """Return what the profile's targets have as ``model``, and make the profile found by it.

    A built-in profile goes by its name, any other by its name and a digest of what it says:
    ``board@1f0c2a9be0d4``. A name alone would not do. A file may bear a built-in one's name, and
    one that was edited and read again, or a profile made with ``dataclasses.replace``, bears that
    of the profile it was: the targets of each keep figures of their own.

    Notes
    -----
    ``DeviceProfile.target`` calls this. The digest is the same in every process, but a process
    knows only the profiles whose targets it made itself.
    """
    if profile.name in list_profiles() and profile == _built_in(profile.name):
        return profile.name
    tables = profile.to_dict()
    del tables["sources"]  # for people, and no part of what makes profiles equal
    text = json.dumps(tables, sort_keys=True)
    model = f"{profile.name}{_MARK}{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    _registered[model] = profile
    return model


def profile_from_target(target: tvm.target.Target) -> DeviceProfile | None:
    """Return the profile that made ``target`` in this process, or None for any other target.

    A target of a built-in profile is recognised in every process.
    """
    model = str(target.attrs.get("model"))
    found = _registered.get(model)
    return _built_in(model) if found is None and model in list_profiles() else found


def unregistered_name(target: tvm.target.Target) -> str | None:
    """Name of the profile, none of the built-in ones, that made ``target`` in some process."""
    name, mark, _ = str(target.attrs.get("model")).rpartition(_MARK)
    return name if mark else None
