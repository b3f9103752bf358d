"""What a device profile holds: one frozen dataclass per table of the TOML file.

The dataclasses are the schema. Field names are the keys of the file and field types are what the
reader accepts, annotated with the smallest value or the values allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import tvm

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class AtLeast:
    """The smallest value of a key."""

    value: int


@dataclass(frozen=True)
class OneOf:
    """The only values of a key."""

    values: tuple[int | str, ...]


Count = Annotated[int, AtLeast(1)]
Bytes = Annotated[int, AtLeast(0)]
Rate = Annotated[float, AtLeast(1)]


@dataclass(frozen=True)
class BufferLimits:
    """Limits of plain OpenCL buffers (scope ``global``)."""

    max_bytes: Count


@dataclass(frozen=True)
class TextureLimits:
    """Limits of ``image2d_array_t`` (scope ``global.texture``); a device without has no table.

    ``preferred`` says that reads through the texture unit beat buffer reads, so that layout
    selection should place tensors there. Where images are emulated they are merely usable.
    """

    max_width: Count
    max_height: Count
    max_layers: Count
    texel_bits: tuple[Annotated[int, OneOf((64, 128))], ...]
    preferred: bool


@dataclass(frozen=True)
class WorkGroupLimits:
    """How many work-items one work-group may have, in all and per dimension.

    ``default_size`` is what schedules use, and a target allows, without knowing a kernel's need
    of registers: few kernels can be launched with the device's largest group.
    """

    max_size: Count
    max_dims: tuple[Count, Count, Count]
    default_size: Count
    subgroup_size: Count


@dataclass(frozen=True)
class LocalMemory:
    """OpenCL local memory; ``in_hardware`` is false where it is ordinary cached memory."""

    bytes: Bytes
    in_hardware: bool


@dataclass(frozen=True)
class Compute:
    """Shape of the arithmetic: vector width in elements and the tile one work-item keeps.

    ``register_tile`` is (rows, columns) of a contraction's output in float32 accumulators.
    """

    vector_width: Annotated[int, OneOf((1, 2, 4, 8, 16))]
    register_tile: tuple[Count, Count]
    fp16: bool
    max_kernel_arguments: Count


@dataclass(frozen=True)
class Bandwidth:
    """Sustained read bandwidth in GB/s (10^9 bytes); ``texture_gbps`` only with textures."""

    global_gbps: Rate
    texture_gbps: Rate | None = None


@dataclass(frozen=True)
class Peak:
    """Peak arithmetic rate in GFLOP/s, one multiply-add counted as two operations."""

    float32_gflops: Rate
    float16_gflops: Rate | None = None


@dataclass(frozen=True)
class Cache:
    """Cache sizes in bytes; 0 says that the level does not exist or is not on that path."""

    line_bytes: Count
    buffer_l1_bytes: Bytes
    texture_l1_bytes: Bytes
    l2_bytes: Bytes


@dataclass(frozen=True)
class HalfStorage:
    """What ``--dtype float16`` leaves in float32 on this device.

    ``keep_float32`` names Relax operators (``nn.softmax``, ``add``) whose operands and results are
    stored as float32, beside what is kept on every device.
    """

    keep_float32: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """Which real devices a profile describes, for the figures that OpenCL does not report.

    ``type`` is the OpenCL device type; ``names`` are parts of the device's or vendor's name, and
    a profile without names stands for every device of its type that no other profile names.
    """

    type: Annotated[str, OneOf(("gpu", "cpu", "accelerator"))]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeviceProfile:
    """What passes and schedules may ask of a device.

    Attributes
    ----------
    name : str
        Name on the command line: ``adreno-740``, or ``auto`` for a profile read from a device.
    description : str
        One line for people.
    sources : Mapping[str, str]
        Where the values of each table come from; estimates are called estimates.
    texture : TextureLimits or None
        None when the device has no usable images.
    half : HalfStorage or None
        What stays float32 in half precision; None when nothing does on this device alone.
    """

    name: str
    description: str
    match: Match
    buffer: BufferLimits
    work_group: WorkGroupLimits
    local_memory: LocalMemory
    compute: Compute
    bandwidth: Bandwidth
    peak: Peak
    cache: Cache
    sources: Mapping[str, str] = field(compare=False, hash=False)
    texture: TextureLimits | None = None
    half: HalfStorage | None = None

    @property
    def scopes(self) -> tuple[str, ...]:
        """TVM memory scopes a tensor may live in, the default one first."""
        return ("global",) if self.texture is None else ("global", "global.texture")

    def target(self, host: str | None = None) -> tvm.target.Target:
        """Make the TVM target of this profile.

        The profile's name travels as the target's ``model``, with a digest of its contents when it
        is not built in, so that passes find the profile of their target. The key ``adreno`` is left
        out on purpose: TVM would choose its own texture pipeline by it, which does not build in
        0.27.

        Parameters
        ----------
        host : str, optional
            LLVM triple of the machine that launches the kernels, such as
            ``aarch64-linux-android``; this machine when not given.

        Returns
        -------
        tvm.target.Target
            An ``opencl`` target with an ``llvm`` host.
        """
        from .registry import register_profile  # which reads profiles, and so needs this module

        config: dict[str, Any] = {
            "kind": "opencl",
            "model": register_profile(self),
            "max_num_threads": self.work_group.default_size,
            "max_threads_per_block": self.work_group.default_size,
            "max_shared_memory_per_block": self.local_memory.bytes,
            "thread_warp_size": 1,  # smartmem_tvm.upstream, fault 17
            "max_function_args": self.compute.max_kernel_arguments,
        }
        if self.texture is not None:
            config["texture_spatial_limit"] = min(self.texture.max_width, self.texture.max_height)
            config["texture_depth_limit"] = self.texture.max_layers
        host_config = {"kind": "llvm"} if host is None else {"kind": "llvm", "mtriple": host}
        return tvm.target.Target(config, host=host_config)

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain dictionaries and lists, in the shape of its TOML file."""
        tables = asdict(self)
        tables["sources"] = dict(self.sources)
        return {"schema": SCHEMA_VERSION, **_plain(tables)}


def _plain(value: Any) -> Any:
    """Drop what TOML cannot say (None) and turn tuples into lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
