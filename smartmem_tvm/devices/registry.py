"""Finding profiles: the built-in ones by name, others by path."""

from __future__ import annotations

import difflib
import os
from functools import cache
from pathlib import Path

import tvm

from smartmem_tvm.errors import DeviceError

from .reader import read_profile
from .schema import DeviceProfile

_FOLDER = Path(__file__).parent / "profiles"
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


def profile_from_target(target: tvm.target.Target) -> DeviceProfile | None:
    """Return the built-in profile that made ``target``, or None for any other target.

    Notes
    -----
    A target made from a profile file or from ``auto`` carries limits but no bandwidths or tiles,
    so it cannot be turned back: pass the profile itself.
    """
    model = target.attrs.get("model")
    return _built_in(str(model)) if model is not None and str(model) in list_profiles() else None
