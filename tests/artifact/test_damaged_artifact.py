from __future__ import annotations

import json

import pytest
from small_models import mlp_input

from smartmem_tvm import artifact as artifact_module
from smartmem_tvm import manifest
from smartmem_tvm.artifact import Artifact
from smartmem_tvm.errors import ArtifactError, DeviceError

pytestmark = pytest.mark.device


def edit_manifest(folder, change, *, checksum=True):
    path = folder / manifest.MANIFEST
    body = json.loads(path.read_text())
    change(body)
    if checksum:
        body.pop("checksum")
        body["checksum"] = manifest._checksum(body)
    path.write_text(json.dumps(body))


@pytest.mark.parametrize(
    "name", ["model.so", "params.bin", "sources/kernels_0.cl", "manifest.json"]
)
def test_a_flipped_byte_anywhere(folder, no_library, name):
    path = folder / name
    content = path.read_bytes()
    positions = {0, len(content) // 3, len(content) // 2, len(content) - 3}
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(ArtifactError, match=folder.name):
            Artifact.load(folder)
    path.write_bytes(content)
    manifest.verify_folder(folder)


@pytest.mark.parametrize("name", ["model.so", "params.bin", "sources/kernels_0.cl"])
def test_missing_longer_and_shorter_files(folder, no_library, name):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=f"damaged: {name} has {len(content) - 1} bytes"):
        Artifact.load(folder)
    path.write_bytes(content + b"x")
    with pytest.raises(ArtifactError, match=f"damaged: {name} has {len(content) + 1} bytes"):
        Artifact.load(folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"incomplete: {name} missing"):
        Artifact.load(folder)


def test_a_file_that_nobody_listed(folder, no_library):
    (folder / "sources" / "extra.cl").write_text("")
    with pytest.raises(ArtifactError, match=r"holds sources/extra.cl, which its manifest does not"):
        Artifact.load(folder)


def test_a_link_instead_of_a_file(folder, no_library, tmp_path):
    moved = (folder / "model.so").rename(tmp_path / "elsewhere.so")
    (folder / "model.so").symlink_to(moved)
    with pytest.raises(ArtifactError, match=r"model\.so is not a regular file"):
        Artifact.load(folder)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_manifest(folder, no_library, part):
    path = folder / "manifest.json"
    text = path.read_text().rstrip()
    path.write_text(text[: int(len(text) * part)])
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged or truncated"):
        Artifact.load(folder)


@pytest.mark.parametrize("package", ["tvm", "tvm_ffi"])
def test_another_version_of_tvm(folder, no_library, package):
    edit_manifest(folder, lambda body: body["versions"].update({package: "0.1"}))
    with pytest.raises(ArtifactError, match=r"was compiled with TVM.*'0\.1'|tvm-ffi '0\.1'"):
        Artifact.load(folder)


@pytest.mark.parametrize("version", [1, 99])
def test_another_format_version(folder, no_library, version):
    edit_manifest(folder, lambda body: body.update(format_version=version))
    with pytest.raises(ArtifactError, match=f"has format version {version}, this smartmem reads 3"):
        Artifact.load(folder)


def test_an_edited_manifest(folder, no_library):
    edit_manifest(folder, lambda body: body.update(model="other"), checksum=False)
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        Artifact.load(folder)


@pytest.mark.parametrize(
    "name",
    ["../model.so", "/etc/passwd", "sources/../../x.cl", "sources/a/b.cl", "model.so/", "x.so"],
)
def test_paths_that_lead_elsewhere(folder, no_library, name):
    entry = {"sha256": "0" * 64, "size": 1}
    edit_manifest(folder, lambda body: body["files"].update({name: entry}))
    with pytest.raises(ArtifactError, match=r"does not follow format 3 .*file name"):
        Artifact.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("inputs"),
        lambda body: body.update(inputs={}),
        lambda body: body["inputs"][0].update(shape=[3.5]),
        lambda body: body["files"].pop("params.bin"),
        lambda body: body["files"].update({"model.so": "text"}),
        lambda body: body.update(operators=True),
        lambda body: body["kernels"][0].pop("calls"),
        lambda body: body.update(stages_s={"import": "long"}),
        lambda body: body.pop("parameter_scopes"),
        lambda body: body.update(parameter_scopes={"p0": 1}),
    ],
)
def test_a_manifest_of_another_shape(folder, no_library, change):
    edit_manifest(folder, change)
    with pytest.raises(ArtifactError, match="does not follow format 3"):
        Artifact.load(folder)


@pytest.mark.parametrize("text", ["[]", "1", '"a"', '{"format": "else"}', "null"])
def test_a_manifest_of_something_else(folder, no_library, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="is not an artefact"):
        Artifact.load(folder)


def test_what_is_no_artefact(tmp_path, no_library):
    with pytest.raises(ArtifactError, match="no such folder"):
        Artifact.load(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"is not an artefact: it has no manifest\.json"):
        Artifact.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="not a folder"):
        Artifact.load(tmp_path / "file")


def test_an_artefact_for_another_machine_does_not_run_here(folder):
    edit_manifest(folder, lambda body: body.update(host="aarch64-linux-android"))
    loaded = Artifact.load(folder)
    with pytest.raises(
        DeviceError, match="for the host 'aarch64-linux-android', which is not this"
    ):
        loaded.run(mlp_input())


def test_an_unknown_device(stored):
    with pytest.raises(DeviceError, match="no such device here"):
        Artifact.load(stored, device="no such device here").run(mlp_input())


def test_half_precision_needs_a_device_that_has_it(folder, opencl_device, monkeypatch):
    from dataclasses import replace

    edit_manifest(folder, lambda body: body.update(dtype="float16"))
    real = artifact_module.runtime.list_devices()
    without = [replace(info, fp16=False) for info in real]
    monkeypatch.setattr(artifact_module.runtime, "list_devices", lambda: without)
    with pytest.raises(DeviceError, match=r"compiled in float16 and OpenCL device .* no half prec"):
        Artifact.load(folder, device=opencl_device).run(mlp_input())
