from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import onnx
import pytest
from onnx_graphs import linear

from smartmem_tvm.errors import ModelError
from smartmem_tvm.frontend import import_model
from smartmem_tvm.frontend.onnx_file import check_complete, parse_onnx, read_onnx


def png() -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    length, checksum = struct.pack(">I", 13), struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + length + chunk + checksum


def external(folder):
    """The linear model with its weights in weights.bin."""
    path = folder / "model.onnx"
    onnx.save_model(
        linear(), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"This is a read-me, not a model.\n" * 20,
        b'{"model": 1}',
        png(),
        np.random.default_rng(0).bytes(4096),
        b"\x00" * 64,
        onnx.TensorProto(name="t", dims=[2], data_type=1, raw_data=b"12345678").SerializeToString(),
    ],
    ids=["text", "json", "png", "random", "zeros", "tensor"],
)
def test_file_that_is_no_model(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx' is no ONNX model") as caught:
        import_model(path)
    assert caught.value.exit_code == 2


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match=r"there is no model file '.*absent\.onnx'"):
        import_model(str(tmp_path / "absent.onnx"))


def test_empty_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.touch()
    with pytest.raises(ModelError, match=r"model\.onnx' is empty"):
        import_model(path)


def test_folder(tmp_path):
    with pytest.raises(ModelError, match="is a folder"):
        import_model(tmp_path)


def test_path_through_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="cannot be read: Not a directory"):
        import_model(tmp_path / "file" / "model.onnx")


def test_truncated_at_every_length():
    data = linear().SerializeToString()
    for length in range(len(data)):
        with pytest.raises(ModelError):
            check_complete(parse_onnx(data[:length], "cut"), "cut")


def test_external_data_is_loaded(tmp_path):
    read = read_onnx(external(tmp_path))
    expected = {t.name: onnx.numpy_helper.to_array(t) for t in linear().graph.initializer}
    for tensor in read.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), expected[tensor.name])


def test_missing_external_data(tmp_path):
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"external data file 'weights\.bin' of tensor 'w'"):
        import_model(path)


def test_short_external_data(tmp_path):
    path = external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:20])
    with pytest.raises(ModelError, match=r"needs 128 bytes; 'weights\.bin' offers 20"):
        import_model(path)


def relocate(path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(model, path)


@pytest.mark.parametrize("how", ["parent", "absolute", "link"])
def test_external_data_outside_the_folder(tmp_path, how):
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder)
    outside = tmp_path / "weights.bin"
    os.replace(folder / "weights.bin", outside)
    if how == "link":
        (folder / "weights.bin").symlink_to(outside)
    else:
        relocate(path, "../weights.bin" if how == "parent" else str(outside))
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_model(path)


def test_external_data_not_loaded(tmp_path):
    model = onnx.load(external(tmp_path), load_external_data=False)
    with pytest.raises(ModelError, match="tensor 'w' are in an external file that was not loaded"):
        import_model(model)


def test_weights_without_values():
    model = linear()
    model.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(ModelError, match=r"tensor 'w' of shape \[8, 4\] has 0 bytes .* 128"):
        import_model(model)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    path = external(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = sorted(tmp_path.rglob("*"))
    import_model(path)
    (tmp_path / "weights.bin").rename(tmp_path / "moved.bin")
    with pytest.raises(ModelError):
        import_model(path)
    (tmp_path / "moved.bin").rename(tmp_path / "weights.bin")
    assert sorted(tmp_path.rglob("*")) == before
