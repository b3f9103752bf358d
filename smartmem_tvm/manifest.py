"""The folder format of an artefact: what its manifest holds and how a folder is verified.

    out/manifest.json     this file's subject
    out/model.so          host code, the virtual machine's program and the OpenCL kernels
    out/params.bin        parameters, in TVM's format for parameter dictionaries
    out/sources/*.cl      the OpenCL sources, for reading; nothing loads them

Everything is verified before anything is loaded: the manifest against its own checksum, every
file against its size and hash, and the folder for files that are missing or that nobody listed.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import tvm
import tvm_ffi

from .analysis import KernelInfo
from .errors import ArtifactError
from .frontend import TensorSpec

FORMAT = "smartmem-artifact"
FORMAT_VERSION = 3
MANIFEST = "manifest.json"
LIBRARY = "model.so"
PARAMETERS = "params.bin"
SOURCES = "sources"


@dataclass(frozen=True)
class Manifest:
    """What is known about a compiled model without loading it.

    Attributes
    ----------
    model : str
        The model's name.
    profile : dict
        The device profile it was compiled for, in the shape of its TOML file.
    dtype : str
        Storage type of the activations, ``float32`` or ``float16``.
    host : str
        LLVM triple of the machine that drives the device.
    inputs, outputs : tuple[TensorSpec, ...]
        Names, shapes and dtypes, in the order of the model.
    operators : int
        Relax operator calls before compilation.
    kernels : tuple[KernelInfo, ...]
        The device kernels.
    parameter_scopes : dict[str, str]
        Memory scope of each parameter that is uploaded to an image; others go to buffers.
    stages_s : dict[str, float]
        Seconds that each stage of the compilation took.
    tuned : dict[str, str]
        Functions whose schedule is a tuned one, with the key of its task.
    records_digest : str
        What identifies the records that tuned schedules are from; empty without records.
    """

    model: str
    profile: dict[str, Any]
    dtype: str
    host: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: int
    kernels: tuple[KernelInfo, ...]
    parameter_scopes: dict[str, str]
    stages_s: dict[str, float]
    tuned: dict[str, str] = field(default_factory=dict)
    records_digest: str = ""

    @property
    def profile_name(self) -> str:
        """Name of the device profile."""
        return str(self.profile.get("name", "unnamed"))

    @property
    def launches(self) -> int:
        """Device launches in one inference."""
        return sum(kernel.calls for kernel in self.kernels)

    @property
    def layout_launches(self) -> int:
        """Device launches in one inference that only move data."""
        return sum(kernel.calls for kernel in self.kernels if kernel.layout_only)


def manifest_text(manifest: Manifest, files: Mapping[str, Path]) -> str:
    """Write ``manifest`` as JSON, with the files of a folder (name in the folder to path)."""
    from . import __version__

    body: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": {
            "smartmem": __version__,
            "tvm": tvm.__version__,
            "tvm_ffi": tvm_ffi.__version__,
        },
        **asdict(manifest),
        "files": {name: _file_entry(path) for name, path in sorted(files.items())},
    }
    body["checksum"] = _checksum(body)
    return json.dumps(body, indent=1) + "\n"


def verify_folder(folder: Path) -> Manifest:
    """Verify an artefact's manifest and files; nothing is loaded.

    Raises
    ------
    ArtifactError
        If the folder is no artefact, comes from another version, is damaged or incomplete.
    """
    body = _read_manifest(folder)
    _verify_versions(folder, body)
    if body.get("checksum") != _checksum({k: v for k, v in body.items() if k != "checksum"}):
        raise ArtifactError(
            f"artefact '{folder}': {MANIFEST} was changed after it was written (its checksum does "
            "not match). Compile the model again."
        )
    try:
        manifest, files = _parse(body)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"artefact '{folder}': {MANIFEST} does not follow format {FORMAT_VERSION} ({error!r}). "
            "Compile the model again."
        ) from error
    _verify_files(folder, files)
    return manifest


def is_artifact(folder: Path) -> bool:
    """Whether a folder says of itself that it is an artefact, of whatever version or health."""
    try:
        return _read_manifest(folder).get("format") == FORMAT
    except ArtifactError:
        return False


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(
            f"no artefact at '{folder}': {'not a folder' if folder.exists() else 'no such folder'}."
            " `smartmem compile MODEL -o FOLDER` writes one."
        )
    if not path.is_file():
        raise ArtifactError(
            f"'{folder}' is not an artefact: it has no {MANIFEST}. "
            "`smartmem compile MODEL -o FOLDER` writes one."
        )
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"artefact '{folder}': {MANIFEST} is damaged or truncated ({error}). "
            "Compile the model again."
        ) from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise ArtifactError(
            f"'{folder}' is not an artefact: its {MANIFEST} is not of the format '{FORMAT}'."
        )
    return body


def _verify_versions(folder: Path, body: dict[str, Any]) -> None:
    if body.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"artefact '{folder}' has format version {body.get('format_version')!r}, this "
            f"smartmem reads {FORMAT_VERSION}. Compile the model again with this version."
        )
    versions = body.get("versions")
    written = versions if isinstance(versions, dict) else {}
    for package, name, here in (
        ("tvm", "TVM", tvm.__version__),
        ("tvm_ffi", "tvm-ffi", tvm_ffi.__version__),
    ):
        if written.get(package) != here:
            raise ArtifactError(
                f"artefact '{folder}' was compiled with {name} {written.get(package)!r} and {name} "
                f"{here!r} is installed here: compiled code runs only on the version that made "
                "it. Compile the model again, or install that version."
            )


def _parse(body: dict[str, Any]) -> tuple[Manifest, dict[str, tuple[str, int]]]:
    """Manifest and file table; KeyError, TypeError or ValueError where the text breaks format."""
    manifest = Manifest(
        model=_typed(body["model"], str),
        profile=_typed(body["profile"], dict),
        dtype=_typed(body["dtype"], str),
        host=_typed(body["host"], str),
        inputs=tuple(_spec(item) for item in _typed(body["inputs"], list)),
        outputs=tuple(_spec(item) for item in _typed(body["outputs"], list)),
        operators=_typed(body["operators"], int),
        kernels=tuple(_kernel(item) for item in _typed(body["kernels"], list)),
        parameter_scopes={
            _typed(name, str): _typed(scope, str)
            for name, scope in _typed(body["parameter_scopes"], dict).items()
        },
        stages_s={
            _typed(name, str): float(seconds)
            for name, seconds in _typed(body["stages_s"], dict).items()
        },
        tuned={
            _typed(name, str): _typed(key, str) for name, key in _typed(body["tuned"], dict).items()
        },
        records_digest=_typed(body["records_digest"], str),
    )
    files = {}
    for name, entry in _typed(body["files"], dict).items():
        path = PurePosixPath(name)
        known = name in (LIBRARY, PARAMETERS) or (
            len(path.parts) == 2 and path.parts[0] == SOURCES and path.suffix == ".cl"
        )
        if not known or ".." in path.parts or "\\" in name or str(path) != name:
            raise ValueError(f"file name {name!r}")
        files[name] = (_typed(entry["sha256"], str), _typed(entry["size"], int))
    for name in (LIBRARY, PARAMETERS):
        if name not in files:
            raise KeyError(name)
    return manifest, files


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{value!r} where a value of type {kind.__name__} belongs")
    return value


def _spec(item: dict[str, Any]) -> TensorSpec:
    shape = tuple(
        extent if isinstance(extent, str) else _typed(extent, int) for extent in item["shape"]
    )
    upper = item["upper"]
    return TensorSpec(
        name=_typed(item["name"], str),
        shape=shape,
        dtype=_typed(item["dtype"], str),
        upper=upper if upper is None else _typed(upper, int),
        limits=tuple(
            (_typed(symbol, str), _typed(limit, int)) for symbol, limit in item.get("limits", ())
        ),
    )


def _kernel(item: dict[str, Any]) -> KernelInfo:
    footprint = item["footprint_bytes"]
    return KernelInfo(
        name=_typed(item["name"], str),
        func=_typed(item["func"], str),
        calls=_typed(item["calls"], int),
        layout_only=_typed(item["layout_only"], bool),
        footprint_bytes=footprint if footprint is None else _typed(footprint, int),
    )


def _verify_files(folder: Path, files: dict[str, tuple[str, int]]) -> None:
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not _is_folder(path)
    }
    missing = sorted(files.keys() - found)
    if missing:
        raise ArtifactError(
            f"artefact '{folder}' is incomplete: {', '.join(missing)} missing. Copy the whole "
            "folder, or compile the model again."
        )
    extra = sorted(found - files.keys() - {MANIFEST})
    if extra:
        raise ArtifactError(
            f"artefact '{folder}' holds {', '.join(extra)}, which its manifest does not list. "
            "Remove what was added, or compile the model again."
        )
    for name, (digest, size) in files.items():
        path = folder / name
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ArtifactError(f"artefact '{folder}': {name} is not a regular file.")
        actual = path.stat().st_size
        if actual != size:
            raise ArtifactError(
                f"artefact '{folder}' is damaged: {name} has {actual} bytes, the manifest says "
                f"{size}. Copy it again, or compile the model again."
            )
        if sha256(path) != digest:
            raise ArtifactError(
                f"artefact '{folder}' is damaged: the content of {name} does not match its hash in "
                "the manifest. Copy it again, or compile the model again."
            )


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _file_entry(path: Path) -> dict[str, Any]:
    return {"sha256": sha256(path), "size": path.stat().st_size}


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _checksum(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
