"""Walks from an RPC tracker to the kernels of a device behind it, and says where the way ends.

Each step is answered with what was found and, where it failed, what to do. The steps run in a
process of their own (:mod:`smartmem_tvm.probing.process`): whatever a tracker, a server or a
driver does, each ends in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..probing.process import ProbeFailure, ProbeProcess
from .session import DEFAULT_TIMEOUT

OK, FAILED, SKIPPED, WARNING = "ok", "failed", "skipped", "warning"
# Each step, with what it is about for people.
STEPS: Mapping[str, str] = {
    "address": "address of the tracker",
    "connect": "connection to the tracker",
    "tracker": "RPC tracker",
    "key": "key and a free server",
    "server": "server and its handshake",
    "runtime": "OpenCL runtime there",
    "device": "OpenCL device",
    "memory": "buffers and images",
    "textures": "extents of textures",
    "half": "float16",
    "kernel": "kernel built here",
    "texture_kernel": "kernel with textures built here",
    "bandwidth": "bandwidth of the device",
    "connection": "speed of the connection",
}
STEP_LIMIT = 60.0
_ENTRY = "smartmem_tvm.rpc.check_steps:serve"
_START_S = 60.0
_SLACK_S = 10.0


@dataclass(frozen=True)
class Step:
    """One step of the way.

    Attributes
    ----------
    status : str
        ``ok``, ``failed``, ``skipped`` (an earlier step was needed) or ``warning``.
    found : str
        What was found.
    remedy : str
        What to do; empty where there is nothing.
    seconds : float
        How long it took.
    """

    name: str
    status: str
    found: str
    remedy: str
    seconds: float


@dataclass(frozen=True)
class CheckReport:
    """All steps, in order."""

    steps: tuple[Step, ...]

    @property
    def ok(self) -> bool:
        """Whether no step failed and none had to be left out."""
        return all(step.status in (OK, WARNING) for step in self.steps)

    def step(self, name: str) -> Step:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)


def check(
    tracker: str,
    key: str,
    *,
    device: int = 0,
    timeout: float = DEFAULT_TIMEOUT,
    step_limit: float = STEP_LIMIT,
    host: str | None = None,
    linker: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> CheckReport:
    """Walk all steps with one server.

    Parameters
    ----------
    tracker : str
        ``HOST:PORT`` of the tracker; a text that is none is a failed step.
    key : str
        The key that the server was started with.
    device : int
        Index of the OpenCL device on the server.
    timeout : float
        Seconds to wait for the tracker, for a free server and for its handshake.
    step_limit : float
        Seconds that a step with the server may take.
    host : str, optional
        LLVM triple of the server's machine; what the server says, or that of this machine.
    linker : str, optional
        C++ compiler that links for it.
    progress : Callable[[str], None], optional
        Called with the name of each step that begins.

    Returns
    -------
    CheckReport
        Whatever happens, with every step.
    """
    request = {
        "tracker": tracker,
        "key": key,
        "device": device,
        "timeout": timeout,
        "step_limit": step_limit,
        "host": host,
        "linker": linker,
    }
    return complete(_walked(request, timeout + _SLACK_S, step_limit, progress))


def complete(walked: Iterable[Step]) -> CheckReport:
    """Report of the steps that were walked; those after them were left out."""
    done = {step.name: step for step in walked}
    failed = next((name for name, step in done.items() if step.status == FAILED), "")
    reason = f"not asked, because '{failed}' failed"
    return CheckReport(
        tuple(done.get(name, Step(name, SKIPPED, reason, "", 0.0)) for name in STEPS)
    )


def _walked(
    request: Mapping[str, Any],
    connect_limit: float,
    step_limit: float,
    progress: Callable[[str], None] | None,
) -> Iterator[Step]:
    """Steps as the process reports them; one in which it ends or hangs is a failed one."""
    name, about = "address", ""
    limit, start = _START_S, time.monotonic()
    with ProbeProcess(_ENTRY, request) as process:
        while True:
            try:
                answer = process.receive(limit)
            except ProbeFailure as failure:
                where = f" ({about})" if about else ""
                seconds = round(time.monotonic() - start, 3)
                yield Step(name, FAILED, f"{failure}{where}", _remedy(name), seconds)
                return
            if answer is None:
                return
            if "error" in answer:
                yield Step(name, FAILED, answer["error"], _remedy(name), 0.0)
                return
            if "start" in answer:
                name, about, start = answer["start"], "", time.monotonic()
                limit = connect_limit if name in _CONNECTING else step_limit
                if progress is not None:
                    progress(name)
            if "about" in answer:
                about = answer["about"]
            if "step" in answer:
                yield Step(**answer["step"])
                # Until the next one begins.
                limit = _SLACK_S


_CONNECTING = ("address", "connect", "tracker", "key", "server")


def _remedy(name: str) -> str:
    """What to do where a step gave no answer at all."""
    if name in ("address", "connect", "tracker", "key"):
        return "See that the tracker's machine is up and reachable, or raise --rpc-timeout."
    if name == "server":
        return (
            "A firewall may drop what goes to the server, or its address is one that only its own "
            "network knows: give the server a --custom-addr that this machine can reach, or "
            "forward the port (adb forward tcp:PORT tcp:PORT)."
        )
    return (
        "The server, its driver or the network hangs or was ended: look at what the server "
        "printed, and start it again."
    )
