from __future__ import annotations

import json

import pytest
from rpc_cluster import Cluster

from smartmem_tvm import runtime
from smartmem_tvm.devices import profile_from_device, read_profile
from smartmem_tvm.probing.files import name_of_device
from smartmem_tvm.rpc.session import connect

pytestmark = pytest.mark.device


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_profile(profile, info):
    """Within what the device reports, and made of what was measured."""
    lent = profile_from_device(info)
    assert profile.match == lent.match
    assert profile.buffer == lent.buffer
    assert profile.work_group == lent.work_group
    assert profile.local_memory == lent.local_memory
    assert profile.bandwidth.global_gbps >= 1
    assert profile.peak.float32_gflops >= 1
    assert profile.compute.fp16 == info.fp16
    assert (profile.peak.float16_gflops is not None) == info.fp16
    assert (profile.texture is not None) == info.images
    if profile.texture is not None:
        assert profile.texture.max_width == info.image2d_max_width
        assert profile.bandwidth.texture_gbps >= 1
    assert 0 <= profile.cache.buffer_l1_bytes <= profile.cache.l2_bytes <= 16 << 20
    for table in ("bandwidth", "peak"):
        assert profile.sources[table].startswith("measured on ")
        assert info.driver_version in profile.sources[table]
    target = profile.target()
    assert target.kind.name == "opencl"
    assert int(target.attrs["max_num_threads"]) <= info.max_work_group_size


@pytest.mark.slow
def test_a_local_profile(folder, smartmem_json, smartmem, opencl_info):
    selector = ("--opencl-device", opencl_info.index)
    document = smartmem_json("profile-device", "-o", "mine.toml", *selector)
    profile = read_profile(folder / "mine.toml")
    assert profile.name == "mine"
    assert document["file"] == "mine.toml"
    assert document["profile"] == profile.to_dict()
    check_profile(profile, opencl_info)
    names = [one["name"] for one in document["figures"]]
    assert names[0] == "global_gbps"
    assert "float32_gflops" in names
    assert all(one["value"] > 0 and one["spread"] >= 0 for one in document["figures"])
    assert len(document["latencies"]) > 3
    # It serves as any other profile.
    code, out, err = smartmem("devices", "--device", "mine.toml")
    assert code == 0, err
    assert "mine" in out


@pytest.mark.slow
def test_a_remote_profile_is_of_the_same_kind(folder, smartmem, opencl_info):
    cluster = Cluster()
    try:
        cluster.start("k")
        # The tests' device may be another than the server's first.
        index = str(opencl_info.index)
        code, out, err = smartmem(
            *("profile-device", "--rpc", cluster.address, "--key", "k"),
            *("--opencl-device", index, "--name", "far"),
        )
        assert code == 0, err
        assert "wrote far.toml" in out
        profile = read_profile(folder / "far.toml")
        assert profile.name == "far"
        check_profile(profile, opencl_info)
        # The session has ended: the server is free.
        connect(cluster.address, "k", timeout=20).close()
    finally:
        ended = cluster.stop()
    assert ended == ([0], [])


def test_an_existing_file_is_kept(folder, smartmem, opencl_info):
    (folder / "mine.toml").write_text("mine")
    code, _, err = smartmem("profile-device", "-o", "mine.toml")
    assert code == 2
    assert "'mine.toml' exists: give --force" in err
    # Without -o the name is that of the device, which is known only once it was asked.
    path = folder / f"{name_of_device(opencl_info.name)}.toml"
    path.write_text("mine")
    code, _, err = smartmem("profile-device", "--opencl-device", opencl_info.index)
    assert code == 2
    assert f"'{path.name}' exists: give --force" in err
    assert path.read_text() == "mine"
    assert sorted(one.name for one in folder.iterdir()) == sorted(("mine.toml", path.name))


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["-o", "mine.txt"], "ends in .toml"),
        (["-o", "nowhere/mine.toml"], "there is no folder 'nowhere'"),
        (["-o", "cpu.toml"], "'cpu' is the name of a built-in profile"),
        (["--name", "two words"], "is no name for a profile"),
        (["--rpc", "127.0.0.1:1"], "--key KEY is missing"),
        (["--key", "k"], "--rpc HOST:PORT is missing"),
        (["--rpc", "h:1", "--key", "k", "--opencl-device", "x"], "chosen by its index"),
        (["--rpc", "h:1", "--key", "k", "--rpc-timeout", "nan"], "--rpc-timeout nan"),
    ],
)
def test_bad_usage(folder, smartmem, argv, match):
    code, _, err = smartmem("profile-device", *argv)
    assert code == 2
    assert match in err
    assert list(folder.iterdir()) == []


def test_a_device_that_is_not_there(folder, smartmem):
    code, _, err = smartmem("profile-device", "-o", "x.toml", "--opencl-device", "no such device")
    assert code == 2
    assert "no OpenCL device matches 'no such device'" in err
    assert list(folder.iterdir()) == []


def test_a_tracker_that_is_not_there(folder, smartmem):
    code, _, err = smartmem(
        *("profile-device", "-o", "x.toml", "--rpc", "127.0.0.1:1", "--key", "k"),
        *("--rpc-timeout", "2"),
    )
    assert code == 2
    assert "RPC tracker 127.0.0.1:1 cannot be reached" in err


def test_a_driver_that_crashes(folder, smartmem, monkeypatch):
    """The process that measures ends in the middle: an error, no traceback and no file."""
    from smartmem_tvm.probing import process

    start = process.ProbeProcess.__init__

    def crashing(self, entry, request):
        start(self, entry, request)
        self._child.send_signal(9)

    monkeypatch.setattr(process.ProbeProcess, "__init__", crashing)
    code, _, err = smartmem("profile-device", "-o", "x.toml")
    assert code == 2
    assert "failed at 'starting'" in err
    assert "SIGKILL" in err
    assert list(folder.iterdir()) == []


def test_json_holds_no_infinity(folder, smartmem, monkeypatch):
    from smartmem_tvm.cli import profile_device

    info = runtime.list_devices()[0]
    profile = profile_from_device(info)
    answers = [
        {"device": {"name": info.name}},
        {
            "tables": profile.to_dict(),
            "figures": [],
            "latencies": [{"bytes": 1, "ns": float("inf")}],
            "warnings": ["[odd] warning"],
        },
    ]
    monkeypatch.setattr(profile_device, "_answers", lambda request, limit: iter(answers))
    code, out, _ = smartmem("profile-device", "--json", "-o", "x.toml")
    assert code == 0
    assert json.loads(out)["latencies"] == [{"bytes": 1, "ns": None}]
    code, out, _ = smartmem("profile-device", "--force", "-o", "x.toml")
    assert code == 0
    assert "[odd] warning" in out
