from __future__ import annotations

import os
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tvm
from rpc_cluster import listener
from small_models import mlp, mlp_input

from smartmem_tvm import runtime
from smartmem_tvm.artifact import Artifact
from smartmem_tvm.checking import check
from smartmem_tvm.cli.main import main
from smartmem_tvm.compiler import compile as compile_model
from smartmem_tvm.errors import DeviceError, SmartMemError
from smartmem_tvm.execution import remote_errors
from smartmem_tvm.rpc.session import connect, parse_address

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def stored(opencl_device, tmp_path_factory):
    return compile_model(mlp("n")).export(tmp_path_factory.mktemp("rpc") / "mlp")


def test_the_same_artefact_here_and_there(cluster, server, stored):
    local = Artifact.load(stored)
    with connect(cluster.address, "local") as remote:
        there = Artifact.load(stored, rpc=remote)
        for batch in (1, 4, 2):
            inputs = mlp_input(batch, seed=batch)
            expected, outputs = local.run(inputs), there.run(inputs)
            assert outputs.keys() == expected.keys()
            for name, value in expected.items():
                np.testing.assert_array_equal(outputs[name], value)
        rows = there.profile(inputs)
        assert [(row.name, row.launches) for row in rows] == [
            (row.name, row.launches) for row in local.profile(inputs)
        ]
        latency = there.benchmark(inputs, repeats=3)
        assert latency.n == 3
        assert latency.min > 0
        # A second artefact in the same session, straight from the compiler.
        again = compile_model(mlp(), rpc=remote)
        inputs = mlp_input()
        np.testing.assert_array_equal(again.run(inputs)["y"], local.run(inputs)["y"])


def test_weights_are_uploaded_to_images_there(cluster, server, tmp_path):
    inputs = mlp_input()
    with connect(cluster.address, "local") as remote:
        there = compile_model(mlp(), "adreno-740", rpc=remote)
        assert there.manifest.parameter_scopes
        loaded = Artifact.load(there.export(tmp_path / "mlp"), rpc=remote)
        here = Artifact.load(tmp_path / "mlp").run(inputs)
        for model in (there, loaded):
            for name, value in model.run(inputs).items():
                np.testing.assert_array_equal(value, here[name])


def test_check_and_devices_behind_rpc(cluster, server, capsys, tmp_path):
    with connect(cluster.address, "local") as remote:
        assert check(mlp(), rpc=remote, repeats=1).passed
        names = [info.name for info in remote.devices()]
    assert names == [info.name for info in runtime.list_devices()]
    assert main(["devices", "--rpc", cluster.address, "--key", "local", "--json"]) == 0
    assert names[0] in capsys.readouterr().out


def test_threads_share_a_session(cluster, server, stored):
    with connect(cluster.address, "local") as remote:
        models = [Artifact.load(stored, rpc=remote) for _ in range(2)]
        local = Artifact.load(stored)
        failures = []

        def work(model, seed):
            try:
                for _ in range(3):
                    inputs = mlp_input(3, seed)
                    np.testing.assert_array_equal(model.run(inputs)["y"], local.run(inputs)["y"])
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(m, i)) for i, m in enumerate(models * 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []


def test_errors_of_the_server_arrive(cluster, server, stored):
    with connect(cluster.address, "local") as remote:
        model = Artifact.load(stored, rpc=remote)
        with pytest.raises(SmartMemError, match="input 'x' has dtype float64"):
            model.run({"x": np.zeros((1, 16))})
        with (
            pytest.raises(DeviceError, match=r"^RPC server .*key 'local': out of device memory"),
            remote_errors(remote.address),
        ):
            tvm.runtime.empty((1 << 40,), "float32", remote.device)
        assert model.run(mlp_input(2))["y"].shape == (2, 8)


def test_a_device_that_the_server_lacks(cluster, server):
    with pytest.raises(DeviceError, match=r"key 'local' has no OpenCL device 42"):
        connect(cluster.address, "local", device=42)
    connect(cluster.address, "local").close()


def test_no_such_key(cluster, server):
    with pytest.raises(DeviceError, match=r"no server with key 'phone'; keys it has: 'local'"):
        connect(cluster.address, "phone", timeout=5)


def test_a_busy_server(cluster, server):
    with connect(cluster.address, "local"):
        start = time.monotonic()
        with pytest.raises(DeviceError, match=r"every server with key 'local' was busy for 1 s"):
            connect(cluster.address, "local", timeout=1)
        assert time.monotonic() - start < 10
    connect(cluster.address, "local").close()


def test_a_server_that_dies(cluster, stored, opencl_device):
    server = cluster.start("mortal")
    with connect(cluster.address, "mortal") as remote:
        model = Artifact.load(stored, rpc=remote)
        model.run(mlp_input(2))
        server.terminate()
        server.wait(60)
        with pytest.raises(DeviceError, match=r"connection to RPC server .*key 'mortal' broke"):
            model.run(mlp_input(2))


def test_a_session_that_crashes_does_not_end_the_server(cluster, opencl_device):
    import psutil

    server = cluster.start("tough")
    remote = connect(cluster.address, "tough")
    (session,) = psutil.Process(server.pid).children()
    session.kill()
    deadline = time.monotonic() + 60
    while True:
        try:
            with connect(cluster.address, "tough", timeout=5) as again:
                assert again.device.exist
            break
        except DeviceError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert server.poll() is None
    del remote


@pytest.mark.slow
def test_spawned_sessions(cluster, stored, opencl_device):
    cluster.start("spawned", "--no-fork")
    with connect(cluster.address, "spawned") as remote:
        outputs = Artifact.load(stored, rpc=remote).run(mlp_input(2))
        np.testing.assert_array_equal(outputs["y"], Artifact.load(stored).run(mlp_input(2))["y"])


def test_a_server_without_any_device(cluster, tmp_path):
    environment = {**os.environ, "SMARTMEM_OPENCL_LIBRARY": str(tmp_path / "nothing.so")}
    cluster.start("bare", environment=environment)
    with pytest.raises(DeviceError, match=r"key 'bare' has no OpenCL device 0"):
        connect(cluster.address, "bare")


def test_a_stopped_server_leaves_no_folder(cluster, stored, opencl_device, tmp_path):
    server = cluster.start("tidy", environment={**os.environ, "TMPDIR": str(tmp_path)})
    with connect(cluster.address, "tidy") as remote:
        Artifact.load(stored, rpc=remote).run(mlp_input(1))
        assert any(path.name == "0-model.so" for path in Path(tmp_path).rglob("*"))
        server.terminate()
        assert server.wait(60) == 0
    assert list(tmp_path.iterdir()) == []


def test_no_tracker_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DeviceError, match=f"RPC tracker {address} cannot be reached"):
            connect(address, "local", timeout=2)


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (b"", r"cannot be reached \(no answer within 1 s\)"),
        (b"HTTP/1.1 400 Bad Request\r\n", "answers, but not as an RPC tracker"),
        (struct.pack("<ii", 0x2F271, 4) + b"nope", "its answer is no JSON"),
    ],
)
def test_something_else_listens_there(answer, match):
    with listener(answer) as address:
        start = time.monotonic()
        with pytest.raises(DeviceError, match=match):
            connect(address, "local", timeout=1)
        assert time.monotonic() - start < 10


@pytest.mark.parametrize("text", ["", "host", ":9190", "host:", "host:x", "host:0", "host:99999"])
def test_what_is_no_address(text):
    with pytest.raises(SmartMemError, match="is not the address of an RPC tracker"):
        parse_address(text)


def test_addresses():
    assert parse_address("127.0.0.1:9190") == ("127.0.0.1", 9190)
    assert parse_address("[::1]:9190") == ("::1", 9190)
