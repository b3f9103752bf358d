from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import mlp, mlp_input, mlp_reference

from smartmem_tvm import checking, devices, runtime, zoo
from smartmem_tvm.artifact import Artifact
from smartmem_tvm.devices import list_profiles

pytestmark = pytest.mark.device

PROFILES = Path(devices.__file__).parent / "profiles"


def test_compile_run_and_compare(workplace, smartmem, smartmem_json, opencl_device):
    document = smartmem_json("compile", "mlp.onnx", "-o", "out")
    assert document["artifact"] == "out"
    assert (document["operators"], document["kernels"], document["layout_kernels"]) == (5, 2, 0)
    assert Artifact.load("out").manifest.launches == 2
    code, out, err = smartmem("run", "out", "--inputs", "x.npz", "--outputs", "y.npz")
    assert (code, err) == (0, "")
    assert "[3, 8]" in out
    expected = mlp_reference(mlp_input()["x"])
    with np.load("y.npz") as archive:
        assert sorted(archive.files) == ["y", "z"]
        for name, value in expected.items():
            np.testing.assert_allclose(archive[name], value, rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in workplace.iterdir()) == [
        "mlp.onnx",
        "out",
        "x.npz",
        "y.npz",
    ]


def test_run_times_and_profiles(workplace, smartmem, smartmem_json, opencl_device):
    assert smartmem("compile", "mlp.onnx", "-o", "out")[0] == 0
    document = smartmem_json("run", "out", "--inputs", "x.npz", "--repeats", 3, "--profile")
    assert document["latency_ms"]["n"] == 3
    assert document["latency_ms"]["min"] <= document["latency_ms"]["median"]
    assert [row["launches"] for row in document["profile"]] == [1, 1]
    assert document["outputs"][0] == {
        "name": "y",
        "shape": [3, 8],
        "dtype": "float32",
        "upper": None,
        "limits": [],
    }
    code, out, _ = smartmem("run", "out", "--inputs", "x.npz", "--repeats", 1, "--profile")
    assert code == 0
    assert "matmul_kernel" in out
    assert "median" in out


def test_options_of_run_may_not_contradict_the_artefact(workplace, smartmem, opencl_device):
    assert smartmem("compile", "mlp.onnx", "-o", "out", "--device", "cpu")[0] == 0
    assert smartmem("run", "out", "--inputs", "x.npz", "--device", "cpu")[0] == 0
    code, out, err = smartmem("run", "out", "--inputs", "x.npz", "--device", "adreno-740")
    assert (code, out) == (2, "")
    assert "was compiled with --device cpu, not adreno-740" in err
    code, _, err = smartmem("run", "out", "--inputs", "x.npz", "--dtype", "float16")
    assert code == 2
    assert "was compiled with --dtype float32, not float16" in err


def test_run_takes_the_file_that_the_artefact_was_compiled_for(workplace, smartmem, opencl_device):
    own = (PROFILES / "cpu.toml").read_text().replace('name = "cpu"', 'name = "board"')
    for name, text in {
        "board": own,
        "said": re.sub("(?m)^description = .*", 'description = "in other words"', own),
        "edited": own.replace("default_size = 256", "default_size = 128"),
        "renamed": own.replace('"board"', '"other"'),
    }.items():
        (workplace / f"{name}.toml").write_text(text)
    assert smartmem("compile", "mlp.onnx", "-o", "out", "--device", "board.toml")[0] == 0
    run = ("run", "out", "--inputs", "x.npz", "--device")
    for same in ("board.toml", workplace / "board.toml", "said.toml"):
        assert smartmem(*run, same)[0] == 0
    for other, said in {
        "cpu": "with --device board, not cpu",
        "renamed.toml": "with --device board, not renamed.toml, which is profile 'other'",
        "edited.toml": "'work_group.default_size' was 256, in edited.toml it is 128",
        "absent.toml": "cannot be read",
    }.items():
        code, out, err = smartmem(*run, other)
        assert (code, out) == (2, "")
        assert said in " ".join(err.split())


def test_check(workplace, smartmem, smartmem_json, opencl_device):
    document = smartmem_json("check", "mlp.onnx", "--repeats", 2)
    assert document["passed"] is True
    assert 0 <= document["max_rel_error"] < 1e-5
    assert document["max_rel_error"] == max(document["errors"].values())
    assert set(document["errors"]) == {"y", "z"}
    assert (document["kernels"], document["layout_kernels"]) == (2, 0)
    assert document["latency_ms"] > 0
    code, out, err = smartmem("check", "mlp.onnx", "--repeats", 1)
    assert (code, err) == (0, "")
    assert "passed" in out


def test_check_above_the_tolerance_exits_with_one(
    workplace, smartmem, smartmem_json, opencl_device, monkeypatch
):
    right = checking.reference_outputs
    monkeypatch.setattr(
        checking,
        "reference_outputs",
        lambda *args: {name: value + np.float32(1) for name, value in right(*args).items()},
    )
    document = smartmem_json("check", "mlp.onnx", code=1)
    assert document["passed"] is False
    assert document["max_rel_error"] > 1e-3
    code, out, err = smartmem("check", "mlp.onnx")
    assert (code, err) == (1, "")
    assert "FAILED" in out
    assert smartmem_json("check", "mlp.onnx", "--tolerance", 100)["passed"] is True


def test_an_infinite_error_is_still_json(workplace, smartmem_json, opencl_device, monkeypatch):
    right = checking.reference_outputs
    monkeypatch.setattr(
        checking,
        "reference_outputs",
        lambda *args: {name: value * np.nan for name, value in right(*args).items()},
    )
    document = smartmem_json("check", "mlp.onnx", code=1)
    assert document["max_rel_error"] is None
    assert document["passed"] is False


def test_symbolic_shapes_are_given(workplace, smartmem_json, opencl_device):
    onnx.save(mlp("n"), "symbolic.onnx")
    assert smartmem_json("check", "symbolic.onnx", "--shape", "x=5,16")["passed"] is True


def test_explain(workplace, smartmem, smartmem_json):
    document = smartmem_json("explain", "mlp.onnx", "--device", "adreno-740")
    assert (document["operators"], document["kernels"], document["layout_kernels"]) == (5, 2, 0)
    rows = document["per_kernel"]
    assert sum(row["calls"] for row in rows) == 2
    assert not any(row["layout_only"] for row in rows)
    assert document["layout_transforms"] == {"before": 1, "eliminated": 1, "kept": []}
    assert set(document["stages_s"]) >= {"simplify", "legalise", "eliminate", "schedule"}
    code, out, err = smartmem("explain", "mlp.onnx", "--device", "adreno-740")
    assert (code, err) == (0, "")
    assert "matmul_kernel" in out


def test_devices(smartmem, smartmem_json, opencl_info):
    document = smartmem_json("devices")
    assert [profile["name"] for profile in document["profiles"]] == list_profiles()
    assert [info["name"] for info in document["devices"]] == [
        info.name for info in runtime.list_devices()
    ]
    assert all(info["source"] and info["library"] for info in document["devices"])
    assert "install" not in document
    code, out, err = smartmem("devices")
    assert (code, err) == (0, "")
    assert opencl_info.name in out
    assert "adreno-740" in out


def test_devices_can_be_narrowed(smartmem, smartmem_json):
    only = smartmem_json("devices", "--device", "adreno-640", "--opencl-device", "0")
    assert [profile["name"] for profile in only["profiles"]] == ["adreno-640"]
    assert [info["index"] for info in only["devices"]] == [0]
    half = smartmem_json("devices", "--dtype", "float16")
    assert all(info["fp16"] for info in half["devices"])
    assert all(profile["compute"]["fp16"] for profile in half["profiles"])
    code, _, err = smartmem("devices", "--device", "adreno-999")
    assert code == 2
    assert "adreno-999" in err


def test_zoo_list_and_info(smartmem, smartmem_json):
    models = smartmem_json("zoo", "list")["models"]
    assert models == zoo.list_models()
    name, size = models[0]["name"], models[0]["sizes"][0]
    figures = smartmem_json("zoo", "info", f"{name}/{size}")
    assert figures["params_m"] > 0
    assert figures["macs_g"] > 0
    assert figures["operators"] > 0
    code, out, _ = smartmem("zoo", "list")
    assert code == 0
    assert name in out


def test_zoo_export(smartmem_json, smartmem, tmp_path, monkeypatch):
    from smartmem_tvm.cli import zoo as command

    monkeypatch.setattr(zoo, "load", lambda name, size, seed: mlp())
    document = smartmem_json("zoo", "export", "any", "-o", tmp_path / "m.onnx")
    assert document["files"] == [str(tmp_path / "m.onnx")]
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    monkeypatch.setattr(command, "_LARGEST_FILE", 100)
    document = smartmem_json("zoo", "export", "any", "-o", tmp_path / "big.onnx")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["big.onnx", "big.onnx.data", "m.onnx"]
    loaded = onnx.load(tmp_path / "big.onnx")
    assert [t.raw_data for t in loaded.graph.initializer] == [
        t.raw_data for t in mlp().graph.initializer
    ]
    code, _, err = smartmem("zoo", "export", "any", "-o", tmp_path / "nowhere" / "m.onnx")
    assert code == 2
    assert "there is no folder" in err


def test_zoo_export_into_a_folder(smartmem_json, smartmem, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "load", lambda name, size, seed: mlp())
    for model, file in (("any", "any.onnx"), ("any/full", "any.onnx"), ("any/micro", "any-micro")):
        expected = (tmp_path / file).with_suffix(".onnx")
        assert smartmem_json("zoo", "export", model, "-o", tmp_path)["files"] == [str(expected)]
        onnx.checker.check_model(str(expected))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["any-micro.onnx", "any.onnx"]
    (tmp_path / "other.onnx").mkdir()
    code, _, err = smartmem("zoo", "export", "other", "-o", tmp_path)
    assert (code, err) == (
        2,
        f"output '{tmp_path}/other.onnx' is a folder: give the file to write.\n",
    )
    code, _, err = smartmem("zoo", "export", "any", "-o", f"{tmp_path}/nowhere/")
    assert code == 2
    assert f"'{tmp_path}/nowhere/': there is no such folder" in err
