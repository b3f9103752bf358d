"""The steps of a check from the tracker's address to the server's handshake."""

from __future__ import annotations

import tvm
from tvm import rpc

from .check_steps import Fault, Finding, Walk
from .check_tracker import TrackerConnection

_SESSION_SLACK_S = 60.0
_STEPS = 12


def address(walk: Walk) -> Finding:
    """The address is one, and its host is known."""
    walk.connection = TrackerConnection(walk.tracker, walk.timeout)
    return Finding(walk.connection.resolve())


def connect(walk: Walk) -> Finding:
    """Something listens there."""
    return Finding(_tracker(walk).connect())


def tracker(walk: Walk) -> Finding:
    """It is a tracker, with these keys."""
    return Finding(_tracker(walk).greet())


def key(walk: Walk) -> Finding:
    """A server of the key is free."""
    return Finding(_tracker(walk).find(walk.key, walk.deadline))


def server(walk: Walk) -> Finding:
    """The server can be reached from here and speaks the same protocol."""
    connection = _tracker(walk)
    url, port, match_key = connection.request(walk.key)
    connection.close()
    walk.about(f"the tracker names the server {url}:{port}")
    # A server gives itself free even where this process is killed and its machine stays up.
    limit = walk.step_limit * _STEPS + _SESSION_SLACK_S
    try:
        walk.session = rpc.connect(url, port, match_key, session_timeout=limit)
    except (tvm.error.RPCError, tvm.error.InternalError, RuntimeError, OSError) as error:
        raise _server_fault(f"{url}:{port}", str(error)) from error
    return Finding(f"server {url}:{port} answers; protocols agree")


def _server_fault(where: str, text: str) -> Fault:
    reason = " ".join(text.split())[:300]
    if "protocol version mismatch" in text:
        return Fault(
            f"server {where} speaks another version of TVM's protocol ({reason})",
            f"Install apache-tvm {tvm.__version__}, the version here, on the server's machine.",
        )
    if "cannot find server that matches key" in text:
        return Fault(
            f"server {where} does not know the key that the tracker gave for it ({reason})",
            "Repeat the check; if it stays so, another server listens at that address: restart "
            "both servers with different --port.",
        )
    if "is not TVM RPC server" in text:
        return Fault(
            f"what answers at {where} is no RPC server",
            "The tracker has an address that leads elsewhere from here: give the server a "
            "--custom-addr that this machine can reach.",
        )
    return Fault(
        f"the tracker names the server {where}, which cannot be reached from here ({reason})",
        "Give the server a --custom-addr that this machine can reach, open the port in its "
        "firewall, or forward it (adb forward tcp:PORT tcp:PORT). A server that has just ended "
        "stays with the tracker for a moment: see that it runs.",
    )


def _tracker(walk: Walk) -> TrackerConnection:
    if walk.connection is None:
        raise Fault("there is no address of a tracker", "Give one with --rpc HOST:PORT.")
    return walk.connection
