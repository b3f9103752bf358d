"""How many servers a tracker has."""

from __future__ import annotations

import socket
import time

from tvm import rpc

from ..errors import DeviceError
from ..rpc.session import parse_address

_WAIT_S = 1.0
_ANSWER_S = 5.0


def count_servers(tracker: str, key: str, patience_s: float) -> int:
    """Servers that a tracker has with a key, busy ones as well.

    Raises
    ------
    SmartMemError
        For an address that is none.
    DeviceError
        If there is no tracker, or no such server, for all of the patience.
    """
    address = parse_address(tracker)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            # TVM's client retries an address where nothing listens for a minute.
            socket.create_connection(address, timeout=_ANSWER_S).close()
            client = rpc.connect_tracker(*address)
            try:
                servers = client.summary()["server_info"]
            finally:
                client.close()
            count = sum(info["key"] == f"server:{key}" for info in servers)
            reason = f"it has no server with key '{key}'"
        except (OSError, RuntimeError, ValueError) as error:
            count, reason = 0, f"it cannot be reached ({error})"
        if count:
            return count
        if time.monotonic() > deadline:
            raise DeviceError(
                f"RPC tracker {tracker}: {reason}, for {patience_s:g} s. Start a server with "
                f"`python -m smartmem_tvm.rpc.server --tracker {tracker} --key {key}`."
            )
        time.sleep(_WAIT_S)
