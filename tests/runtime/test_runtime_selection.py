"""Which runtime, driver and device is used, what is said when there is none, and how it ends."""

from __future__ import annotations

import json
import sys

import pytest
from runtime_helpers import ROOT, run_python

from smartmem_tvm import DeviceError, runtime
from smartmem_tvm.runtime import devices, loader

LIST = """
import json
from smartmem_tvm import runtime
print(json.dumps([[d.name for d in runtime.list_devices()], runtime.problems()]))
"""


def listed(**env):
    names, problems = json.loads(run_python(LIST, **env).stdout.splitlines()[-1])
    return names, problems


@pytest.fixture(scope="module")
def everything():
    """Names of all devices, whatever is selected for this run."""
    return listed(SMARTMEM_OPENCL_DEVICE=None)[0]


def test_by_index(everything):
    assert listed(SMARTMEM_OPENCL_DEVICE="0")[0] == everything[:1]
    last = len(everything) - 1
    assert listed(SMARTMEM_OPENCL_DEVICE=f" {last} ,0")[0] == list(
        dict.fromkeys([everything[last], everything[0]])
    )


def test_by_part_of_a_name_and_by_vendor():
    for info in runtime.list_devices()[:2]:
        selector = f"{info.platform_vendor.upper()},{info.name[1:].lower()}"
        assert info.name in listed(SMARTMEM_OPENCL_DEVICE=selector)[0]
        assert runtime.device(info.platform[:6]).index <= info.index
        assert runtime.device(info.index).index == info.index


def test_repeated_and_empty_words(everything):
    names, problems = listed(SMARTMEM_OPENCL_DEVICE="0,,0, 0 ,")
    assert names == everything[:1]
    assert not any("SMARTMEM_OPENCL_DEVICE" in problem for problem in problems)


def test_no_match(everything):
    names, problems = listed(SMARTMEM_OPENCL_DEVICE="nothing,0")
    assert names == everything[:1]
    assert len(problems) >= 1
    code = "from smartmem_tvm import runtime; runtime.device()"
    done = run_python(code, check=False, SMARTMEM_OPENCL_DEVICE="no such device")
    assert done.returncode == 1
    assert "DeviceError: no OpenCL device was found. Install an OpenCL driver" in done.stderr
    assert "no device matches 'no such device'" in done.stderr


@pytest.mark.parametrize("selector", ["no such device", 99, "99"])
def test_device_that_does_not_exist(opencl_device, selector):
    with pytest.raises(
        DeviceError, match=rf"no OpenCL device matches {selector!r}. Devices here: 0: "
    ):
        runtime.device(selector)


NO_DEVICE = """
import tvm
from smartmem_tvm import DeviceError, runtime
assert runtime.list_devices() == []
uses = (runtime.device, lambda: tvm.runtime.empty((4,), "float32", tvm.runtime.device("opencl")))
for use in uses:
    try:
        use()
    except DeviceError as error:
        print(error)
    else:
        raise AssertionError
"""


def test_libraries_that_are_none():
    libraries = ["/nonexistent/libOpenCL.so", "libm.so.6", "/dev/null"]
    done = run_python(NO_DEVICE, SMARTMEM_OPENCL_LIBRARY=":".join(libraries))
    for library in libraries:
        assert library.rpartition("/")[2] in done.stdout
    assert "lacks clGetPlatformIDs of OpenCL 1.2" in done.stdout
    assert "no OpenCL device was found. Install an OpenCL driver" in done.stdout
    assert "there is no OpenCL device 0; 0 found. Install a driver" in done.stdout
    assert done.stdout.count("pip install intel-opencl-rt") == 2
    assert done.stdout.count("apt install pocl-opencl-icd") == 2


def test_named_library(opencl_info):
    code = LIST.replace("d.name", "d.source")
    sources = json.loads(
        run_python(code, SMARTMEM_OPENCL_LIBRARY=f"/nonexistent.so::{opencl_info.library}").stdout
    )[0]
    assert sources == [] or set(sources) == {"named by SMARTMEM_OPENCL_LIBRARY"}


def test_tvm_with_an_opencl_runtime_of_its_own():
    code = """
import tvm
@tvm.register_global_func("device_api.opencl")
def device_api(): return None
import smartmem_tvm
from smartmem_tvm import DeviceError, runtime
status = runtime.status()
assert status.provider == "tvm" and status.library is None, status
assert "per-kernel profile" in status.missing and "program binary cache" in status.missing
assert tvm.get_global_func("smartmem.opencl.devices", allow_missing=True) is None
assert runtime.list_devices() == []
assert runtime.device(1).index == 1
first = tvm.runtime.device("opencl")
for use in (lambda: runtime.device("pocl"), lambda: runtime.pool_stats(first)):
    try:
        use()
    except DeviceError as error:
        print(error)
    else:
        raise AssertionError
"""
    assert "TVM brings its own OpenCL runtime" in run_python(code).stdout


def test_other_version_of_tvm(monkeypatch):
    monkeypatch.setattr(loader.tvm_ffi, "get_global_func", lambda *a, **k: None)
    monkeypatch.setattr(loader.tvm, "__version__", "9.9")
    with pytest.raises(
        DeviceError, match=r"built for apache-tvm \S+, but 9.9 is installed.*pip install"
    ):
        loader._load()


def test_library_that_was_not_built(tmp_path):
    done = run_python(
        "import smartmem_tvm", check=False, SMARTMEM_RUNTIME_LIBRARY=str(tmp_path / "libnone.so")
    )
    assert done.returncode == 1
    assert "libnone.so was not built. Run `make setup`" in done.stderr
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(b"\x7fELF")
    done = run_python("import smartmem_tvm", check=False, SMARTMEM_RUNTIME_LIBRARY=str(broken))
    assert "DeviceError" in done.stderr
    assert "libbroken.so cannot be loaded" in done.stderr


def test_status_and_packaged_drivers():
    status = runtime.status()
    assert (status.provider, status.missing) == ("smartmem", ())
    assert status.library.exists()
    assert runtime.load() is status
    for path, reason in loader._packaged_drivers():
        assert path.exists()
        assert reason.startswith("Python package ")


ENDINGS = {
    "alive": "",
    "queued": "add(tensor, tensor, 1.0, 1, 32)",
    "profile": "p = runtime.profile(device); p.__enter__(); add(tensor, tensor, 1.0, 1, 32)",
    "exit": "import sys; sys.exit(0)",
    "atexit": "import atexit; atexit.register(lambda: add(tensor, tensor, 1.0, 1, 32))",
    "thread": "Thread(target=add, args=(tensor, tensor, 1.0, 1, 32)).start()",
}


@pytest.mark.device
@pytest.mark.parametrize("ending", ENDINGS)
def test_process_that_just_ends(opencl_info, ending):
    """No crash and no message at exit, with tensors, images and modules still alive."""
    code = f"""
import builtins
from threading import Thread
from runtime_helpers import *
device = runtime.device()
tensor = on_device(random_array((32,), "float32"), device)
scope = "global.texture" if {opencl_info.images} else "global"
images = [tvm.runtime.empty((4, 4, 4), "float32", device, scope)]
add = add_kernel()
add(tensor, tensor, 1.0, 1, 32)
builtins.kept = [tensor, images, add]
{ENDINGS[ending]}
"""
    done = run_python(code, PYTHONPATH=str(ROOT / "tests/runtime"))
    assert done.stderr == ""


def test_devices_say_what_they_are(opencl_info):
    assert opencl_info.type in ("gpu", "cpu", "accelerator")
    assert float(opencl_info.version) >= 1.2
    assert opencl_info.max_allocation <= opencl_info.global_memory
    assert len(opencl_info.max_work_item_sizes) == 3
    assert opencl_info.fp16 == ("cl_khr_fp16" in opencl_info.extensions)
    assert devices.INSTALL_HINT
    assert sys.platform != "linux" or opencl_info.library
