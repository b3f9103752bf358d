"""The steps of a check up to the tracker, each with its own fault: address, connection, key."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

from tvm.rpc import base

from ..errors import SmartMemError
from .check_steps import Fault
from .session import parse_address

_POLL = 0.2
_START_TRACKER = "Start one with `python -m tvm.exec.rpc_tracker --host HOST --port PORT`"
_NOT_A_TRACKER = f"--rpc takes the tracker's address, not a server's. {_START_TRACKER}."
_MOST_NAMED = 8


class TrackerConnection:
    """A connection to an RPC tracker that waits for no answer longer than it was told.

    Parameters
    ----------
    tracker : str
        As the user gave it, for messages.
    timeout : float
        Seconds for each answer.
    """

    def __init__(self, tracker: str, timeout: float) -> None:
        self.tracker = tracker
        self._timeout = timeout
        self._address: tuple[str, int] = ("", 0)
        self._socket: socket.socket | None = None

    def resolve(self) -> str:
        """Read the address and look its host up; says what was found."""
        try:
            self._address = parse_address(self.tracker)
        except SmartMemError as error:
            raise Fault(str(error), "Correct --rpc.") from error
        host, port = self._address
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Fault(
                f"the host '{host}' has no address: {error}",
                "Correct the name in --rpc, or give the IP address of the tracker's machine.",
            ) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        return f"{host} is {', '.join(addresses[:_MOST_NAMED])}, port {port}"

    def connect(self) -> str:
        """Open the TCP connection."""
        try:
            self._socket = socket.create_connection(self._address, timeout=self._timeout)
        except ConnectionRefusedError as error:
            raise Fault(
                f"nothing listens at {self.tracker}: connection refused",
                f"{_START_TRACKER}, or correct the port in --rpc.",
            ) from error
        except TimeoutError as error:
            raise Fault(
                f"{self.tracker} does not answer within {self._timeout:g} s",
                "See that the machine is up and that no firewall drops what goes to the port.",
            ) from error
        except OSError as error:
            raise Fault(
                f"{self.tracker} cannot be reached: {error.strerror or error}",
                "See that both machines are on networks that know each other.",
            ) from error
        return f"connected to {self.tracker}"

    def greet(self) -> str:
        """Tell the tracker who calls; says which keys it has."""
        try:
            self._open.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            magic = struct.unpack("<i", self._bytes(4))[0]
        except OSError as error:
            raise Fault(
                f"{self.tracker} does not answer as an RPC tracker: {self._reason(error)}",
                _NOT_A_TRACKER,
            ) from error
        if magic != base.RPC_TRACKER_MAGIC:
            raise Fault(
                f"{self.tracker} answers, but not as an RPC tracker (0x{magic & 0xFFFFFFFF:08x})",
                _NOT_A_TRACKER,
            )
        summary = self.summary()
        servers = _by_key(summary)
        keys = []
        for key, addresses in sorted(servers.items()):
            free, _ = _queue(summary, key)
            keys.append(f"'{key}': {len(addresses)} server(s), {free} free")
        return "an RPC tracker; keys: " + ("; ".join(keys) if keys else "none")

    def find(self, key: str, deadline: float) -> str:
        """Wait until a server of the key is free."""
        waited = time.monotonic()
        while True:
            summary = self.summary()
            servers = _by_key(summary)
            free, pending = _queue(summary, key)
            if free > 0:
                addresses = ", ".join(servers.get(key, [])[:_MOST_NAMED])
                return f"{free} free of {len(servers.get(key, []))} server(s): {addresses}"
            if key not in servers:
                known = ", ".join(f"'{name}'" for name in sorted(servers)) or "none"
                raise Fault(
                    f"the tracker has no server with key '{key}'; keys it has: {known}",
                    f"Correct --key, or start a server there: `python -m smartmem_tvm.rpc.server "
                    f"--tracker {self.tracker} --key {key}`.",
                )
            if time.monotonic() > deadline:
                busy = ", ".join(servers[key][:_MOST_NAMED])
                raise Fault(
                    f"every server with key '{key}' was busy for "
                    f"{time.monotonic() - waited:.3g} s: {busy}; {pending} client(s) wait",
                    "Wait for the other clients to end, raise --rpc-timeout, start another "
                    "server, or restart one whose client is gone.",
                )
            time.sleep(_POLL)

    def request(self, key: str) -> tuple[str, int, str]:
        """Ask for a server: its host, its port and the one-time key to greet it with."""
        try:
            url, port, match_key = self._call([base.TrackerCode.REQUEST, key, "", 1])
        except Fault as fault:
            if not isinstance(fault.__cause__, TimeoutError):
                raise
            raise Fault(
                f"another client took the free server with key '{key}' first",
                "Repeat the check, or start another server.",
            ) from fault
        return str(url), int(port), str(match_key)

    def summary(self) -> dict[str, Any]:
        """The tracker's servers and queues."""
        answer = self._call([base.TrackerCode.SUMMARY])
        if not isinstance(answer, dict) or not {"server_info", "queue_info"} <= answer.keys():
            raise Fault(
                f"the tracker's list of servers has another form than TVM {_version()} expects",
                "Run tracker, server and client with the same version of apache-tvm.",
            )
        return answer

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()

    @property
    def _open(self) -> socket.socket:
        if self._socket is None:
            raise Fault("there is no connection to the tracker", "Connect first.")
        return self._socket

    def _bytes(self, count: int) -> bytes:
        data: bytes = base.recvall(self._open, count)
        return data

    def _call(self, request: list[Any]) -> Any:
        try:
            base.sendjson(self._open, request)
            code, *answer = base.recvjson(self._open)
        except (OSError, json.JSONDecodeError, UnicodeDecodeError, struct.error) as error:
            raise Fault(
                f"{self.tracker} greets as an RPC tracker, but gives no answer that can be read: "
                f"{self._reason(error)}",
                "Run tracker, server and client with the same version of apache-tvm.",
            ) from error
        except (TypeError, ValueError) as error:
            raise Fault(
                f"{self.tracker} answers with something that is no reply of an RPC tracker",
                _NOT_A_TRACKER,
            ) from error
        if code != base.TrackerCode.SUCCESS or not answer:
            raise Fault(
                f"the tracker refused request {request[0]} with code {code}",
                "Run tracker, server and client with the same version of apache-tvm.",
            )
        return answer[0]

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout:g} s"
        return str(error)


def _by_key(summary: dict[str, Any]) -> dict[str, list[str]]:
    """Addresses of the servers of each key."""
    servers: dict[str, list[str]] = {}
    for info in summary["server_info"]:
        host, port = (*info.get("addr", ()), None, None)[:2]
        servers.setdefault(str(info["key"]).removeprefix("server:"), []).append(f"{host}:{port}")
    return servers


def _queue(summary: dict[str, Any], key: str) -> tuple[int, int]:
    queue = summary["queue_info"].get(key, {})
    return int(queue.get("free", 0)), int(queue.get("pending", 0))


def _version() -> str:
    import tvm

    return str(tvm.__version__)
