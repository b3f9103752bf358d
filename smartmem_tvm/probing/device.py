"""A device to be probed: where kernels from source are loaded and memory is taken.

Kernels are OpenCL C that the device's own process compiles, so that nothing has to be linked for
a phone's processor before its GPU can be measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from .. import runtime
from ..errors import DeviceError
from ..rpc.session import Remote
from ..runtime import DeviceInfo
from ..runtime.source import serialize_module

_LOAD = "ffi.Module.load_from_bytes.opencl"
_RPC_PREFIX = "Error caught from RPC call:"
LINE = ("blockIdx.x", "threadIdx.x")
PLANE = ("blockIdx.x", "blockIdx.y", "threadIdx.x", "threadIdx.y")


class ConnectionLost(DeviceError):
    """The RPC session broke: nothing more can be asked of its server."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of a source: argument types and launch axes, as ``runtime.source_module`` takes."""

    arguments: tuple[str, ...]
    axes: tuple[str, ...] = LINE


@dataclass(frozen=True)
class ProbedDevice:
    """An OpenCL device of this machine or of an RPC server.

    Attributes
    ----------
    info : DeviceInfo or None
        What the driver reports; None where the runtime there lists no devices.
    where : str
        For messages: "" for this machine, else the server.
    """

    device: tvm.runtime.Device
    info: DeviceInfo | None
    where: str = ""
    session: Any = None

    @classmethod
    def local(cls, selector: str | int | None = None) -> ProbedDevice:
        """The device of this machine that ``selector`` picks; raises DeviceError for none."""
        device = runtime.device(selector)
        infos = [info for info in runtime.list_devices() if info.index == device.index]
        return cls(device, infos[0] if infos else None)

    @classmethod
    def behind(cls, remote: Remote, info: DeviceInfo | None) -> ProbedDevice:
        """The device of an RPC session."""
        return cls(remote.device, info, f"RPC server {remote.address}", remote.session)

    @property
    def group(self) -> int:
        """Work-items of a group that every kernel here can be launched with."""
        return 64 if self.info is None else min(64, self.info.max_work_group_size)

    def load(self, source: str, kernels: Mapping[str, Kernel]) -> tvm.runtime.Module:
        """Make a module of OpenCL C; the driver compiles a kernel at its first launch."""
        code = "".join(f"// Function: {name}\n{source}\n" for name in kernels)
        table: dict[str, tuple[Sequence[str], Sequence[str]]] = {
            name: (kernel.arguments, kernel.axes) for name, kernel in kernels.items()
        }
        data = serialize_module(code, table)
        with self.errors():
            if self.session is None:
                runtime.load()
                return tvm_ffi.get_global_func(_LOAD)(data)
            return self.session.get_function(_LOAD)(data)

    def empty(
        self, shape: Sequence[int], dtype: str = "float32", scope: str | None = None
    ) -> tvm.runtime.Tensor:
        """Take memory without setting it; raises DeviceError where there is none."""
        with self.errors():
            return tvm.runtime.empty(tuple(shape), dtype, self.device, scope)

    def upload(self, array: np.ndarray, scope: str | None = None) -> tvm.runtime.Tensor:
        """Copy an array to the device."""
        with self.errors():
            return self.empty(array.shape, str(array.dtype), scope).copyfrom(array)

    def download(self, tensor: tvm.runtime.Tensor) -> np.ndarray:
        """Copy a tensor from the device."""
        with self.errors():
            return tensor.numpy()

    def launch(self, module: tvm.runtime.Module, name: str, *arguments: Any) -> None:
        """Run a kernel and wait for it."""
        with self.errors():
            module[name](*arguments)
            self.device.sync()

    def release(self) -> None:
        """Give pooled memory back to the driver, where the runtime there has a pool."""
        if self.info is not None:
            with self.errors():
                runtime.release_pool(self.device)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what an RPC server reports into DeviceError, and a broken session into its own.

        TVM sends the text of the server's exception inside an ``RPCError``; a connection that
        breaks is a failed check of its protocol, an ``InternalError``.
        """
        if self.session is None:
            yield
            return
        try:
            yield
        except tvm.error.RPCError as error:
            message = str(error).partition(_RPC_PREFIX)[2] or str(error)
            raise DeviceError(f"{self.where}: {last_line(message)}") from error
        except tvm.error.InternalError as error:
            raise ConnectionLost(
                f"the connection to {self.where} broke ({first_line(error)}). Look at what the "
                "server printed, and connect again."
            ) from error


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def last_line(text: str) -> str:
    """Sentence at the end of what a server reports: TVM's errors open with a stack."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return text
    return lines[-1] if lines[0].startswith("Traceback") else "\n".join(lines)
