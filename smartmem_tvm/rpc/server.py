"""The RPC server of a machine with an OpenCL device: ``python -m smartmem_tvm.rpc.server``.

Takes the options of ``python -m tvm.exec.rpc_server``. Unlike that one it serves with this
package's OpenCL runtime in place, in forked and in spawned session processes (a spawned one
imports the main module again, which is this one), survives a session that crashes, and takes its
session processes and working folders with it when it is told to stop.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from tvm.rpc.server import PopenRPCServerState
from tvm.support.utils import TempDirectory

from .. import runtime
from ..errors import SmartMemError
from .session import parse_address

logger = logging.getLogger("RPCServer")


def build_parser() -> argparse.ArgumentParser:
    """Build the command line; its options are those of ``tvm.exec.rpc_server``."""
    parser = argparse.ArgumentParser(
        prog="python -m smartmem_tvm.rpc.server",
        description="Serve this machine's OpenCL devices to RPC clients. Only for networks you "
        "trust: a client can run any code here.",
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=9090, help="first port to try (%(default)s)")
    parser.add_argument(
        "--port-end", type=int, default=9199, help="port to stop before (%(default)s)"
    )
    parser.add_argument(
        "--through-proxy", action="store_true", help="--host and --port are those of an RPC proxy"
    )
    parser.add_argument("--tracker", metavar="HOST:PORT", help="tracker to register with")
    parser.add_argument("--key", default="", help="name of this kind of device at the tracker")
    parser.add_argument("--silent", action="store_true", help="log errors only")
    parser.add_argument(
        "--load-library", metavar="FILES", help="more libraries to load, separated by colons"
    )
    parser.add_argument(
        "--no-fork",
        dest="fork",
        action="store_false",
        help="start session processes afresh instead of forking them; some drivers need it",
    )
    parser.add_argument("--custom-addr", help="address that the tracker gives to clients")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.tracker and not args.key:
        parser.error("--tracker needs --key: the name under which clients ask for this device")
    try:
        tracker = parse_address(args.tracker) if args.tracker else None
        runtime.load()
    except SmartMemError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if not args.fork:
        multiprocessing.set_start_method("spawn")
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    home = os.getcwd()
    while True:
        # TVM's loop works in a session's own folder and stays there after a crash.
        os.chdir(home)
        try:
            state = PopenRPCServerState(
                args.host,
                args.port,
                args.port_end,
                is_proxy=args.through_proxy,
                tracker_addr=tracker,
                key=args.key,
                load_library=args.load_library,
                custom_addr=args.custom_addr,
                silent=args.silent,
            )
        except (OSError, ValueError) as error:
            print(f"cannot listen on {args.host}:{args.port}: {error}", file=sys.stderr)
            return 2
        state.thread.join()
        # TVM's loop ends when a session's process does not end well: a device or a driver crashed.
        logger.error("the last session ended with a crash; serving again")
        if args.through_proxy:
            return 1
        state.sock.close()


def _stop(signum: int, frame: FrameType | None) -> None:
    # The listening thread is no daemon and waits for connections without end, so an ordinary exit
    # would wait for it. Sessions are killed because one that waits in C++ handles no signal.
    # Their end makes TVM's loop raise in its thread, which is of no interest any more.
    threading.excepthook = lambda arguments: None
    for session in multiprocessing.active_children():
        session.kill()
        session.join()
    # A copy, because that thread takes folders out of the set while it ends.
    for folder in tuple(TempDirectory.TEMPDIRS):
        shutil.rmtree(folder, ignore_errors=True)
    logging.shutdown()
    os._exit(128 + signum if signum == signal.SIGINT else 0)


if __name__ == "__main__":
    sys.exit(main())
