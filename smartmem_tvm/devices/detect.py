"""The profile ``auto``: what a real OpenCL device says about itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import tvm

from smartmem_tvm import runtime
from smartmem_tvm.errors import DeviceError

from . import schema
from .registry import (
    AUTO,
    built_in_profiles,
    list_profiles,
    load_profile,
    profile_from_target,
    unregistered_name,
)


class DeviceFacts(Protocol):
    """The part of ``smartmem_tvm.runtime.DeviceInfo`` that a profile is made from."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def vendor(self) -> str: ...  # noqa: D102
    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def max_allocation(self) -> int: ...  # noqa: D102
    @property
    def local_memory(self) -> int: ...  # noqa: D102
    @property
    def local_memory_in_hardware(self) -> bool: ...  # noqa: D102
    @property
    def max_work_group_size(self) -> int: ...  # noqa: D102
    @property
    def max_work_item_sizes(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def image2d_max_width(self) -> int: ...  # noqa: D102
    @property
    def image2d_max_height(self) -> int: ...  # noqa: D102
    @property
    def image_max_array_size(self) -> int: ...  # noqa: D102
    @property
    def images(self) -> bool: ...  # noqa: D102
    @property
    def fp16(self) -> bool: ...  # noqa: D102


# For a device that no built-in profile describes: small enough to be right on any GPU of the
# last ten years. Subgroup size 1 claims no lock-step execution.
CAUTIOUS = schema.DeviceProfile(
    name="unknown",
    description="any OpenCL device",
    match=schema.Match("gpu"),
    buffer=schema.BufferLimits(max_bytes=128 * 2**20),
    work_group=schema.WorkGroupLimits(
        max_size=256, max_dims=(256, 256, 64), default_size=256, subgroup_size=1
    ),
    local_memory=schema.LocalMemory(bytes=16384, in_hardware=False),
    compute=schema.Compute(
        vector_width=4, register_tile=(4, 4), fp16=False, max_kernel_arguments=128
    ),
    bandwidth=schema.Bandwidth(global_gbps=20.0, texture_gbps=20.0),
    peak=schema.Peak(float32_gflops=200.0, float16_gflops=200.0),
    cache=schema.Cache(line_bytes=64, buffer_l1_bytes=0, texture_l1_bytes=0, l2_bytes=128 * 1024),
    sources={},
)


def _nearest(info: DeviceFacts, known: Iterable[schema.DeviceProfile]) -> schema.DeviceProfile:
    """Return the profile whose figures stand in for what OpenCL does not report."""
    text = f"{info.vendor} {info.name}".lower()
    of_type = [profile for profile in known if profile.match.type == info.type]
    for profile in of_type:
        if any(part.lower() in text for part in profile.match.names):
            return profile
    for profile in of_type:
        if not profile.match.names:
            return profile
    return CAUTIOUS


def profile_from_device(
    info: DeviceFacts, known: Iterable[schema.DeviceProfile] | None = None
) -> schema.DeviceProfile:
    """Make the profile ``auto`` of a real device.

    Limits, memory sizes and features are the device's own. OpenCL reports no bandwidths, peaks,
    cache hierarchy or good tile sizes: those come from the built-in profile that describes the
    device, or else are cautious estimates.

    Parameters
    ----------
    info : smartmem_tvm.runtime.DeviceInfo
        What the driver reports.
    known : Iterable[DeviceProfile], optional
        Profiles that may lend figures; the built-in ones when not given.

    Returns
    -------
    DeviceProfile
        Named ``auto``.
    """
    base = _nearest(info, built_in_profiles() if known is None else known)
    texture = _texture(info, base)
    dims = (*info.max_work_item_sizes, 1, 1, 1)[:3]
    lent = f"figures of profile '{base.name}'" if base is not CAUTIOUS else "cautious estimate"
    reported = f"reported by the driver of '{info.name}'"
    return replace(
        base,
        name=AUTO,
        description=f"{info.name} ({info.vendor}), as the driver reports it",
        match=schema.Match(info.type, (info.name,)),
        buffer=schema.BufferLimits(max_bytes=info.max_allocation),
        texture=texture,
        work_group=schema.WorkGroupLimits(
            max_size=info.max_work_group_size,
            max_dims=(dims[0], dims[1], dims[2]),
            default_size=min(base.work_group.default_size, info.max_work_group_size),
            subgroup_size=base.work_group.subgroup_size,
        ),
        local_memory=schema.LocalMemory(
            bytes=info.local_memory, in_hardware=info.local_memory_in_hardware
        ),
        compute=replace(base.compute, fp16=info.fp16),
        bandwidth=replace(
            base.bandwidth,
            texture_gbps=None
            if texture is None
            else base.bandwidth.texture_gbps or base.bandwidth.global_gbps,
        ),
        peak=replace(
            base.peak,
            float16_gflops=(base.peak.float16_gflops or base.peak.float32_gflops)
            if info.fp16
            else None,
        ),
        sources={
            "buffer": reported,
            "texture": reported,
            "work_group": f"{reported}; subgroup size: {lent}",
            "local_memory": reported,
            "compute": f"fp16 {reported}; the rest: {lent}",
            "bandwidth": lent,
            "peak": lent,
            "cache": lent,
        },
    )


def resolve_profile(
    name: str | os.PathLike[str] | schema.DeviceProfile, selector: str | int | None = None
) -> schema.DeviceProfile:
    """Return the profile that a user meant.

    Parameters
    ----------
    name : str, os.PathLike or DeviceProfile
        A profile (returned as it is), a name, a path, or ``auto``, which reads the limits of the
        OpenCL device that would run the model.
    selector : str or int, optional
        For ``auto``: the device's index or a part of its name; what
        ``smartmem_tvm.runtime.device`` takes.
    """
    if isinstance(name, schema.DeviceProfile):
        return name
    if name != AUTO:
        return load_profile(name)
    chosen = runtime.device(selector)
    for info in runtime.list_devices():
        if info.index == chosen.index:
            return profile_from_device(info)
    raise DeviceError(
        f"the limits of OpenCL device {chosen.index} cannot be read, because TVM's own OpenCL "
        f"runtime is in use. Name a profile instead of '{AUTO}': {', '.join(list_profiles())}"
    )


def choose_profile(
    name: str | os.PathLike[str] | schema.DeviceProfile,
    dtype: str,
    selector: str | int | None = None,
    info: DeviceFacts | None = None,
) -> schema.DeviceProfile:
    """Return the profile that a user meant, if models of a dtype run there.

    Parameters
    ----------
    name, selector
        As :func:`resolve_profile` takes them.
    dtype : str
        Storage type of the activations.
    info : smartmem_tvm.runtime.DeviceInfo, optional
        For ``auto``: what the driver of a device elsewhere reports.

    Raises
    ------
    DeviceError
        If the device has no half precision and ``dtype`` is ``float16``.
    """
    if info is not None and name == AUTO:
        profile = profile_from_device(info)
    else:
        profile = resolve_profile(name, selector)
    if dtype == "float16" and not profile.compute.fp16:
        raise DeviceError(
            f"device '{profile.name}' ({profile.description}) has no half precision: choose dtype "
            "float32, or another device."
        )
    return profile


def profile_for(target: tvm.target.Target | None) -> schema.DeviceProfile:
    """Profile that a target was made from.

    For what no profile made the figures are cautious: right on any GPU of the last ten years. A
    target of ``auto`` that another process made gets the profile of the device of this machine,
    or the cautious one where there is none.

    Raises
    ------
    DeviceError
        For a target that another process made from a profile that is not built in: the target
        holds limits but no bandwidths or tiles.
    """
    if target is None:
        return CAUTIOUS
    found = profile_from_target(target)
    if found is not None:
        return found
    name = unregistered_name(target)
    if AUTO in (name, str(target.attrs.get("model"))):
        try:
            return resolve_profile(AUTO)
        except DeviceError:  # compiled for a device elsewhere, and this machine has none
            return CAUTIOUS
    if name is not None:
        raise DeviceError(
            f"the target was made from device profile '{name}', which is neither built in nor "
            "known to this process: read its file with load_profile, call target() on it, and "
            "compile for that target"
        )
    return CAUTIOUS


def _texture(info: DeviceFacts, base: schema.DeviceProfile) -> schema.TextureLimits | None:
    extents = (info.image2d_max_width, info.image2d_max_height, info.image_max_array_size)
    if not info.images or min(extents) < 1:
        return None
    return schema.TextureLimits(
        max_width=extents[0],
        max_height=extents[1],
        max_layers=extents[2],
        # Texels of 64 bits hold float16, which kernels can only read where fp16 exists.
        texel_bits=(64, 128) if info.fp16 else (128,),
        preferred=base.texture is not None and base.texture.preferred,
    )
