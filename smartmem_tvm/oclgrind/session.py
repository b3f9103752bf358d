"""Runs one inference of an artefact inside Oclgrind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Artifact
from ..errors import DeviceError, SmartMemError
from ..frontend import check_inputs, random_inputs
from .counts import ExecutedTraffic, parse_counts

PROGRAM = "oclgrind"
_MEMORY = 4_000_000_000  # a limit of 32 bits, not an allocation; the default is 128 MB


def executed(
    artifact: Artifact | str | os.PathLike[str],
    inputs: Mapping[str, Any] | Sequence[Any] | None = None,
    *,
    timeout_s: float = 3600.0,
) -> ExecutedTraffic:
    """Count the memory accesses and instructions of exactly one inference.

    Parameters
    ----------
    artifact
        A compiled model, or the folder of an exported one.
    inputs
        The model's inputs; random ones (seed 0) when not given. Only data-dependent accesses, such
        as a gather's, depend on them.
    timeout_s
        Give up after this many seconds.

    Raises
    ------
    SmartMemError
        If Oclgrind is not installed, cannot run the artefact, or takes too long.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise SmartMemError(
            f"'{PROGRAM}' is not installed, and nothing else counts executed traffic: install it "
            "(Debian, Ubuntu: apt install oclgrind), or leave --executed out."
        )
    if not isinstance(artifact, Artifact):
        artifact = Artifact.load(artifact)
    manifest = artifact.manifest
    if manifest.dtype == "float16":
        raise DeviceError(
            f"model '{manifest.model}' is compiled in float16 and Oclgrind has no half precision "
            "(cl_khr_fp16): compile it with --dtype float32."
        )
    arrays = check_inputs(
        manifest.inputs, random_inputs(manifest.inputs, seed=0) if inputs is None else inputs
    )
    with tempfile.TemporaryDirectory(prefix="smartmem-oclgrind-") as workspace:
        folder = artifact.export(Path(workspace) / "artifact")
        file = Path(workspace) / "inputs.npz"
        np.savez(file, **{f"input_{i}": array for i, array in enumerate(arrays)})
        counts = parse_counts(_interpret(program, folder, file, manifest.model, timeout_s))
    if manifest.launches and not counts.total.launches:
        raise SmartMemError(
            f"Oclgrind ran model '{manifest.model}' and printed no counts: is '{program}' version "
            "21.10 or later?"
        )
    return counts


def _interpret(program: str, folder: Path, inputs: Path, model: str, timeout_s: float) -> str:
    command = [program, "--global-mem-size", str(_MEMORY), "--inst-counts"]
    command += [sys.executable, "-m", f"{__package__}.inference", str(folder), str(inputs)]
    environment = {
        **os.environ,
        "SMARTMEM_OPENCL_DEVICE": "oclgrind",
        "SMARTMEM_CACHE_DIR": "off",  # its program binaries are of no use to real devices
    }
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SmartMemError(
            f"model '{model}' was not done in Oclgrind after {timeout_s:g} s: it interprets "
            "about 2 MFLOP a second. Use a smaller size of the model, such as zoo:NAME/micro."
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise SmartMemError(
            f"Oclgrind could not run model '{model}' (exit status {done.returncode}): "
            + " / ".join(lines[-3:])
        )
    return done.stdout
