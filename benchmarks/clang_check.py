"""Whether clang accepts generated OpenCL C, kernel by kernel as the runtime compiles it."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# OpenCL C 1.2 is what a driver takes the source for where it is not told, and we do not tell it.
STANDARDS = {"CL1.2": 120, "CL2.0": 200}
ABSENT = "no clang and no clang-NN on PATH"
_MARK = "// Function: "
_NAME = re.compile(r"clang(?:-(\d+))?")
_ERROR = re.compile(r"^(\d+)\.cl:(\d+:\d+: (?:fatal )?error: .*)$", re.MULTILINE)


@dataclass(frozen=True)
class Clang:
    """A compiler and what it calls itself."""

    path: str
    version: str


@cache
def find_clang() -> Clang | None:
    """The ``clang`` on PATH, else the ``clang-NN`` with the highest number, else None."""
    found: dict[int, Path] = {}
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        for path in sorted(Path(folder or ".").glob("clang*")):
            named = _NAME.fullmatch(path.name)
            if named and os.access(path, os.X_OK):
                found.setdefault(int(named[1] or 1 << 16), path)
    if not found:
        return None
    path = str(found[max(found)])
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    return Clang(path, said.stdout.partition("\n")[0])


def split_programs(code: str) -> dict[str, str]:
    """What the runtime gives to the driver for each kernel: its part of a module's code."""
    parts = (part.partition("\n") for part in code.split(_MARK)[1:])
    return {name: text for name, _, text in parts}


def refusals(programs: Mapping[str, str], fp16: bool, clang: Clang) -> dict[str, str]:
    """What clang says first of each program that it refuses, by kernel.

    Parameters
    ----------
    programs
        Source of each kernel.
    fp16
        Whether the device has ``cl_khr_fp16``. It has no other extension here: 64-bit floats,
        say, are an error.
    clang
        The compiler.
    """
    refused: dict[str, str] = {}
    names = list(programs)
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{number}.cl" for number in range(len(names))]
        for file, name in zip(files, names, strict=True):
            Path(folder, file).write_text(programs[name], encoding="utf-8")
        for standard, version in STANDARDS.items() if files else ():
            # The version is the driver's to define, not the compiler's.
            flags = [f"-cl-std={standard}", f"-D__OPENCL_VERSION__={version}", "-fsyntax-only"]
            flags += ["-x", "cl", "-target", "spir64", "-w", "-fno-caret-diagnostics"]
            flags += ["-Xclang", "-finclude-default-header"]
            flags += ["-Xclang", "-cl-ext=-all,+cl_khr_fp16" if fp16 else "-cl-ext=-all"]
            ran = subprocess.run(
                [clang.path, *flags, *files],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            said = _ERROR.findall(ran.stderr)
            if ran.returncode and not said:
                raise RuntimeError(f"{clang.version} failed: {ran.stderr[-1000:]}")
            for number, message in said:
                refused.setdefault(names[int(number)], f"{standard}: {message}")
    return refused
