"""Run an artefact on inputs from a .npz file."""

from __future__ import annotations

import argparse
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SmartMemError
from . import options

if TYPE_CHECKING:
    import numpy as np

    from ..artifact import Artifact


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("artifact", help="folder that `smartmem compile` wrote")
    parser.add_argument(
        "--inputs", required=True, metavar="X.npz", help="the model's inputs by name"
    )
    parser.add_argument("--outputs", metavar="Y.npz", help="file to write the outputs to")
    parser.add_argument(
        "--repeats", type=int, default=0, metavar="N", help="also time N inferences"
    )
    parser.add_argument("--profile", action="store_true", help="also time every kernel")
    options.add_common(parser, dtype=None)
    options.add_rpc(parser)


def run(args: argparse.Namespace) -> int:
    """Load, run, and time where asked."""
    from .. import report
    from ..artifact import Artifact

    inputs = read_npz(Path(args.inputs))
    with options.remote(args) as remote:
        artifact = Artifact.load(args.artifact, device=args.opencl_device, rpc=remote)
        _check_choice(args, artifact)
        outputs = artifact.run(inputs)
        latency = artifact.benchmark(inputs, repeats=args.repeats) if args.repeats else None
        profile = artifact.profile(inputs) if args.profile else None
    if args.outputs:
        write_npz(Path(args.outputs), outputs)
    if args.json:
        document = {"model": artifact.manifest.model, "outputs": artifact.manifest.outputs}
        if latency is not None:
            document["latency_ms"] = latency
        if profile is not None:
            document["profile"] = profile
        options.show_json(document)
        return 0
    tables = [report.tensor_table(f"Outputs of {artifact.manifest.model}", _described(outputs))]
    if latency is not None:
        tables.append(report.summary_table("Latency in ms", vars(latency)))
    if profile is not None:
        tables.append(report.profile_table(profile))
    options.show(*tables)
    return 0


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a .npz file; pickled objects are refused."""
    import numpy as np

    if not path.is_file():
        raise SmartMemError(f"inputs '{path}': no such file.")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise SmartMemError(
                f"inputs '{path}' hold a single array: write them by name, with "
                "numpy.savez(FILE, NAME=array, …)."
            )
        with archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise SmartMemError(
            f"inputs '{path}' are no .npz file of plain arrays ({error}): write them with "
            "numpy.savez."
        ) from error


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays by name; the file appears whole or not at all."""
    import numpy as np

    if not path.parent.is_dir():
        raise SmartMemError(f"outputs '{path}': there is no folder '{path.parent}'.")
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _check_choice(args: argparse.Namespace, artifact: Artifact) -> None:
    """Refuse options that contradict what the artefact was compiled for."""
    manifest = artifact.manifest
    contradicted = None
    if args.device != "auto":
        contradicted = _other_profile(args.device, manifest.profile)
    if contradicted is None and args.dtype not in (None, manifest.dtype):
        contradicted = f"--dtype {manifest.dtype}, not {args.dtype}"
    if contradicted is not None:
        raise SmartMemError(
            f"artefact '{args.artifact}' was compiled with {contradicted}: compile the model again "
            "for that, or leave the option out."
        )


def _other_profile(asked: str, compiled: dict[str, Any]) -> str | None:
    """How a profile, by its name or file, is not the one of the manifest; None where it is."""
    from ..devices import load_profile

    profile = load_profile(asked)
    name = compiled.get("name", "unnamed")
    if profile.name != name:
        named = asked if asked == profile.name else f"{asked}, which is profile '{profile.name}'"
        return f"--device {name}, not {named}"
    there, here = _keys(compiled), _keys(profile.to_dict())
    for key in sorted(there.keys() | here.keys()):
        if there.get(key) != here.get(key):
            said = f"'{key}' was {there.get(key)}, in {asked} it is {here.get(key)}"
            return f"another state of profile '{name}' ({said})"
    return None


def _keys(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What a profile says, by dotted keys; what is for people is left out."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, dict):
            found |= _keys(value, f"{prefix}{key}.") if key != "sources" else {}
        elif key != "description":
            found[prefix + key] = value
    return found


def _described(outputs: dict[str, np.ndarray]) -> list:
    from ..frontend import TensorSpec

    return [TensorSpec(name, value.shape, str(value.dtype)) for name, value in outputs.items()]
