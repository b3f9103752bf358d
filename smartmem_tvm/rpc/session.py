"""A session with an OpenCL device behind an RPC tracker.

TVM's own client waits without limit for a key that no server has and retries an unreachable
tracker for a minute; here every wait is bounded and says what it waited for.
"""

from __future__ import annotations

import itertools
import json
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import tvm
from tvm import rpc
from tvm.rpc import base

from ..errors import DeviceError, SmartMemError
from ..runtime import DeviceInfo

DEFAULT_TIMEOUT = 30.0
_POLL = 0.2


class Remote:
    """An open session and the OpenCL device behind it; a context manager that closes it.

    Attributes
    ----------
    address : str
        ``HOST:PORT`` of the tracker and the key, for messages.
    session : tvm.rpc.RPCSession
        TVM's session.
    device : tvm.runtime.Device
        The OpenCL device on the server.
    lock : threading.RLock
        Held by whoever uses the session: a session carries one call at a time.
    """

    def __init__(self, address: str, session: rpc.RPCSession, index: int) -> None:
        self.address = address
        self.session = session
        self.device = session.cl(index)
        self.lock = threading.RLock()
        self._names = itertools.count()
        if not self.device.exist:
            self.close()
            raise DeviceError(
                f"RPC server {address} has no OpenCL device {index}. Start it with `python -m "
                "smartmem_tvm.rpc.server` on a machine where `smartmem devices` lists one."
            )

    def devices(self) -> list[DeviceInfo]:
        """List the OpenCL devices of the server."""
        try:
            listing = self.session.get_function("smartmem.opencl.devices")
        except AttributeError as error:
            raise DeviceError(
                f"RPC server {self.address} does not list its devices: it is not this package's. "
                "Start it with `python -m smartmem_tvm.rpc.server`."
            ) from error
        return [DeviceInfo.from_entry(entry) for entry in json.loads(listing())["devices"]]

    def device_info(self) -> DeviceInfo:
        """What the session's own device says of itself."""
        return self.devices()[self.device.index]

    def upload(self, path: Path) -> str:
        """Upload a file to the server's working folder under a name of its own; return it."""
        name = f"{next(self._names)}-{path.name}"
        self.session.upload(bytearray(path.read_bytes()), name)
        return name

    def close(self) -> None:
        """End the session; the server is free for the next client."""
        self.session.get_function("CloseRPCConnection")()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def connect(
    tracker: str,
    key: str,
    *,
    device: int = 0,
    timeout: float = DEFAULT_TIMEOUT,
    session_limit: float | None = None,
) -> Remote:
    """Open a session with a server that is registered under ``key``.

    Parameters
    ----------
    tracker : str
        ``HOST:PORT`` of the tracker (``python -m tvm.exec.rpc_tracker``).
    key : str
        The key that the servers were started with.
    device : int
        Index of the OpenCL device on the server.
    timeout : float
        Seconds to wait for the tracker to answer and for a server to become free.
    session_limit : float, optional
        Seconds after which the server ends the session, whatever it does then; never when None.

    Raises
    ------
    SmartMemError
        For an address that is none.
    DeviceError
        If the tracker cannot be reached, has no such key, or has no free server in time.
    """
    address = parse_address(tracker)
    where = f"{tracker} key '{key}'"
    deadline = time.monotonic() + timeout
    url, port, match_key = _request(address, tracker, key, deadline, timeout)
    try:
        session = rpc.connect(url, port, match_key, session_timeout=session_limit or 0)
    except (tvm.error.RPCError, tvm.error.InternalError, RuntimeError, OSError) as error:
        raise DeviceError(
            f"RPC tracker {tracker} names the server {url}:{port} for key '{key}', which cannot "
            f"be reached from here ({_first_line(error)}). Give the server a --custom-addr that "
            "this machine can reach."
        ) from error
    return Remote(where, session, device)


def parse_address(text: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; raises SmartMemError where it is none."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SmartMemError(
            f"'{text}' is not the address of an RPC tracker: HOST:PORT is expected, such as "
            "127.0.0.1:9190."
        )
    return host.strip("[]"), int(port)


def _request(
    address: tuple[str, int], tracker: str, key: str, deadline: float, timeout: float
) -> tuple[str, int, str]:
    """Ask the tracker for a server: its address and the one-time key to greet it with."""
    try:
        with socket.create_connection(address, timeout=timeout) as connection:
            connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            if struct.unpack("<i", base.recvall(connection, 4))[0] != base.RPC_TRACKER_MAGIC:
                raise DeviceError(
                    f"{tracker} answers, but not as an RPC tracker. Start one with "
                    "`python -m tvm.exec.rpc_tracker`."
                )
            _wait_until_free(connection, tracker, key, deadline, timeout)
            connection.settimeout(max(deadline - time.monotonic(), _POLL))
            url, port, match_key = _call(connection, [base.TrackerCode.REQUEST, key, "", 1])
            return str(url), int(port), str(match_key)
    except (OSError, ValueError) as error:
        if isinstance(error, TimeoutError):
            reason = f"no answer within {timeout:g} s"
        else:
            reason = str(error)
        raise DeviceError(
            f"RPC tracker {tracker} cannot be reached ({reason}). Start one with `python -m "
            "tvm.exec.rpc_tracker --host HOST --port PORT`, or correct --rpc."
        ) from error


def _wait_until_free(
    connection: socket.socket, tracker: str, key: str, deadline: float, timeout: float
) -> None:
    while True:
        summary = _call(connection, [base.TrackerCode.SUMMARY])
        if summary["queue_info"].get(key, {}).get("free", 0) > 0:
            return
        keys = sorted({info["key"].removeprefix("server:") for info in summary["server_info"]})
        if key not in keys:
            known = ", ".join(f"'{name}'" for name in keys) or "none"
            raise DeviceError(
                f"RPC tracker {tracker} has no server with key '{key}'; keys it has: {known}. "
                f"Start one with `python -m smartmem_tvm.rpc.server --tracker {tracker} "
                f"--key {key}`."
            )
        if time.monotonic() > deadline:
            raise DeviceError(
                f"RPC tracker {tracker}: every server with key '{key}' was busy for {timeout:g} s. "
                "Wait for the other client to end, or start another server."
            )
        time.sleep(_POLL)


def _call(connection: socket.socket, request: list[Any]) -> Any:
    base.sendjson(connection, request)
    try:
        code, *answer = base.recvjson(connection)
    except json.JSONDecodeError as error:
        raise OSError(f"its answer is no JSON: {error}") from error
    if code != base.TrackerCode.SUCCESS:
        raise OSError(f"it refused the request with code {code}")
    return answer[0]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
