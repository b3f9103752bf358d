"""Devices behind an RPC tracker, as the harness sees them."""

from __future__ import annotations

from .runners.base import RpcAddress


def count_servers(address: RpcAddress) -> int:
    """How many sessions the tracker's servers hold at a time: one each.

    Raises
    ------
    SmartMemError
        If the tracker cannot be reached or has no server of that key.
    """
    from tvm import rpc

    from ..rpc.session import connect, parse_address

    # TVM's client retries for a minute and does not say what it waits for: ours asks first.
    with connect(address.tracker, address.key, timeout=address.timeout):
        pass
    tracker = rpc.connect_tracker(*parse_address(address.tracker))
    try:
        servers = tracker.summary()["server_info"]
    finally:
        tracker.close()
    return max(1, sum(info["key"] == f"server:{address.key}" for info in servers))
