"""What can be said of kernels without running them: limits, bindings, generated source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
from clang_check import ABSENT, find_clang, refusals, split_programs
from tvm import tirx

from smartmem_tvm.analysis import accesses_outside_launches, find_launches, is_host_function
from smartmem_tvm.devices import DeviceProfile, built_in_profiles
from smartmem_tvm.execution import opencl_modules
from smartmem_tvm.opencl_source import LARGEST_SOURCE, SourceKernel, source_kernels
from smartmem_tvm.passes.narrow_indices import WIDE

# What every device with images allows a kernel, OpenCL 2.0 and later.
IMAGES = {"read": 128, "write": 64}
LONG = re.compile(r"\b(?:convert_)?u?long\d*\b")
# A result may be 64 bits wide: the value that is stored there.
_STORED_LONG = re.compile(r"(\] = |store\d+\()\(*(?:convert_)?u?long\d*\b")


@dataclass(frozen=True)
class Strictest:
    """The smallest limits of work-groups and of a kernel's arguments among profiles."""

    size: int
    dims: tuple[int, ...]
    arguments: int

    @classmethod
    def of(cls, profiles: Iterable[DeviceProfile]) -> Strictest:
        """Take them from profiles."""
        profiles = list(profiles)
        groups = [profile.work_group for profile in profiles]
        dims = zip(*(group.max_dims for group in groups), strict=True)
        return cls(
            min(group.max_size for group in groups),
            tuple(min(each) for each in dims),
            min(profile.compute.max_kernel_arguments for profile in profiles),
        )


def wide_line(kernel: SourceKernel) -> str | None:
    """The first line of the body that computes with 64-bit integers.

    A counter that nothing reads may be as wide, and what is stored in a result.
    """
    body = kernel.text[kernel.text.index("{") :]
    for line in body.splitlines():
        counter = re.match(r"\s*for \(long (\w+) = ", line)
        if counter and len(re.findall(rf"\b{counter[1]}\b", body)) == 3:
            continue
        if LONG.search(_STORED_LONG.sub("=", line)):
            return line.strip()
    return None


def divergent_barrier(kernel: SourceKernel) -> str | None:
    """A condition on the work-item that has a barrier inside, which not all then reach."""
    own, blocks = {"get_local_id", "get_global_id"}, []
    for line in kernel.text.splitlines():
        named = re.match(r"\s*(?:const )?\w+ (\w+) = (.*);", line)
        if named and own & set(re.findall(r"\w+", named[2])):
            own.add(named[1])
        if "barrier(" in line:
            split = [b for b in blocks if b.startswith("if") and own & set(re.findall(r"\w+", b))]
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
        Limits that all kernels must keep; of all built-in profiles by default.

    Returns
    -------
    dict
        ``functions``, ``kernels``, ``sources`` (bytes and name, the largest first),
        ``largest_group``, ``most_arguments``, ``most_images``, ``most_local_bytes``,
        ``largest_program`` (what the driver compiles for a kernel: with what stands before it),
        ``wide`` (why indices of a function are left 64 bits wide), ``clang`` (the compiler's
        ``version`` and how many kernels it ``accepted``, or why it was ``skipped``), and
        ``violations``, a line each.
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
    texts = _generated(functions, target)
    kernels = [kernel for text in texts for kernel in source_kernels(text)]
    programs = {name: code for text in texts for name, code in split_programs(text).items()}
    narrow = {name for name, func in functions.items() if indices_are_narrow(func)}
    for kernel in kernels:
        function = re.sub(r"_kernel(_\d+)?$", "", kernel.name)
        said = source_violations(kernel, profile, function in narrow, limits)
        violations += [f"{kernel.name}: {line}" for line in said]
    clang, refused = clang_check(programs, profile)
    sources = sorted(((len(k.text.encode()), k.name) for k in kernels), reverse=True)
    return {
        "functions": len(functions),
        "kernels": len(kernels),
        "largest_group": max(groups),
        "most_arguments": max((k.arguments for k in kernels), default=0),
        "most_images": max((k.images("read") + k.images("write") for k in kernels), default=0),
        "most_local_bytes": max((k.local_bytes for k in kernels), default=0),
        "largest_program": max((len(code.encode()) for code in programs.values()), default=0),
        "sources": [list(entry) for entry in sources],
        "wide": {n: reason for n, f in functions.items() if (reason := wide_reason(f))},
        "clang": clang,
        "violations": violations + program_violations(programs) + refused,
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
    """Whether indices are to be 32 bits wide: where NarrowIndices says not why it left them."""
    return wide_reason(func) is None


def clang_check(
    programs: Mapping[str, str], profile: DeviceProfile
) -> tuple[dict[str, Any], list[str]]:
    """What clang was, or why there was none, and a line for each kernel that it refuses."""
    clang = find_clang()
    if clang is None:
        return {"skipped": ABSENT}, []
    refused = refusals(programs, profile.compute.fp16, clang)
    lines = [f"{name}: refused by clang: {message}" for name, message in refused.items()]
    return {"version": clang.version, "accepted": len(programs) - len(refused)}, lines


def program_violations(programs: Mapping[str, str]) -> list[str]:
    """Kernels whose source is short enough alone, but not with what the driver gets before it."""
    said = []
    for name, code in programs.items():
        size = len(code.encode())
        alone = sum(len(kernel.text.encode()) for kernel in source_kernels(code))
        if size >= LARGEST_SOURCE > alone:
            said.append(
                f"{name}: {size} bytes of source, {alone} of them its own, "
                f"{LARGEST_SOURCE - 1} at most"
            )
    return said


def source_violations(
    kernel: SourceKernel, profile: DeviceProfile, narrow: bool, limits: Strictest | None = None
) -> list[str]:
    """What is wrong with the source of a kernel; with 64-bit integers too where it is `narrow`."""
    most_arguments = profile.compute.max_kernel_arguments if limits is None else limits.arguments
    said = []
    size = len(kernel.text.encode())
    if size >= LARGEST_SOURCE:
        said.append(f"{size} bytes of source, {LARGEST_SOURCE - 1} at most")
    if kernel.arguments > most_arguments:
        said.append(f"{kernel.arguments} arguments, {most_arguments} at most")
    for access, most in IMAGES.items():
        if kernel.images(access) > most:
            said.append(f"{kernel.images(access)} images to {access}, {most} at most")
    if kernel.local_bytes > profile.local_memory.bytes:
        most = profile.local_memory.bytes
        said.append(f"{kernel.local_bytes} bytes of local memory, {most} at most")
    divergent = divergent_barrier(kernel)
    if divergent is not None:
        said.append(f"a barrier that not all work-items reach: {divergent[:120]}")
    wide = wide_line(kernel) if narrow else None
    if wide is not None:
        said.append(f"64-bit integers: {wide[:120]}")
    return said


def _generated(functions: dict[str, Any], target: tvm.target.Target) -> list[str]:
    """OpenCL C as generated for all functions, a text for each module."""
    if not functions:
        return []
    named = {name: func.with_attr("global_symbol", name) for name, func in functions.items()}
    library = tvm.compile(tvm.IRModule(named), target=target, tir_pipeline="smartmem").mod
    return _texts(library)


def _texts(library: tvm.runtime.Module) -> list[str]:
    return [module.inspect_source() for module in opencl_modules(library)]


def library_kernels(library: tvm.runtime.Module) -> list[SourceKernel]:
    """Kernels of a compiled library."""
    return [kernel for text in _texts(library) for kernel in source_kernels(text)]
