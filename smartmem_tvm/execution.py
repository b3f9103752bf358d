"""Running a compiled model on a device, in this process or behind an RPC session.

A runner holds one virtual machine with its parameters on one device. Its three steps are apart
so that a benchmark can time the middle one alone: ``bind`` uploads inputs, ``invoke`` launches
one inference, ``outputs`` downloads what it produced.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tvm
from tvm import relax

from . import runtime
from .errors import DeviceError
from .parameters import BIND, ENTRY
from .rpc.session import Remote

# A virtual machine names a device for each scope that tensors have: buffers, and images.
MEMORY_SPACES = 2
# The memory scope of plain buffers.
BUFFER = "global"

_RPC_PREFIX = "Error caught from RPC call:"


class Runner(Protocol):
    """A model on a device; the caller holds ``lock`` from ``bind`` to ``outputs``."""

    device: tvm.runtime.Device
    lock: threading.RLock

    def bind(self, inputs: Sequence[np.ndarray]) -> None:
        """Upload the inputs of the next inferences."""
        ...

    def invoke(self) -> None:
        """Launch one inference on the bound inputs."""
        ...

    def outputs(self) -> list[np.ndarray]:
        """Wait for the last inference and download its outputs, in the model's order."""
        ...


class LocalRunner:
    """A model on a device of this machine."""

    def __init__(
        self,
        library: tvm.runtime.Module | tvm.runtime.Executable,
        parameters: Mapping[str, tvm.runtime.Tensor],
        device: tvm.runtime.Device,
        scopes: Mapping[str, str],
    ) -> None:
        self.device = device
        self.lock = threading.RLock()
        build_kernels(library if isinstance(library, tvm.runtime.Module) else library.mod, device)
        self._machine = relax.VirtualMachine(library, [device] * MEMORY_SPACES)
        self._main = self._machine[ENTRY]
        self._parameters = tvm.runtime.convert(upload(parameters, device, scopes))
        self._inputs: list[tvm.runtime.Tensor] = []
        self._result: Any = None

    def bind(self, inputs: Sequence[np.ndarray]) -> None:
        """Upload the inputs of the next inferences."""
        self._inputs = [tvm.runtime.tensor(value, self.device) for value in inputs]

    def invoke(self) -> None:
        """Launch one inference on the bound inputs."""
        self._result = self._main(*self._inputs, self._parameters)

    def outputs(self) -> list[np.ndarray]:
        """Wait for the last inference and download its outputs, in the model's order."""
        result, self._result, self._inputs = self._result, None, []
        return [tensor.numpy() for tensor in _flatten(result)]


class RemoteRunner:
    """A model on the device of an RPC server; the library and parameters are uploaded once."""

    def __init__(
        self, library: Path, parameters: Mapping[str, tvm.runtime.Tensor], remote: Remote
    ) -> None:
        self.device = remote.device
        self.lock = remote.lock
        with self.lock, remote_errors(remote.address):
            name = remote.upload(library)
            library = remote.session.load_module(name)
            self._machine = relax.VirtualMachine(library, [self.device] * MEMORY_SPACES)
            uploaded = upload(parameters, self.device, {})
            # A client cannot build a tuple on the server; a saved call with its arguments bound
            # can return one, of images as well. Saved anew, it lets go of what was copied to them.
            self._machine.module["save_function"](BIND, "bound_parameters", 1, *uploaded)
            self._parameters = self._machine.module["bound_parameters"]()
            self._machine.module["save_function"](BIND, "bound_parameters", 1)
        self._address = remote.address

    def bind(self, inputs: Sequence[np.ndarray]) -> None:
        """Upload the inputs of the next inferences."""
        with remote_errors(self._address):
            tensors = [tvm.runtime.tensor(value, self.device) for value in inputs]
            self._machine.module["set_input"](ENTRY, *tensors, self._parameters)

    def invoke(self) -> None:
        """Launch one inference on the bound inputs."""
        with remote_errors(self._address):
            self._machine.invoke_stateful(ENTRY)

    def outputs(self) -> list[np.ndarray]:
        """Wait for the last inference and download its outputs, in the model's order."""
        with remote_errors(self._address):
            return [tensor.numpy() for tensor in _flatten(self._machine.get_outputs(ENTRY))]


def upload(
    parameters: Mapping[str, tvm.runtime.Tensor],
    device: tvm.runtime.Device,
    scopes: Mapping[str, str],
) -> list[tvm.runtime.Tensor]:
    """Copy parameters to a device, each to the memory that its kernels read it from.

    Parameters
    ----------
    parameters
        By name, in the order of the tuple's fields.
    device
        Of this machine or of an RPC session.
    scopes
        Memory scopes of those that are no plain buffers.
    """
    return [
        tvm.runtime.tensor(value.numpy(), device, scopes.get(name, BUFFER))
        for name, value in parameters.items()
    ]


@contextmanager
def remote_errors(address: str) -> Iterator[None]:
    """Turn what an RPC server reports into errors of this package, with the server's address.

    TVM sends the text of the server's exception inside an ``RPCError``; a connection that breaks
    is a failed check of its protocol, an ``InternalError``.
    """
    try:
        yield
    except tvm.error.RPCError as error:
        message = str(error).partition(_RPC_PREFIX)[2] or str(error)
        raise DeviceError(f"RPC server {address}: {message.strip()}") from error
    except tvm.error.InternalError as error:
        raise DeviceError(
            f"the connection to RPC server {address} broke ({error}). Look at what the server "
            "printed, and connect again."
        ) from error


@contextmanager
def private_copy(library: Path) -> Iterator[Path]:
    """Copy a shared library to a name that nothing else ever had.

    The dynamic loader returns the library it already has when a path is loaded again, even after
    the file there was replaced. On POSIX the copy may be deleted once it is loaded.
    """
    folder = Path(tempfile.mkdtemp(prefix="smartmem-"))
    try:
        yield Path(shutil.copyfile(library, folder / library.name))
    finally:
        shutil.rmtree(folder)


def opencl_modules(module: tvm.runtime.Module) -> Iterator[tvm.runtime.Module]:
    """Every OpenCL module in a module's import tree, itself included."""
    if module.kind == "opencl":
        yield module
    for imported in module.imports:
        yield from opencl_modules(imported)


def build_kernels(module: tvm.runtime.Module, device: tvm.runtime.Device) -> None:
    """Compile all kernels now, on every core; else each would at its first launch, one by one."""
    if runtime.status().provider == "smartmem":
        for kernels in opencl_modules(module):
            kernels["smartmem.build_all"](device.index)


def _flatten(value: Any) -> Iterable[tvm.runtime.Tensor]:
    if isinstance(value, tvm.runtime.Tensor):
        yield value
    else:
        for item in value:
            yield from _flatten(item)
