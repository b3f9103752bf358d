from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from small_models import mlp, mlp_input, mlp_reference

import smartmem_tvm
from smartmem_tvm.compiler import compile as compile_model
from smartmem_tvm.devices import built_in_profiles, load_profile
from smartmem_tvm.errors import DeviceError, ModelError, SmartMemError
from smartmem_tvm.frontend import import_model
from smartmem_tvm.linking import default_host


def test_what_a_compiled_model_knows_of_itself():
    stages = []
    model = compile_model(mlp(), "adreno-740", progress=stages.append)
    assert smartmem_tvm.compile is compile_model
    manifest = model.manifest
    assert manifest.model == "mlp"
    assert manifest.profile_name == "adreno-740"
    assert manifest.host == default_host()
    assert manifest.operators == 5
    assert manifest.launches == 2
    assert manifest.layout_launches == 0
    assert list(manifest.stages_s) == stages
    assert stages[0] == "import"
    assert stages[-1] == "build"
    assert all(seconds >= 0 for seconds in manifest.stages_s.values())
    (source,) = model.sources.values()
    assert source.count("// Function: ") == 2


@pytest.mark.device
@pytest.mark.parametrize("profile", [profile.name for profile in built_in_profiles()])
def test_every_profile_runs_on_the_local_device(opencl_device, profile):
    inputs = mlp_input()
    outputs = compile_model(mlp(), profile).run(inputs)
    for name, value in mlp_reference(inputs["x"]).items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-4)


def test_sources_of_a_model():
    imported = import_model(mlp())
    assert compile_model(imported, "adreno-740").manifest.model == "mlp"
    by_module = compile_model(imported.mod, "adreno-740").manifest
    assert by_module.launches == 2
    with pytest.raises(ModelError, match="such"):
        compile_model("/no/such/file.onnx", "adreno-740")


def test_shapes_make_a_symbolic_batch_static():
    model = compile_model(mlp("n"), "adreno-740", shapes={"x": (7, 16)})
    assert model.manifest.inputs[0].shape == (7, 16)


def test_dtypes():
    with pytest.raises(SmartMemError, match=r"dtype 'int8' is not offered: use float32 or float16"):
        compile_model(mlp(), "adreno-740", dtype="int8")
    without = next(profile for profile in built_in_profiles() if not profile.compute.fp16)
    with pytest.raises(DeviceError, match=f"device '{without.name}' .* has no half precision"):
        compile_model(mlp(), without.name, dtype="float16")
    half = compile_model(mlp(), "adreno-740", dtype="float16")
    assert half.manifest.dtype == "float16"
    assert [spec.dtype for spec in half.manifest.inputs + half.manifest.outputs] == ["float32"] * 3
    assert "half" in "".join(half.sources.values())


def test_unknown_device():
    with pytest.raises(DeviceError, match="unknown device profile 'adreno-741'"):
        compile_model(mlp(), "adreno-741")


def test_a_missing_cross_compiler_is_named_before_the_work(monkeypatch):
    monkeypatch.delenv("TVM_NDK_CC", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    stages = []
    with pytest.raises(SmartMemError, match=r"aarch64-linux-android.*TVM_NDK_CC"):
        compile_model(mlp(), "adreno-740", host="aarch64-linux-android", progress=stages.append)
    assert stages == []


def test_another_host_gets_its_own_code(tmp_path):
    linker = tmp_path / "fake-linker"
    # Keeps what it is given: the object files are what TVM generated for that host.
    linker.write_text(
        f"#!/bin/sh\nfor word; do case $word in *.o) cp $word {tmp_path};; esac; "
        '[ "$previous" = -o ] && : > "$word"; previous=$word; done\n'
    )
    linker.chmod(0o755)
    model = compile_model(
        mlp(), load_profile("adreno-740"), host="aarch64-linux-android", linker=str(linker)
    )
    assert model.manifest.host == "aarch64-linux-android"
    model.export(tmp_path / "out")
    objects = list(tmp_path.glob("*.o"))
    assert objects
    for path in objects:
        header = path.read_bytes()[:20]
        assert header[:4] == b"\x7fELF"
        assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
    with pytest.raises(DeviceError, match="which is not this machine"):
        model.run(mlp_input())


@pytest.mark.device
def test_a_linker_named_for_this_machine_is_used(opencl_device, tmp_path):
    real = shutil.which("g++")
    assert real, "these tests need g++"
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\necho used > {tmp_path}/used\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    compile_model(mlp(), linker=str(wrapper)).export(tmp_path / "out")
    assert (tmp_path / "used").read_text() == "used\n"
    listing = subprocess.run(["nm", "-D", tmp_path / "out" / "model.so"], capture_output=True)
    assert listing.returncode == 0
