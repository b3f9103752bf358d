"""Strict reading of device profiles from TOML or from their dictionary form."""

from __future__ import annotations

import difflib
import math
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tvm

from smartmem_tvm.errors import DeviceError

from . import schema

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TYPE_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def read_profile(path: Path) -> schema.DeviceProfile:
    """Read and check one profile file.

    Raises
    ------
    DeviceError
        When the file cannot be read, is no TOML, or holds a wrong key or value.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError(f"device profile {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DeviceError(f"device profile {path}: is not UTF-8 text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise DeviceError(f"device profile {path}: is not valid TOML: {error}") from error
    return profile_from_dict(tables, str(path))


def profile_from_dict(tables: Mapping[str, Any], where: str) -> schema.DeviceProfile:
    """Check ``tables`` (the form that ``DeviceProfile.to_dict`` returns) and build the profile.

    Parameters
    ----------
    tables : Mapping[str, Any]
        Top-level keys and tables of a profile.
    where : str
        What errors call the origin of the tables: a file name.
    """
    rest = dict(tables)
    if "schema" not in rest:
        raise DeviceError(
            f"device profile {where}: key 'schema' is missing; write schema = "
            f"{schema.SCHEMA_VERSION}"
        )
    version = rest.pop("schema")
    if version != schema.SCHEMA_VERSION or isinstance(version, bool):
        raise DeviceError(
            f"device profile {where}: key 'schema' is {version!r}; this version reads schema = "
            f"{schema.SCHEMA_VERSION} only"
        )
    profile: schema.DeviceProfile = _build(schema.DeviceProfile, rest, "", where)
    _check_consistency(profile, where)
    return profile


def _build(cls: Any, table: Mapping[str, Any], prefix: str, where: str) -> Any:
    known = {item.name: item for item in fields(cls)}
    for key in table:
        if key not in known:
            raise DeviceError(
                f"device profile {where}: unknown key '{prefix}{key}'; known here: "
                f"{', '.join(sorted(known))}"
            )
    hints = get_type_hints(cls, include_extras=True)
    values = {}
    for name, item in known.items():
        key = prefix + name
        if name in table:
            values[name] = _value(table[name], hints[name], key, where)
        elif item.default is MISSING:
            raise DeviceError(
                f"device profile {where}: key '{key}' is missing; it must be "
                f"{_describe(hints[name])}"
            )
    return cls(**values)


def _value(value: Any, hint: Any, key: str, where: str) -> Any:
    """Check one value against the type and the limits of its field, recursively."""
    hint = _given(hint)
    limits: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        limits = tuple(rest)
    wrong = DeviceError(
        f"device profile {where}: key '{key}' is {value!r}; it must be {_describe(hint)}"
    )
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise wrong
        return _build(hint, value, f"{key}.", where)
    if get_origin(hint) is tuple:
        elements = get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise wrong
        if elements[-1] is not Ellipsis and len(value) != len(elements):
            raise wrong
        return tuple(
            _value(entry, elements[0], f"{key}[{index}]", where)
            for index, entry in enumerate(value)
        )
    if get_origin(hint) is Mapping:
        if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
            raise wrong
        return dict(value)
    if hint is float and type(value) is int:
        value = float(value)
    # type(), not isinstance(): true is no integer here.
    if type(value) is not hint:
        raise wrong
    for limit in limits:
        _check_limit(value, limit, key, where)
    return value


def _check_limit(value: Any, limit: schema.AtLeast | schema.OneOf, key: str, where: str) -> None:
    if isinstance(limit, schema.OneOf):
        if value not in limit.values:
            allowed = ", ".join(str(choice) for choice in limit.values)
            raise DeviceError(
                f"device profile {where}: key '{key}' is {value!r}; allowed: {allowed}"
            )
    # isfinite also refuses nan, which compares false with every limit.
    elif not math.isfinite(value) or value < limit.value:
        raise DeviceError(
            f"device profile {where}: key '{key}' is {value!r}; it must be at least "
            f"{limit.value} and finite"
        )


def _check_consistency(profile: schema.DeviceProfile, where: str) -> None:
    """Values that are each allowed but contradict one another."""
    if profile.compute.fp16 != (profile.peak.float16_gflops is not None):
        raise DeviceError(
            f"device profile {where}: key 'compute.fp16' is {profile.compute.fp16} but key "
            "'peak.float16_gflops' is "
            f"{'missing' if profile.peak.float16_gflops is None else 'given'}; a device with "
            "fp16 has such a peak and one without has none"
        )
    if (profile.texture is None) != (profile.bandwidth.texture_gbps is None):
        raise DeviceError(
            f"device profile {where}: table 'texture' and key 'bandwidth.texture_gbps' must be "
            "given together or both left out"
        )
    if profile.texture is not None and not profile.texture.texel_bits:
        raise DeviceError(
            f"device profile {where}: key 'texture.texel_bits' is empty; give 64, 128 or both, "
            "or leave the table out"
        )
    if profile.work_group.default_size > profile.work_group.max_size:
        raise DeviceError(
            f"device profile {where}: key 'work_group.default_size' is "
            f"{profile.work_group.default_size}; it must not exceed work_group.max_size, which "
            f"is {profile.work_group.max_size}"
        )
    _check_operators(profile, where)
    tables = [item.name for item in fields(profile) if item.name != "sources"]
    for name in profile.sources:
        if name not in tables:
            raise DeviceError(
                f"device profile {where}: unknown key 'sources.{name}'; known here: "
                f"{', '.join(sorted(tables))}"
            )


def _check_operators(profile: schema.DeviceProfile, where: str) -> None:
    for index, name in enumerate(() if profile.half is None else profile.half.keep_float32):
        known = [op[6:] for op in tvm.ir.Op.list_op_names() if op.startswith("relax.")]
        if name not in known:
            near = difflib.get_close_matches(name.removeprefix("relax."), known, n=3)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise DeviceError(
                f"device profile {where}: key 'half.keep_float32[{index}]' is {name!r}; it must "
                f"be a Relax operator without 'relax.', such as nn.softmax or add{hint}"
            )


def _given(hint: Any) -> Any:
    """Return the type of a key that may be left out, without the None."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(option for option in get_args(hint) if option is not type(None))
    return hint


def _describe(hint: Any) -> str:
    hint = _given(hint)
    if get_origin(hint) is Annotated:
        return _describe(get_args(hint)[0])
    if is_dataclass(hint):
        return f"a table with {', '.join(item.name for item in fields(hint))}"
    if get_origin(hint) is tuple:
        elements = get_args(hint)
        if elements[-1] is Ellipsis:
            return f"a list, each entry {_describe(elements[0])}"
        return f"a list of {len(elements)} entries, each {_describe(elements[0])}"
    if get_origin(hint) is Mapping:
        return "a table of strings"
    return _TYPE_NAMES[hint]
