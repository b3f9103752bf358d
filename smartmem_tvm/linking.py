"""Host machines: their triples, and linking a compiled model into a shared library for one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import tvm
from tvm.relax.vm_build import VMExecutable
from tvm.support import cc

from .errors import SmartMemError


def default_host() -> str:
    """LLVM triple of this machine."""
    return str(tvm.target.codegen.llvm_get_system_triple())


def check_host(triple: str) -> None:
    """Raise SmartMemError where ``triple`` is none or names an architecture LLVM does not know."""
    parts = triple.split("-")
    known = [str(name) for name in tvm.target.codegen.llvm_get_targets()]
    if len(parts) < 3 or not all(parts):
        raise SmartMemError(
            f"'{triple}' is no host triple: ARCHITECTURE-VENDOR-SYSTEM or ARCHITECTURE-SYSTEM-ABI "
            f"is expected, such as aarch64-linux-android; this machine is {default_host()}."
        )
    if _architecture(parts[0]) not in known:
        raise SmartMemError(
            f"host '{triple}': TVM's LLVM has no architecture '{parts[0]}'. It has: "
            f"{', '.join(known)}."
        )


def runs_here(triple: str) -> bool:
    """Whether code for the host ``triple`` runs on this machine: same architecture and system."""
    return _machine(triple) == _machine(default_host())


def link(executable: VMExecutable, path: Path, host: str, linker: str | None = None) -> None:
    """Write a compiled model as a shared library for the machine ``host``.

    Parameters
    ----------
    executable : VMExecutable
        What ``relax.build`` returned for that host.
    path : Path
        The file to write.
    host : str
        LLVM triple.
    linker : str, optional
        C++ compiler driver to link with; found by :func:`find_linker` when not given.
    """
    command = find_linker(host, linker)
    try:
        executable.export_library(str(path), fcompile=cc.cross_compiler(command))
    except (RuntimeError, OSError) as error:
        raise SmartMemError(
            f"linking the model for the host '{host}' with '{command}' failed:\n{error}"
        ) from error


def find_linker(host: str, linker: str | None = None) -> str:
    """C++ compiler driver that links for ``host``.

    In this order: ``linker``, for Android the environment's ``TVM_NDK_CC``, for this machine the
    environment's ``CXX`` and then g++ or clang++, for others ``HOST-g++`` or ``HOST-clang++``.
    """
    if linker is not None:
        return _existing(linker, f"the linker '{linker}' for the host '{host}'")
    android = "android" in host.split("-")[-1]
    if android and os.environ.get("TVM_NDK_CC"):
        command = os.environ["TVM_NDK_CC"]
        return _existing(command, f"the compiler '{command}' that TVM_NDK_CC names")
    if runs_here(host):
        candidates = [os.environ.get("CXX") or "g++", "clang++"]
        remedy = "Install g++ (Debian, Ubuntu: apt install g++) or name a compiler in CXX."
    else:
        candidates = [f"{host}-g++", f"{host}-clang++"]
        remedy = (
            "Name the NDK's compiler for that API level in TVM_NDK_CC, such as "
            "toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android28-clang++."
            if android
            else "Install that cross compiler, or name one with --linker."
        )
    for candidate in candidates:
        if found := shutil.which(candidate):
            return found
    raise SmartMemError(
        f"no C++ compiler to link for the host '{host}': looked for {' and '.join(candidates)}. "
        f"{remedy}"
    )


def _existing(command: str, what: str) -> str:
    found = shutil.which(command)
    if found is None:
        raise SmartMemError(f"{what} is not on the path or is not executable.")
    return found


def _machine(triple: str) -> tuple[str, bool]:
    """Architecture, and whether the system is Android: its libc keeps other Linuxes' code out."""
    architecture, *rest = triple.split("-")
    return _architecture(architecture), any("android" in part for part in rest)


def _architecture(name: str) -> str:
    if name.startswith("armv"):
        return "arm"
    return {"arm64": "aarch64", "amd64": "x86_64", "i686": "i386"}.get(name, name)
