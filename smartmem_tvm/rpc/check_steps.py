"""The walk of a check, in the probe's process: its steps in order, and what ends it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tvm

from ..errors import SmartMemError

if TYPE_CHECKING:
    from ..probing.device import ProbedDevice
    from .check_tracker import TrackerConnection
    from .session import Remote

OK, FAILED, WARNING = "ok", "failed", "warning"
# A step that fails here leaves nothing for the next ones to ask.
_NEEDED = ("address", "connect", "tracker", "key", "server", "runtime", "device", "memory")


class Fault(Exception):
    """A step that failed: what was found, and what to do about it."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.found = found
        self.remedy = remedy


@dataclass(frozen=True)
class Finding:
    """What a step found; with a remedy where it is less than one would wish."""

    found: str
    remedy: str = ""

    @property
    def status(self) -> str:
        """``ok``, or ``warning`` where there is something to do."""
        return WARNING if self.remedy else OK


@dataclass
class Walk:
    """What is asked, and what earlier steps leave to later ones."""

    tracker: str
    key: str
    device: int
    timeout: float
    step_limit: float
    host: str | None
    linker: str | None
    deadline: float = field(default_factory=time.monotonic)
    about: Callable[[str], None] = lambda text: None
    connection: TrackerConnection | None = None
    session: Any = None
    remote: Remote | None = None
    probed: ProbedDevice | None = None
    textures: bool = False

    @property
    def there(self) -> ProbedDevice:
        """The device that the step ``device`` found."""
        if self.probed is None:
            raise Fault("there is no device", "Look at the steps before.")
        return self.probed


StepFunction = Callable[[Walk], Finding]


def serve(request: Mapping[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
    """Walk the steps; for each ``{"start": NAME}``, then ``{"step": {…}}``.

    ``{"about": TEXT}`` in between says what is waited for. Ends after a step that later ones need,
    or where the session broke.
    """
    walk = Walk(**request)
    walk.about = lambda text: emit({"about": text})
    walk.deadline = time.monotonic() + walk.timeout
    lost = False
    try:
        for name, function in step_functions().items():
            emit({"start": name})
            step, lost = run_step(name, function, walk)
            emit({"step": step})
            if lost or (step["status"] == FAILED and name in _NEEDED):
                break
    finally:
        if walk.connection is not None:
            walk.connection.close()
    if walk.session is not None and not lost:
        # The server is free for the next client at once; one that has just ended is free anyway.
        with contextlib.suppress(tvm.error.RPCError, tvm.error.InternalError):
            walk.session.get_function("CloseRPCConnection")()


def step_functions() -> dict[str, StepFunction]:
    """Functions of the steps, in order."""
    from . import check_device, check_kernels, check_server

    return {
        "address": check_server.address,
        "connect": check_server.connect,
        "tracker": check_server.tracker,
        "key": check_server.key,
        "server": check_server.server,
        "runtime": check_device.runtime_there,
        "device": check_device.device,
        "memory": check_device.memory,
        "textures": check_device.textures,
        "half": check_kernels.half,
        "kernel": check_kernels.kernel,
        "texture_kernel": check_kernels.texture_kernel,
        "bandwidth": check_kernels.bandwidth,
        "connection": check_kernels.connection,
    }


def run_step(name: str, function: StepFunction, walk: Walk) -> tuple[dict[str, Any], bool]:
    """Run one step: its report, and whether the session broke."""
    from ..probing.device import ConnectionLost

    start = time.monotonic()
    lost = False
    try:
        finding = function(walk)
        status, found, remedy = finding.status, finding.found, finding.remedy
    except Fault as fault:
        status, found, remedy = FAILED, fault.found, fault.remedy
    except ConnectionLost as error:
        status, found, lost = FAILED, str(error), True
        remedy = (
            "The server or its driver crashed, or was stopped: look at what the server printed, "
            "start it again, and repeat the check."
        )
    except SmartMemError as error:
        status, found = FAILED, str(error)
        remedy = "Look for a newer driver; `smartmem devices` there lists what it has."
    step = {
        "name": name,
        "status": status,
        "found": found,
        "remedy": remedy,
        "seconds": round(time.monotonic() - start, 3),
    }
    return step, lost
