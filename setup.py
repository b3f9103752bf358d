"""Build of the C++ libraries and the mapping of the top-level folders to packages.

The libraries are the OpenCL runtime and the simulator's cache model.

``passes/``, ``schedules/`` and ``zoo/`` are the packages ``smartmem_tvm.passes``,
``smartmem_tvm.schedules`` and ``smartmem_tvm.zoo`` (docs/adr/0003-package-mapping.md).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

RUNTIME = Path("smartmem_tvm/runtime")
SIMULATION = Path("smartmem_tvm/simulation")
LIBRARIES = {
    "smartmem_tvm.runtime.libsmartmem_opencl": RUNTIME,
    "smartmem_tvm.simulation.libsmartmem_caches": SIMULATION,
}
MAPPED = {
    "passes": "smartmem_tvm.passes",
    "schedules": "smartmem_tvm.schedules",
    "zoo": "smartmem_tvm.zoo",
}


def _package_root(name: str) -> Path:
    """Folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(
            f"setup.py: the OpenCL runtime is built against the headers of '{name}', which is not "
            "installed here. Run `make setup`, or install requirements.txt first and then "
            "`pip install --no-build-isolation -e .`."
        )
    return Path(next(iter(spec.submodule_search_locations)))


class BuildLibraries(build_ext):
    """Compiles the sources of the OpenCL runtime and of the cache model into a library each.

    They are no Python extension modules: they have no interpreter ABI and keep plain names.
    """

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        tvm, ffi = _package_root("tvm"), _package_root("tvm_ffi")
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        flags = [
            "-std=c++17",
            "-O2",
            "-g1",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",
            "-pthread",
        ]
        flags += os.environ.get("SMARTMEM_CXXFLAGS", "").split()
        includes = [RUNTIME / "src", tvm / "include", ffi / "include", RUNTIME / "src/compat"]
        partial = output.with_suffix(f".{os.getpid()}.tmp")
        command = [os.environ.get("CXX", "g++"), *flags]
        for folder in includes:  # in this order: what a wheel ships wins over compat/
            command += ["-isystem", str(folder)]
        command += [*ext.sources, "-o", str(partial)]
        if LIBRARIES[ext.name] == RUNTIME:  # the cache model needs nothing
            command += [f"-L{tvm / 'lib'}", f"-L{ffi / 'lib'}"]
            command += ["-ltvm_runtime", "-ltvm_ffi", "-ldl"]
        print(" ".join(command), flush=True)
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            sys.exit(
                f"setup.py: no C++ compiler '{command[0]}': install g++ (Debian, Ubuntu: "
                "apt install g++) or name one in CXX."
            )
        except subprocess.CalledProcessError as error:
            sys.exit(f"setup.py: {output.name} did not compile (exit {error.returncode}).")
        partial.replace(output)


def _packages() -> list[str]:
    found = find_packages(include=["smartmem_tvm", "smartmem_tvm.*"])
    for folder, package in MAPPED.items():
        if Path(folder, "__init__.py").exists():
            found.append(package)
            found += [f"{package}.{name}" for name in find_packages(folder)]
    return found


setup(
    packages=_packages(),
    package_dir={package: folder for folder, package in MAPPED.items()},
    ext_modules=[
        Extension(name, sources=sorted(str(p) for p in (folder / "src").glob("*.cc")))
        for name, folder in LIBRARIES.items()
    ],
    cmdclass={"build_ext": BuildLibraries},
)
