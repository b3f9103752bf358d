from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tvm
from small_models import mlp, mlp_input, mlp_reference

import smartmem_tvm
from smartmem_tvm import artifact as artifact_module
from smartmem_tvm import manifest
from smartmem_tvm.artifact import Artifact
from smartmem_tvm.compiler import compile as compile_model
from smartmem_tvm.errors import ArtifactError, SmartMemError

pytestmark = pytest.mark.device


def assert_right(outputs, x, scale=1.0):
    expected = mlp_reference(x, scale)
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        assert outputs[name].dtype == np.float32
        np.testing.assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-4)


def test_run_in_memory_and_from_a_folder(compiled, stored):
    inputs = mlp_input()
    assert_right(compiled.run(inputs), inputs["x"])
    loaded = smartmem_tvm.load(stored)
    for name, value in compiled.run(inputs).items():
        np.testing.assert_array_equal(loaded.run([inputs["x"]])[name], value)
    assert loaded.manifest == compiled.manifest


def test_results_do_not_share_memory(compiled):
    first = compiled.run(mlp_input(seed=1))
    copy = {name: value.copy() for name, value in first.items()}
    compiled.run(mlp_input(seed=2))
    for name, value in copy.items():
        np.testing.assert_array_equal(first[name], value)


def test_wrong_inputs_leave_the_artefact_usable(compiled):
    with pytest.raises(SmartMemError, match="input 'x' has shape"):
        compiled.run({"x": np.zeros((4, 16), np.float32)})
    inputs = mlp_input()
    assert_right(compiled.run(inputs), inputs["x"])


def test_symbolic_batch(opencl_device, tmp_path):
    model = compile_model(mlp("n"))
    model.export(tmp_path / "m")
    for artefact in (model, Artifact.load(tmp_path / "m")):
        for batch in (1, 5, 2):
            inputs = mlp_input(batch, seed=batch)
            assert_right(artefact.run(inputs), inputs["x"])
    assert model.manifest.inputs[0].shape == ("n", 16)


def test_threads_share_an_artefact(compiled):
    results, errors = {}, []

    def work(seed):
        try:
            for _ in range(5):
                inputs = mlp_input(seed=seed)
                assert_right(compiled.run(inputs), inputs["x"])
            results[seed] = True
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(results) == 6


def test_profile_has_every_kernel_of_one_inference(compiled):
    rows = compiled.profile(mlp_input())
    expected = {kernel.name: kernel.calls for kernel in compiled.manifest.kernels}
    assert {row.name: row.launches for row in rows} == expected
    for row in rows:
        assert row.device_us >= 0
        assert len(row.global_size) == len(row.local_size) >= 1
        assert all(g % w == 0 for g, w in zip(row.global_size, row.local_size, strict=True))


def test_launches_with_the_same_sizes_make_one_row(compiled, monkeypatch):
    from contextlib import contextmanager

    from smartmem_tvm.runtime import KernelRecord

    @contextmanager
    def three_launches(device):
        records = []
        yield records
        records += [
            KernelRecord("k", 2.0, (8, 1), (4, 1)),
            KernelRecord("l", 1.0, (8, 1), (4, 1)),
            KernelRecord("k", 3.0, (8, 1), (4, 1)),
            KernelRecord("k", 5.0, (16, 1), (4, 1)),
        ]

    monkeypatch.setattr(artifact_module.runtime, "profile", three_launches)
    rows = compiled.profile(mlp_input())
    assert [(row.name, row.launches, row.device_us) for row in rows] == [
        ("k", 2, 5.0),
        ("l", 1, 1.0),
        ("k", 1, 5.0),
    ]


def test_benchmark(compiled):
    latency = compiled.benchmark(mlp_input(), warmup=0, repeats=4)
    assert latency.n == 4
    assert 0 < latency.min <= latency.median <= latency.max
    with pytest.raises(SmartMemError, match="cannot time 0 repeats"):
        compiled.benchmark(mlp_input(), repeats=0)


def test_what_a_folder_holds(compiled, stored):
    body = json.loads((stored / "manifest.json").read_text())
    found = {p.relative_to(stored).as_posix() for p in stored.rglob("*") if p.is_file()}
    assert found == {*body["files"], "manifest.json"}
    assert {"model.so", "params.bin", "sources/kernels_0.cl"} <= found
    assert body["versions"]["tvm"] == tvm.__version__
    assert body["inputs"] == [
        {"name": "x", "shape": [3, 16], "dtype": "float32", "upper": None, "limits": []}
    ]
    assert [output["name"] for output in body["outputs"]] == ["y", "z"]
    for name, entry in body["files"].items():
        assert (stored / name).stat().st_size == entry["size"]
    source = (stored / "sources" / "kernels_0.cl").read_text()
    for kernel in compiled.manifest.kernels:
        assert f"{kernel.name}(" in source


def test_parameters_are_not_in_the_library(opencl_device, tmp_path):
    model = compile_model(mlp())
    weights = mlp().graph.initializer
    library = (model.export(tmp_path / "m") / "model.so").read_bytes()
    parameters = (tmp_path / "m" / "params.bin").read_bytes()
    for tensor in weights:
        assert tensor.raw_data in parameters
        assert tensor.raw_data not in library


def test_weights_in_images_are_uploaded_to_images(opencl_device, tmp_path):
    model = compile_model(mlp(), "adreno-740")
    assert set(model.manifest.parameter_scopes.values()) == {"global.texture"}
    inputs = mlp_input()
    assert_right(model.run(inputs), inputs["x"])
    folder = model.export(tmp_path / "m")
    assert Artifact.load(folder).manifest == model.manifest
    np.savez(tmp_path / "x.npz", **inputs)
    arguments = ["run", str(folder), "--inputs", str(tmp_path / "x.npz")]
    arguments += ["--outputs", str(tmp_path / "y.npz")]
    program = f"from smartmem_tvm.cli.main import main; raise SystemExit(main({arguments!r}))"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=300)
    with np.load(tmp_path / "y.npz") as outputs:
        assert_right(dict(outputs), inputs["x"])


def test_an_artefact_loaded_can_be_written_again(stored, tmp_path):
    again = Artifact.load(stored).export(tmp_path / "again")
    for name in ("model.so", "params.bin", "manifest.json", "sources/kernels_0.cl"):
        assert (again / name).read_bytes() == (stored / name).read_bytes()


def test_replacing_an_artefact_replaces_its_code_and_parameters(opencl_device, tmp_path):
    inputs = mlp_input()
    target = compile_model(mlp()).export(tmp_path / "m")
    old = Artifact.load(target)
    assert_right(old.run(inputs), inputs["x"])
    compile_model(mlp(scale=2.0)).export(target)
    assert_right(Artifact.load(target).run(inputs), inputs["x"], scale=2.0)
    assert_right(old.run(inputs), inputs["x"])
    compile_model(mlp(batch=5)).export(target)
    wide = mlp_input(5)
    assert_right(Artifact.load(target).run(wide), wide["x"])
    assert os.listdir(tmp_path) == ["m"]


def test_writing_over_itself(stored, tmp_path):
    folder = Artifact.load(stored).export(tmp_path / "m")
    assert Artifact.load(folder).export(folder) == folder
    inputs = mlp_input()
    assert_right(Artifact.load(folder).run(inputs), inputs["x"])


@pytest.mark.parametrize("kind", ["file", "other files", "other manifest", "link"])
def test_what_is_no_artefact_is_left_alone(compiled, stored, tmp_path, kind):
    target = tmp_path / "out"
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        target.symlink_to(stored)
    else:
        target.mkdir()
        name = "manifest.json" if kind == "other manifest" else "notes.txt"
        (target / name).write_text('{"format": "something else"}')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactError, match=r"exists and is not an artefact: it is left alone"):
        compiled.export(target)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled(compiled, tmp_path):
    (tmp_path / "out").mkdir()
    assert (compiled.export(tmp_path / "out") / "manifest.json").exists()


def test_a_failed_export_leaves_what_was_there(compiled, folder, monkeypatch):
    def no_space(*args):
        raise OSError(28, "No space left on device", "model.so")

    monkeypatch.setattr(artifact_module, "link", no_space)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ArtifactError, match=r"cannot write .*No space left"):
        compiled.export(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert os.listdir(folder.parent) == ["mlp"]


def test_the_old_artefact_comes_back_when_the_rename_fails(compiled, folder, monkeypatch):
    rename = Path.rename

    def fails_for_the_new(self, target):
        if self.name == "new":
            raise OSError(5, "Input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new)
    with pytest.raises(ArtifactError, match=r"cannot write .*Input/output error"):
        compiled.export(folder)
    assert os.listdir(folder.parent) == ["mlp"]
    manifest.verify_folder(folder)


def test_where_nothing_can_be_written(compiled, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        compiled.export(tmp_path / "file" / "out")
