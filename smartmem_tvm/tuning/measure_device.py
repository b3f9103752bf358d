"""Where candidates are launched: an OpenCL device of this machine, or one behind an RPC session."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import tirx
from tvm.support import cc

from smartmem_tvm.analysis.texels import is_texture

from .. import runtime
from ..errors import DeviceError, SmartMemError
from ..execution import BUFFER, build_kernels
from ..linking import default_host, find_linker
from ..rpc.session import Remote, connect
from .candidate import ENTRY, Candidate
from .measure_inputs import Arrays, updated, written
from .reference import Outputs

# A repeat is as many launches as take this long, so that starting and waiting hardly count, but
# never more than MOST_LAUNCHES: a timer keeps something for each.
REPEAT_S = 0.01
MOST_LAUNCHES = 100
# Repeats of a candidate take no longer than this together, but for the first launch.
MOST_S = 2.0
_SHORTEST_S = 1e-9
_EXPIRED = "RPCSessionTimeoutError"


class ConnectionBroke(Exception):
    """The RPC session is gone, through no fault of what was asked; the message says how."""


class Place:
    """A device of this machine.

    Attributes
    ----------
    device : tvm.runtime.Device
        The OpenCL device.
    name, driver : str
        What it says of itself.
    """

    def __init__(self, opencl_device: str | None) -> None:
        self.device = runtime.device(opencl_device)
        info = runtime.list_devices()[self.device.index]
        self.name, self.driver = info.name, info.driver_version

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Tell a broken connection from what the device refuses."""
        yield

    def load(self, candidate: Candidate, _host: str | None) -> Any:
        """A candidate's module, with its kernels compiled."""
        module = candidate.executable.jit()
        build_kernels(module, self.device)
        return module

    def tensor(self, array: NDArray[Any], param: Any) -> tvm.runtime.Tensor:
        """An array where the parameter is to be: in a buffer or in an image."""
        scope = str(param.ty.storage_scope) if is_texture(param) else BUFFER
        return tvm.runtime.tensor(array, self.device, scope)

    def close(self) -> None:
        """Leave the device."""


class RemotePlace(Place):
    """A device behind an RPC tracker; raises DeviceError where no server is free in time.

    Parameters
    ----------
    tracker, key : str
        ``HOST:PORT`` and the name of the servers.
    opencl_device : str or None
        Index of the device on the server.
    timeout : float
        Seconds to wait for a server that is free.
    session_limit : float
        Seconds after which the server ends the session, so that a kernel that hangs does not
        keep it for ever.
    """

    def __init__(
        self,
        tracker: str,
        key: str,
        opencl_device: str | None,
        timeout: float,
        session_limit: float,
    ) -> None:
        if not (opencl_device or "0").isdigit():
            raise SmartMemError(
                f"'{opencl_device}' is no index of an OpenCL device: behind RPC a device is given "
                "by its index, as `smartmem devices --rpc` lists them."
            )
        index = int(opencl_device or 0)
        self._remote: Remote = connect(
            tracker, key, device=index, timeout=timeout, session_limit=session_limit
        )
        self.device = self._remote.device
        with self.faults():
            info = self._remote.device_info()
        self.name, self.driver = info.name, info.driver_version

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Tell a broken connection, ConnectionBroke, from what the device refuses, DeviceError."""
        try:
            yield
        except tvm.error.RPCError as error:
            if _EXPIRED in str(error):
                raise ConnectionBroke("the session's time was over") from error
            said = str(error).partition("Error caught from RPC call:")[2] or str(error)
            raise DeviceError(said.strip()) from error
        except (tvm.error.InternalError, OSError) as error:
            said = (str(error).strip().splitlines() or ["no message"])[0]
            raise ConnectionBroke(
                f"the connection to RPC server {self._remote.address} broke ({said})"
            ) from error

    def load(self, candidate: Candidate, host: str | None) -> Any:
        """A candidate's module on the server; its kernels are compiled at the first launch.

        `host` is the LLVM triple that it was built for; this machine's when None.
        """
        linker = find_linker(host or default_host())
        with tempfile.TemporaryDirectory(prefix="smartmem-") as folder:
            path = Path(folder) / "candidate.so"
            fcompile = cc.cross_compiler(linker)
            candidate.executable.export_library(str(path), fcompile=fcompile)
            with self.faults():
                name = self._remote.upload(path)
                module = self._remote.session.load_module(name)
                self._remote.session.remove(name)  # it is open: thousands would fill a phone
                return module

    def close(self) -> None:
        """End the session."""
        with suppress(ConnectionBroke), self.faults():
            self._remote.close()


class LoadedTask:
    """A task's tensors on a device, allocated once for all its candidates."""

    def __init__(self, func: tirx.PrimFunc, arrays: Arrays, place: Place) -> None:
        self._place = place
        self._written, self.in_place = written(func), bool(updated(func))
        with place.faults():
            self._tensors = [
                place.tensor(array, param) for array, param in zip(arrays, func.params, strict=True)
            ]
            self._before = {n: place.tensor(arrays[n], func.params[n]) for n in self._written}

    def launch(self, module: Any) -> None:
        """Launch a candidate once on fresh inputs and outputs."""
        with self._place.faults():
            for number, before in self._before.items():
                before.copyto(self._tensors[number])
            module[ENTRY](*self._tensors)
            self._place.device.sync()

    def outputs(self) -> Outputs:
        """What was written."""
        with self._place.faults():
            return {number: self._tensors[number].numpy() for number in self._written}

    def seconds(self, module: Any, launches: int, repeats: int) -> list[float]:
        """Seconds of a launch, by the device's timer, for each repeat of so many launches."""
        with self._place.faults():
            timer = module.time_evaluator(ENTRY, self._place.device, launches, repeats)
            return [max(float(value), _SHORTEST_S) for value in timer(*self._tensors).results]


def time_candidate(
    task: LoadedTask, module: Any, repeats: int, stop_above_s: float | None
) -> list[float]:
    """Seconds of a launch, for each repeat.

    Parameters
    ----------
    task, module
        A candidate that was launched before.
    repeats : int
        Fewer where they would take longer than :data:`MOST_S` together.
    stop_above_s : float or None
        A candidate that is slower than this is timed once.
    """
    (first,) = task.seconds(module, 1, 1)
    if first > MOST_S or (stop_above_s is not None and first > stop_above_s):
        return [first]
    launches = min(MOST_LAUNCHES, ceil(REPEAT_S / first))
    repeats = min(repeats, max(1, int(MOST_S / (first * launches))))
    return task.seconds(module, launches, repeats)
