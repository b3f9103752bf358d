from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest
from rpc_cluster import PATIENCE, listener, wait_until_free

from smartmem_tvm.cli.main import main
from smartmem_tvm.rpc.check import STEPS, Step, check, complete
from smartmem_tvm.rpc.check_steps import serve
from smartmem_tvm.rpc.session import connect

pytestmark = pytest.mark.device


@pytest.fixture
def start(cluster):
    """Start a server under a key; at the end it and its key are gone, as other files expect."""
    servers = []

    def run(key, environment=None):
        servers.append(cluster.start(key, environment=environment))
        return servers[-1]

    yield run
    for server in servers:
        server.terminate()
    for server in servers:
        assert server.wait(PATIENCE) == 0


def children():
    """Processes that run; what has ended may not have been waited for yet."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(process)
        except psutil.NoSuchProcess:
            continue
    return found


def walk(tracker, key="local", timeout=1.0):
    """Walk in this process: quicker, for what ends before a session is opened."""
    answers = []
    request = {"tracker": tracker, "key": key, "device": 0, "timeout": timeout, "step_limit": 60}
    serve({**request, "host": None, "linker": None}, answers.append)
    return complete(Step(**answer["step"]) for answer in answers if "step" in answer)


def ends_at(report, name):
    """The failed step, after which everything must be skipped."""
    assert not report.ok
    names = list(STEPS)
    index = names.index(name)
    assert [step.name for step in report.steps] == names
    assert {step.status for step in report.steps[:index]} <= {"ok", "warning"}
    assert {step.status for step in report.steps[index + 1 :]} <= {"skipped"}
    step = report.step(name)
    assert step.status == "failed"
    assert step.found
    assert step.remedy
    assert "Traceback" not in step.found
    return step


def test_every_step_passes(cluster, server, capsys):
    before = children()
    assert main(["rpc-check", "--rpc", cluster.address, "--key", "local", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert [step["name"] for step in document["steps"]] == list(STEPS)
    assert {step["status"] for step in document["steps"]} <= {"ok", "warning"}
    for step in document["steps"]:
        assert step.keys() == {"name", "status", "found", "remedy", "seconds"}
        assert (step["status"] == "warning") == bool(step["remedy"])
    found = {step["name"]: step["found"] for step in document["steps"]}
    assert "'local': 1 server(s)" in found["tracker"]
    assert "with every feature" in found["runtime"]
    assert "4096 values are right" in found["kernel"]
    assert "GB/s" in found["bandwidth"]
    assert "MB/s" in found["connection"]
    assert children() <= before
    # The session was ended, not broken: the server is free at once.
    connect(cluster.address, "local", timeout=20).close()


def test_a_table_for_people(cluster, server, capsys):
    assert main(["rpc-check", "--rpc", cluster.address, "--key", "no [such] key"]) == 1
    out = capsys.readouterr().out
    assert "What to do: Correct --key" in out
    assert "no [such] key" in out
    assert "FAILED" in out


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        ([], "--rpc HOST:PORT and --key KEY are needed"),
        (["--rpc", "127.0.0.1:1"], "--rpc HOST:PORT and --key KEY are needed"),
        (["--rpc", "h:1", "--key", "k", "--rpc-timeout", "-1"], "--rpc-timeout -1"),
        (["--rpc", "h:1", "--key", "k", "--rpc-timeout", "nan"], "--rpc-timeout nan"),
        (["--rpc", "h:1", "--key", "k", "--opencl-device", "AMD"], "chosen by its index"),
    ],
)
def test_bad_usage(argv, match, capsys):
    assert main(["rpc-check", *argv]) == 2
    assert match in capsys.readouterr().err


@pytest.mark.parametrize("address", ["nonsense", "host:0", "no-such-host.invalid:9190"])
def test_what_is_no_address(address):
    ends_at(walk(address), "address")


def test_a_wrong_port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        step = ends_at(walk(address), "connect")
    assert "connection refused" in step.found
    assert "tvm.exec.rpc_tracker" in step.remedy


@pytest.mark.parametrize(
    ("answer", "closes", "found"),
    [
        (b"", False, "no answer within 1 s"),
        (b"", True, "onnection reset"),
        (b"HTTP/1.1 400 Bad Request\r\n", False, "not as an RPC tracker"),
        (struct.pack("<ii", 0x2F271, 4) + b"nope", False, "gives no answer that can be read"),
        (struct.pack("<ii", 0x2F271, 7) + b"[0, {}]", False, "another form"),
        (struct.pack("<ii", 0x2F271, 1) + b"7", False, "no reply of an RPC tracker"),
        (struct.pack("<ii", 0x2F271, 1 << 30) + b"a", False, "no answer within 1 s"),
    ],
)
def test_what_is_no_tracker(answer, closes, found):
    with listener(answer, closes=closes) as address:
        step = ends_at(walk(address), "tracker")
    assert found in step.found


def test_an_unknown_key(cluster, server):
    step = ends_at(walk(cluster.address, "phone"), "key")
    assert "no server with key 'phone'; keys it has:" in step.found
    assert "'local'" in step.found
    assert "--key phone" in step.remedy


def test_all_servers_are_busy(cluster, server):
    with connect(cluster.address, "local"):
        step = ends_at(walk(cluster.address), "key")
    assert "every server with key 'local' was busy" in step.found
    assert "127.0.0.1:" in step.found  # which


def test_a_device_that_the_server_lacks(cluster, server):
    step = ends_at(check(cluster.address, "local", device=42), "device")
    assert "no OpenCL device 42" in step.found
    assert "--opencl-device" in step.remedy


def test_a_server_without_any_device(cluster, start, tmp_path):
    environment = {**os.environ, "SMARTMEM_OPENCL_LIBRARY": str(tmp_path / "nothing.so")}
    start("no-device", environment=environment)
    step = ends_at(check(cluster.address, "no-device"), "device")
    assert "no OpenCL device" in step.found
    assert "nothing.so" in step.found


@pytest.mark.slow
def test_a_compiler_that_is_not_there(cluster, server):
    report = check(cluster.address, "local", linker="no-such-compiler")
    assert not report.ok
    for name in ("kernel", "texture_kernel"):
        assert "no-such-compiler" in report.step(name).found
        assert "--linker" in report.step(name).remedy
    assert report.step("connection").status == "ok"  # the other steps need none


# Steps that take long enough for the server to be gone before they end.
@pytest.mark.parametrize("name", ["kernel", pytest.param("bandwidth", marks=pytest.mark.slow)])
def test_a_server_that_is_killed(cluster, start, opencl_device, name):
    key = f"killed-{name}"
    server = start(key)

    def kill(step):
        if step == name:
            for process in psutil.Process(server.pid).children(recursive=True):
                process.kill()

    before = children()
    step = ends_at(check(cluster.address, key, progress=kill), name)
    assert "broke" in step.found or "ended" in step.found
    assert "start it again" in step.remedy
    assert children() <= before


@pytest.mark.slow
def test_a_server_that_hangs(cluster, start, opencl_device):
    server = start("hanging")
    stopped = []

    def stop(step):
        if step == "kernel":
            stopped.extend(psutil.Process(server.pid).children(recursive=True))
            for process in stopped:
                process.send_signal(signal.SIGSTOP)

    try:
        report = check(cluster.address, "hanging", step_limit=15, progress=stop)
    finally:
        for process in stopped:
            process.send_signal(signal.SIGCONT)
    step = ends_at(report, "kernel")
    assert "no answer within 15 s" in step.found


@pytest.mark.slow
def test_an_address_that_takes_no_session(cluster, server):
    """The tracker's address for the server leads to something that never answers."""
    with listener(b"") as address:
        host, port = address.split(":")
        with registered(cluster, "elsewhere", host, int(port)):
            step = ends_at(check(cluster.address, "elsewhere", timeout=1), "server")
    assert address in step.found
    assert "--custom-addr" in step.remedy


@contextmanager
def registered(cluster, key, host, port):
    """Tell the tracker of a server, as a server does."""
    from tvm.rpc import base

    with socket.create_connection(("127.0.0.1", cluster.tracker.port)) as connection:
        connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        base.recvall(connection, 4)
        information = {"key": f"server:{key}", "addr": (host, port)}
        base.sendjson(connection, [base.TrackerCode.UPDATE_INFO, information])
        assert base.recvjson(connection) == base.TrackerCode.SUCCESS
        base.sendjson(connection, [base.TrackerCode.PUT, key, (port, f"{key}:0.5"), host])
        assert base.recvjson(connection) == base.TrackerCode.SUCCESS
        yield


@pytest.fixture
def upstream_server(cluster):
    """TVM's own RPC server, in a process group of its own."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1", "--silent"),
            *("--port", "19490", "--port-end", "19690", "--tracker", cluster.address),
            *("--key", "upstream"),
        ],
        start_new_session=True,
    )
    wait_until_free(cluster.tracker.port, "upstream", process)
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)


def test_a_server_of_tvm(cluster, server, upstream_server):
    step = ends_at(check(cluster.address, "upstream"), "runtime")
    assert "no OpenCL runtime" in step.found
    assert "smartmem_tvm.rpc.server" in step.remedy
    assert "--key upstream" in step.remedy
