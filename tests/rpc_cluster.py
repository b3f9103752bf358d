"""A tracker and servers on the loopback interface, and what only answers like one."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import psutil
from tvm.rpc.tracker import Tracker

PATIENCE = 60


def free_server(tracker_port, key):
    """Whether the tracker has a free server under a key."""
    from tvm import rpc

    session = rpc.connect_tracker("127.0.0.1", tracker_port)
    try:
        return session.summary()["queue_info"].get(key, {}).get("free", 0) > 0
    finally:
        session.close()


def wait_until_free(tracker_port, key, server):
    """Wait until a server, the process `server`, has told the tracker that it is free."""
    deadline = time.monotonic() + PATIENCE
    while not free_server(tracker_port, key):
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not register"
        time.sleep(0.1)


@contextmanager
def listener(answer, *, closes=False):
    """The address of something that takes a connection and sends `answer`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        done = threading.Event()

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.sendall(answer)
                if not closes:
                    done.wait(PATIENCE)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            done.set()
            thread.join(PATIENCE)


def children():
    """Processes that this one started."""
    return set(psutil.Process().children(recursive=True))


class Cluster:
    """A tracker and servers on the loopback interface, all gone at the end."""

    def __init__(self):
        before = children()
        self.tracker = Tracker("127.0.0.1", port=19190, port_end=19390, silent=True)
        self._started = children() - before
        self.address = f"127.0.0.1:{self.tracker.port}"
        self._servers = []

    def start_tracker_again(self):
        """Start a tracker where the one was that has been terminated."""
        before, port = children(), self.tracker.port
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.tracker = Tracker("127.0.0.1", port=port, port_end=port + 1, silent=True)
                break
            except (OSError, ValueError):
                assert time.monotonic() < deadline, "the tracker's port is not free"
                time.sleep(0.2)
        self._started |= children() - before

    def start(self, key, *options, environment=None):
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "smartmem_tvm.rpc.server", "--host", "127.0.0.1"),
                *("--port", "19490", "--port-end", "19690", "--tracker", self.address),
                *("--key", key, "--silent", *options),
            ],
            env=environment,
        )
        self._servers.append(server)
        wait_until_free(self.tracker.port, key, server)
        return server

    def stop(self):
        """End everything; exit codes of the servers and what is still alive."""
        for server in self._servers:
            if server.poll() is None:
                process = psutil.Process(server.pid)
                self._started |= {process, *process.children(recursive=True)}
            server.terminate()
        codes = [server.wait(PATIENCE) for server in self._servers]
        self.tracker.terminate()
        # A helper process of Python's multiprocessing ends just after the server that it served.
        _, alive = psutil.wait_procs(self._started, timeout=10)
        return codes, alive
