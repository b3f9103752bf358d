"""The program cache on disk: hits, misses, damage, limits, concurrent processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tvm
import tvm_ffi
from runtime_helpers import AXES, ROOT, run_python

from smartmem_tvm import runtime
from smartmem_tvm.runtime.source import serialize_module

pytestmark = pytest.mark.device

RUN = """
from test_runtime_cache import launch
launch({device}, {kernels})
"""


def launch(index: int, kernels: int = 1) -> None:
    """Build *kernels* different kernels, from source or from the cache, and check each."""
    device = tvm.runtime.device("opencl", index)
    tensor = tvm.runtime.empty((1,), "int32", device)
    for value in range(kernels):
        code = f"__kernel void set(__global int* a) {{ a[0] = {value}; }}"
        runtime.source_module(code, {"set": (("handle",), AXES)})["set"](tensor, 1, 1)
        assert tensor.numpy()[0] == value


@pytest.fixture
def run(tmp_path, opencl_device, monkeypatch):
    """Run a kernel of a new module; returns the entries as {name: (inode, mtime)}.

    An entry that was taken from the cache is the file it was; one that was built is a new file.
    """

    def run_once(device=opencl_device.index, **env):
        with monkeypatch.context() as patch:
            for name, value in {"SMARTMEM_CACHE_DIR": str(tmp_path), **env}.items():
                if value is None:
                    patch.delenv(name, raising=False)
                else:
                    patch.setenv(name, value)
            launch(device)
        return entries(tmp_path)

    return run_once


def run_process(folder, device, kernels=1, **env):
    run_python(
        RUN.format(device=device.index, kernels=kernels),
        PYTHONPATH=str(ROOT / "tests/runtime"),
        SMARTMEM_CACHE_DIR=str(folder),
        **env,
    )
    return entries(folder)


def entries(folder):
    found = (folder / "programs").glob("*") if (folder / "programs").is_dir() else ()
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}


@pytest.fixture
def cached(run):
    """One entry, or a skip where the driver gives no binaries."""
    first = run()
    if not first:
        pytest.skip("this driver gives no program binaries")
    assert all(name.endswith(".bin") for name in first)
    return first


def test_second_process_builds_nothing(run, cached, tmp_path, opencl_device):
    assert run() == cached
    assert run_process(tmp_path, opencl_device) == cached


def test_a_kernel_beside_another_is_not_built_again(tmp_path, opencl_device, monkeypatch):
    """What other kernels a module declares is no part of what is compiled."""
    monkeypatch.setenv("SMARTMEM_CACHE_DIR", str(tmp_path))
    tensor = tvm.runtime.empty((1,), "int32", opencl_device)
    seen = []
    for argument in ("int", "float"):
        declared = "__kernel void set(__global int* a);\n"
        declared += f"__kernel void other(__global {argument}* a);\n"
        code = f"// Function: set\n{declared}__kernel void set(__global int* a) {{ a[0] = 7; }}\n"
        code += f"// Function: other\n{declared}__kernel void other(__global {argument}* a) {{}}\n"
        module = tvm_ffi.get_global_func("ffi.Module.load_from_bytes.opencl")(
            serialize_module(code, dict.fromkeys(("set", "other"), (("handle",), AXES)))
        )
        module["set"](tensor, 1, 1)
        seen.append(entries(tmp_path))
    if not seen[0]:
        pytest.skip("this driver gives no program binaries")
    assert seen[1] == seen[0]


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "garbage", "folder"])
def test_damaged_entry_is_built_again(run, cached, tmp_path, damage):
    entry = tmp_path / "programs" / next(iter(cached))
    data = entry.read_bytes()
    if damage == "folder":
        entry.unlink()
        (entry / "inside").mkdir(parents=True)
        run()  # cannot be replaced, and does no harm
        return
    middle = len(data) // 2
    entry.write_bytes(
        {
            "empty": b"",
            "truncated": data[:middle],
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "garbage": b"\xff" * len(data),
        }[damage]
    )
    damaged = entries(tmp_path)
    after = run()
    assert after.keys() == cached.keys()
    assert after != damaged
    assert entry.read_bytes()[: len(b"smartmem-program")] == b"smartmem-program"
    assert run() == after


def test_other_options_miss(run, cached):
    after = run(SMARTMEM_OPENCL_BUILD_OPTIONS="-cl-mad-enable")
    assert len(after) == len(cached) + 1
    assert run(SMARTMEM_OPENCL_BUILD_OPTIONS="-cl-mad-enable") == after


def test_other_device_misses(run, cached, opencl_device):
    if len(runtime.list_devices()) < 2:
        pytest.skip("this machine has one OpenCL device")
    after = run(device=1 - min(opencl_device.index, 1))
    assert cached.items() <= after.items()
    assert len(after) == len(cached) + 1


def test_switched_off(run):
    assert run(SMARTMEM_CACHE_DIR="off", HOME="/nonexistent", XDG_CACHE_HOME=None) == {}


def test_default_place(run, tmp_path):
    run(SMARTMEM_CACHE_DIR=None, XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert not (tmp_path / "programs").exists()
    if not list(tmp_path.glob("xdg/smartmem_tvm/programs/*.bin")):
        pytest.skip("this driver gives no program binaries")


def test_folder_that_cannot_be_written(run, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    run(SMARTMEM_CACHE_DIR=str(blocked))
    assert blocked.read_text() == "in the way"


@pytest.mark.parametrize(
    ("limit", "kept"), [("2", False), ("-1", True), ("lots", True), ("99999999999999999999", True)]
)
def test_limit_removes_the_oldest(cached, tmp_path, opencl_device, limit, kept):
    folder = tmp_path / "programs"
    stray, foreign = folder / "0.bin", folder / "notes.txt"
    stray.write_bytes(bytes(3 << 20))
    os.utime(stray, (1, 1))
    foreign.write_bytes(bytes(3 << 20))
    (folder / "folder.bin").mkdir()
    after = run_process(tmp_path, opencl_device, kernels=2, SMARTMEM_CACHE_LIMIT_MB=limit)
    assert (stray.name in after) == kept
    assert {foreign.name, "folder.bin", *cached} <= after.keys()


def test_concurrent_processes(tmp_path, opencl_device):
    code = RUN.format(device=opencl_device.index, kernels=6)
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests/runtime"),
        "SMARTMEM_CACHE_DIR": str(tmp_path),
    }
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=env, cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    assert not [name for name in entries(tmp_path) if name.endswith(".tmp")]
