"""What can be said of kernels without running them: limits, bindings, generated source."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_walk

from smartmem_tvm.analysis import accesses_outside_launches, find_launches, is_host_function
from smartmem_tvm.devices import DeviceProfile, built_in_profiles
from smartmem_tvm.execution import opencl_modules
from smartmem_tvm.passes.narrow_indices import WIDE, WIDE_TYPES

LARGEST_SOURCE = 64 * 1024
LONG = re.compile(r"\b(?:convert_)?u?long\d*\b")
_BYTES = {"char": 1, "bool": 1, "short": 2, "half": 2, "int": 4, "float": 4, "long": 8, "double": 8}
_LOCAL = re.compile(r"__local (?:u?)([a-z]+?)(\d*) \w+\[(\d+)\]")


@dataclass(frozen=True)
class Strictest:
    """The smallest limits of work-groups among profiles."""

    size: int
    dims: tuple[int, ...]

    @classmethod
    def of(cls, profiles: Iterable[DeviceProfile]) -> Strictest:
        """Take them from profiles."""
        groups = [profile.work_group for profile in profiles]
        dims = zip(*(group.max_dims for group in groups), strict=True)
        return cls(min(group.max_size for group in groups), tuple(min(each) for each in dims))


@dataclass(frozen=True)
class SourceKernel:
    """One kernel of generated OpenCL C."""

    name: str
    text: str

    @property
    def arguments(self) -> int:
        """Parameters of the kernel."""
        signature = self.text[self.text.index("(", self.text.index(self.name)) :]
        return signature[: signature.index(")")].count(",") + 1

    @property
    def local_bytes(self) -> int:
        """Bytes of local memory."""
        return sum(
            _BYTES[kind] * int(lanes or 1) * int(count)
            for kind, lanes, count in _LOCAL.findall(self.text)
        )

    @property
    def wide_line(self) -> str | None:
        """The first line of the body with 64-bit integers, but for a counter that nothing reads."""
        body = self.text[self.text.index("{") :]
        for line in body.splitlines():
            counter = re.match(r"\s*for \(long (\w+) = ", line)
            if counter and len(re.findall(rf"\b{counter[1]}\b", body)) == 3:
                continue
            if LONG.search(line):
                return line.strip()
        return None

    @property
    def divergent_barrier(self) -> str | None:
        """A condition on the work-item that has a barrier inside, which not all then reach."""
        own, blocks = {"get_local_id", "get_global_id"}, []
        for line in self.text.splitlines():
            named = re.match(r"\s*(?:const )?\w+ (\w+) = (.*);", line)
            if named and own & set(re.findall(r"\w+", named[2])):
                own.add(named[1])
            if "barrier(" in line:
                split = [
                    b for b in blocks if b.startswith("if") and own & set(re.findall(r"\w+", b))
                ]
                if split:
                    return split[0]
            code = line.strip()
            if code.startswith("}"):
                opened = blocks.pop()
                if code.startswith("} else"):  # what is not so of a work-item is its own, too
                    blocks.append(opened)
            elif code.endswith("{"):
                blocks.append(code)
        return None


def source_kernels(text: str) -> list[SourceKernel]:
    """The kernels of an OpenCL C file, forward declarations left out."""
    found = []
    pieces = re.split(r"^(?=__kernel\b)", text, flags=re.MULTILINE)
    for piece in pieces[1:]:
        name = re.search(r"__kernel\s+void\s+(?:__attribute__\(\(.*?\)\)\)\s+)?(\w+)\s*\(", piece)
        if name is None:
            raise ValueError(f"a kernel without a name: {piece[:100]}")
        if "{" in piece:
            found.append(SourceKernel(name[1], piece.rstrip() + "\n"))
    return found


def device_functions(mod: tvm.IRModule, target: tvm.target.Target) -> dict[str, tirx.PrimFunc]:
    """Scheduled functions of a module that run on the device, by name."""
    return {
        gv.name_hint: func
        for gv, func in mod.functions.items()
        if isinstance(func, tirx.PrimFunc) and not is_host_function(func, target)
    }


def check_module(
    mod: tvm.IRModule, profile: DeviceProfile, strictest: Strictest | None = None
) -> dict[str, Any]:
    """Facts about all kernels of a scheduled module, and what breaks a limit.

    Parameters
    ----------
    mod
        Module before it is lowered.
    profile
        Device profile that it was scheduled for.
    strictest
        Limits of work-groups that all kernels must keep; of all built-in profiles by default.

    Returns
    -------
    dict
        ``functions``, ``kernels``, ``sources`` (bytes and name, the largest first),
        ``largest_group``, ``most_arguments``, ``most_local_bytes``, ``wide`` (why indices of a
        function are left 64 bits wide), and ``violations``, a line each.
    """
    limits = strictest or Strictest.of(built_in_profiles())
    target = profile.target()
    functions = device_functions(mod, target)
    violations = []
    groups = [1]
    for name, func in functions.items():
        said, sizes = launch_violations(func, limits)
        violations += [f"{name}: {line}" for line in said]
        groups += sizes
    kernels = _generated(functions, target)
    narrow = {name for name, func in functions.items() if indices_are_narrow(func)}
    for kernel in kernels:
        function = re.sub(r"_kernel(_\d+)?$", "", kernel.name)
        said = source_violations(kernel, profile, function in narrow)
        violations += [f"{kernel.name}: {line}" for line in said]
    sources = sorted(((len(k.text.encode()), k.name) for k in kernels), reverse=True)
    return {
        "functions": len(functions),
        "kernels": len(kernels),
        "largest_group": max(groups),
        "most_arguments": max((k.arguments for k in kernels), default=0),
        "most_local_bytes": max((k.local_bytes for k in kernels), default=0),
        "sources": [list(entry) for entry in sources],
        "wide": {n: reason for n, f in functions.items() if (reason := wide_reason(f))},
        "violations": violations,
    }


def launch_violations(func: tirx.PrimFunc, limits: Strictest) -> tuple[list[str], list[int]]:
    """What is wrong with the launches of a function, and how large their work-groups are."""
    said = [f"'{b.name}' is accessed outside of a launch" for b in accesses_outside_launches(func)]
    launches = find_launches(func)
    if not launches:
        said.append("nothing is launched")
    sizes = []
    for launch in launches:
        extents = [launch.threads.get(f"threadIdx.{axis}", 1) for axis in "xyz"]
        if not any(tag.startswith(("threadIdx.", "blockIdx.")) for tag in launch.threads):
            said.append("a launch has no thread bindings")
        if any(not isinstance(n, (int, tirx.IntImm)) for n in extents):
            said.append(f"a work-group of symbolic size: {extents}")
            continue
        numbers = [int(n) for n in extents]
        sizes.append(prod(numbers))
        if prod(numbers) > limits.size or any(
            n > most for n, most in zip(numbers, limits.dims, strict=True)
        ):
            said.append(f"a work-group of {numbers}: {limits.size}, {limits.dims} at most")
    return said, sizes


def wide_reason(func: tirx.PrimFunc) -> str | None:
    """Why NarrowIndices left the indices of a function wide; None where it did not."""
    reason = func.attrs.get(WIDE)
    return None if reason is None else str(reason)


def indices_are_narrow(func: tirx.PrimFunc) -> bool:
    """Whether indices are to be 32 bits wide.

    Not where a tensor holds wider integers, nor where NarrowIndices says why it left them.
    """
    if wide_reason(func) is not None:
        return False
    touched: list[Any] = list(func.params)

    def visit(access: Any) -> None:
        touched.append(access.source if isinstance(access, TensorLoad) else access.buffer)

    structural_walk(func.body, ((TensorLoad, tirx.BufferStore), visit))
    return not any(str(getattr(tensor, "dtype", "")) in WIDE_TYPES for tensor in touched)


def source_violations(kernel: SourceKernel, profile: DeviceProfile, narrow: bool) -> list[str]:
    """What is wrong with the source of a kernel; with 64-bit integers too where it is `narrow`."""
    said = []
    size = len(kernel.text.encode())
    if size >= LARGEST_SOURCE:
        said.append(f"{size} bytes of source, {LARGEST_SOURCE - 1} at most")
    if kernel.arguments > profile.compute.max_kernel_arguments:
        most = profile.compute.max_kernel_arguments
        said.append(f"{kernel.arguments} arguments, {most} at most")
    if kernel.local_bytes > profile.local_memory.bytes:
        most = profile.local_memory.bytes
        said.append(f"{kernel.local_bytes} bytes of local memory, {most} at most")
    if kernel.divergent_barrier is not None:
        said.append(f"a barrier that not all work-items reach: {kernel.divergent_barrier[:120]}")
    if narrow and kernel.wide_line is not None:
        said.append(f"64-bit integers: {kernel.wide_line[:120]}")
    return said


def _generated(functions: dict[str, Any], target: tvm.target.Target) -> list[SourceKernel]:
    """Kernels as generated for each function."""
    if not functions:
        return []
    named = {name: func.with_attr("global_symbol", name) for name, func in functions.items()}
    library = tvm.compile(tvm.IRModule(named), target=target, tir_pipeline="smartmem").mod
    return library_kernels(library)


def library_kernels(library: tvm.runtime.Module) -> list[SourceKernel]:
    """Kernels of a compiled library."""
    texts = [module.inspect_source() for module in opencl_modules(library)]
    return [kernel for text in texts for kernel in source_kernels(text)]
