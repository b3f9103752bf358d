"""A virtual machine for what TVM compiled, here or behind RPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .base import Case, milliseconds

if TYPE_CHECKING:
    import tvm

    from ...execution import RemoteRunner


class Machine:
    """One model with its parameters and inputs on a device."""

    def __init__(self, executor: RemoteRunner | _SeveralSpaces, local: bool) -> None:
        self._executor = executor
        self._local = local

    def bind(self, inputs: Sequence[np.ndarray]) -> None:
        """Upload the inputs."""
        self._inputs = list(inputs)
        self._executor.bind(self._inputs)

    def invoke(self) -> None:
        """Launch one inference."""
        self._executor.invoke()

    def outputs(self) -> list[np.ndarray]:
        """Download the outputs of the last inference; the inputs stay in place."""
        values = self._executor.outputs()
        self._executor.bind(self._inputs)
        return values

    def time(self) -> float:
        """Milliseconds of one inference, until the device has finished."""
        self._executor.device.sync()
        return milliseconds(self._finish_one)

    def launches(self) -> int | None:
        """Device launches of one inference as the runtime saw them; None where it cannot tell."""
        from ... import runtime

        if not self._local or runtime.status().provider != "smartmem":
            return None
        with runtime.profile(self._executor.device) as records:
            self._finish_one()
        return len(records)

    def _finish_one(self) -> None:
        self._executor.invoke()
        self._executor.device.sync()


def open_machine(
    case: Case, library: Path, parameters: Path, spaces: int, scopes: Mapping[str, str]
) -> Machine:
    """Load a library and its parameters.

    Parameters
    ----------
    case : Case
        Says on which device.
    library, parameters : Path
        Files that TVM wrote.
    spaces : int
        Memory spaces of the device that the module was compiled for; a machine is given the
        device once for each.
    scopes : Mapping[str, str]
        Memory scopes of parameters, by name.
    """
    import tvm

    from ... import runtime
    from ...execution import RemoteRunner, upload

    values = tvm.runtime.load_param_dict_from_file(str(parameters))
    remote = case.connect()
    if remote is not None:
        return Machine(RemoteRunner(library, values, remote), local=False)
    device = runtime.device(case.opencl_device)
    module = tvm.runtime.load_module(str(library))
    placed = upload(values, device, scopes)
    return Machine(_SeveralSpaces(module, placed, device, spaces), local=True)


class _SeveralSpaces:
    """A model on a device of this machine that is compiled for several memory spaces of it."""

    def __init__(
        self,
        module: tvm.runtime.Module,
        parameters: list[tvm.runtime.Tensor],
        device: tvm.runtime.Device,
        spaces: int,
    ) -> None:
        import tvm
        from tvm import relax

        from ...execution import build_kernels

        self.device = device
        build_kernels(module, device)
        self._machine = relax.VirtualMachine(module, [device] * spaces)
        self._main = self._machine["main"]
        self._parameters = tvm.runtime.convert(parameters)

    def bind(self, inputs: Sequence[np.ndarray]) -> None:
        """Upload the inputs."""
        import tvm

        self._inputs = [tvm.runtime.tensor(value, self.device) for value in inputs]

    def invoke(self) -> None:
        """Launch one inference."""
        self._result = self._main(*self._inputs, self._parameters)

    def outputs(self) -> list[np.ndarray]:
        """Download the outputs of the last inference."""
        single = hasattr(self._result, "numpy")
        return [v.numpy() for v in ([self._result] if single else self._result)]
