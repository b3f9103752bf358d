"""Measuring on a device behind RPC, with as many runners at a time as there are servers."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import onnx
import pytest
from small_models import mlp
from tvm import rpc
from tvm.rpc.tracker import Tracker

from smartmem_tvm.cli.main import main

KEY = "bench"
PATIENCE = 60


@pytest.fixture
def servers(opencl_device):
    """Start that many servers: the tracker's address."""
    tracker = Tracker("127.0.0.1", port=19700, port_end=19800, silent=True)
    address = f"127.0.0.1:{tracker.port}"
    started = []

    def start(count):
        for _ in range(count):
            started.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "smartmem_tvm.rpc.server", "--host", "127.0.0.1"),
                        *("--port", "19810", "--port-end", "19890", "--tracker", address),
                        *("--key", KEY, "--silent"),
                    ]
                )
            )
        deadline = time.monotonic() + PATIENCE
        while free_servers(tracker.port) < count:
            assert time.monotonic() < deadline, "the servers did not register"
            time.sleep(0.1)
        return address

    yield start
    for server in started:
        server.terminate()
        server.wait(PATIENCE)
    tracker.terminate()


def free_servers(port):
    session = rpc.connect_tracker("127.0.0.1", port)
    try:
        return session.summary()["queue_info"].get(KEY, {}).get("free", 0)
    finally:
        session.close()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_bench_behind_rpc(servers, count, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(), "mlp.onnx")
    argv = ["bench", "--models", "mlp.onnx", "--against", "tvm,onnxruntime,tvm-adreno"]
    argv += ["--repeats", "2", "--rpc", servers(count), "--key", KEY, "--json"]
    assert main(argv) == 0
    document = json.loads(capsys.readouterr().out)
    ours, peer = document["records"]
    assert (ours["runner"], peer["runner"]) == ("smartmem", "tvm")
    for record in (ours, peer):
        assert (record["failed"], record["latency_ms"]["n"]) == (None, 2)
        assert record["max_rel_error"] < 1e-4
    # They can only take turns where each has a server.
    assert (peer["ratio"] is None) == (count == 1)
    reasons = {entry["runner"]: entry["reason"] for entry in document["skipped"]}
    assert set(reasons) == {"onnxruntime", "tvm-adreno"}
    assert "the device is behind RPC" in reasons["onnxruntime"]
    assert document["environment"]["opencl_device"]["rpc"] == KEY
    assert document["probes"] == {}
