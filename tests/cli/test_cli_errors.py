"""Bad usage and bad input: exit code 2, one message on stderr, nothing on stdout or on disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from small_models import mlp, mlp_input

from smartmem_tvm.cli import check, compile, run
from smartmem_tvm.cli.main import main


@pytest.fixture
def refused(workplace, smartmem):
    """Run a command that must be refused; its message. The folder must stay as it was."""

    def expect(*argv):
        before = sorted(workplace.rglob("*"))
        for json_option in ([], ["--json"]):
            code, out, err = smartmem(*argv, *json_option)
            assert code == 2, err
            assert out == ""
            assert "Traceback" not in err
            assert sorted(workplace.rglob("*")) == before
        return err

    return expect


def profile(*words):
    """A command for a profile that needs no device here."""
    return (*words, "--device", "adreno-740")


@pytest.mark.parametrize("command", ["compile", "check", "explain"])
def test_files_that_are_no_model(refused, workplace, command):
    whole = (workplace / "mlp.onnx").read_bytes()
    (workplace / "empty.onnx").write_bytes(b"")
    (workplace / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (workplace / "text.onnx").write_text("this is not a model\n" * 50)
    extra = ("-o", "out") if command == "compile" else ()
    for name in ("missing", "empty", "truncated", "text"):
        assert f"{name}.onnx" in refused(*profile(command, f"{name}.onnx", *extra))


def test_unknown_models_of_the_zoo(refused):
    assert "no model 'nothing'" in refused(*profile("compile", "zoo:nothing", "-o", "out"))
    assert "no model 'nothing'" in refused("zoo", "info", "nothing")
    assert "no size 'huge'" in refused("zoo", "info", "swin/huge")


def test_missing_external_data(refused, workplace):
    onnx.save_model(
        mlp(),
        "outside.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (workplace / "weights.bin").unlink()
    assert "weights.bin" in refused(*profile("compile", "outside.onnx", "-o", "out"))


def test_unsupported_operator(refused):
    model = mlp()
    model.graph.node[2].op_type = "NoSuchOperator"
    model.graph.node[2].name = "the_node"
    onnx.save(model, "unknown.onnx")
    message = refused(*profile("compile", "unknown.onnx", "-o", "out"))
    assert "NoSuchOperator" in message
    assert "the_node" in message


def test_unknown_device_dtype_and_shape(refused):
    message = refused("compile", "mlp.onnx", "-o", "out", "--device", "adreno-741")
    assert "'adreno-741'" in message
    assert "adreno-740" in message
    refused(*profile("compile", "mlp.onnx", "-o", "out", "--dtype", "int4"))
    for shape in ("x", "x=", "=3", "x=3,a", "x=0,16", "x=-1,16"):
        if shape != "x=":  # a scalar
            message = refused(*profile("explain", "mlp.onnx", f"--shape={shape}"))
            assert f"--shape '{shape}' is no shape" in message
    assert "nothing" in refused(*profile("explain", "mlp.onnx", "--shape", "nothing=3,16"))


def test_unknown_host_and_linker(refused):
    assert "is no host triple" in refused(*profile("compile", "mlp.onnx", "-o", "o", "--host", "x"))
    message = refused(
        *profile("compile", "mlp.onnx", "-o", "o", "--host", "aarch64-linux-gnu"),
        *("--linker", "no-such-linker"),
    )
    assert "no-such-linker" in message


def test_output_folders_that_are_taken(refused, workplace):
    (workplace / "taken").mkdir()
    (workplace / "taken" / "notes").write_text("mine")
    message = refused(*profile("compile", "mlp.onnx", "-o", "taken"))
    assert "not an artefact: it is left alone" in message


@pytest.mark.device
def test_wrong_inputs_of_run(refused, smartmem, workplace, opencl_device):
    assert smartmem("compile", "mlp.onnx", "-o", "out")[0] == 0
    x = mlp_input()["x"]
    np.savez("name.npz", y=x)
    np.savez("more.npz", x=x, y=x)
    np.savez("shape.npz", x=x[:2])
    np.savez("dtype.npz", x=x.astype(np.float64))
    np.savez("objects.npz", x=np.array([{}, []], dtype=object))
    np.save("single.npy", x)
    (workplace / "text.npz").write_text("not an archive")
    (workplace / "cut.npz").write_bytes((workplace / "x.npz").read_bytes()[:100])
    for name, part in (
        ("name.npz", "no input 'y'; its inputs: 'x'"),
        ("more.npz", "no input 'y'"),
        ("shape.npz", "input 'x' has shape [2, 16] and the model takes [3, 16]"),
        ("dtype.npz", "input 'x' has dtype float64 and the model takes float32"),
        ("objects.npz", "objects.npz"),
        ("single.npy", "hold a single array"),
        ("text.npz", "'text.npz' are no .npz file"),
        ("cut.npz", "'cut.npz' are no .npz file"),
        ("missing.npz", "'missing.npz': no such file"),
    ):
        assert part in refused("run", "out", "--inputs", name, "--outputs", "y.npz")
    assert "no folder" in refused("run", "out", "--inputs", "x.npz", "--outputs", "no/y.npz")


def test_damaged_artefacts(refused, smartmem, workplace):
    assert smartmem(*profile("compile", "mlp.onnx", "-o", "out"))[0] == 0
    library, manifest = workplace / "out" / "model.so", workplace / "out" / "manifest.json"
    content, text = library.read_bytes(), manifest.read_text()
    library.write_bytes(content[:1000] + bytes([content[1000] ^ 4]) + content[1001:])
    assert "model.so does not match its hash" in refused("run", "out", "--inputs", "x.npz")
    library.unlink()
    assert "model.so missing" in refused("run", "out", "--inputs", "x.npz")
    library.write_bytes(content)
    body = json.loads(text)
    body["versions"]["tvm"] = "0.20.0"
    manifest.write_text(json.dumps(body))
    assert "compiled with TVM '0.20.0'" in refused("run", "out", "--inputs", "x.npz")
    manifest.write_text(text[: len(text) // 2])
    assert "damaged or truncated" in refused("run", "out", "--inputs", "x.npz")
    assert "no such folder" in refused("run", "nowhere", "--inputs", "x.npz")


def test_rpc_options(refused):
    assert "--key KEY is missing" in refused("check", "mlp.onnx", "--rpc", "127.0.0.1:9190")
    assert "--rpc HOST:PORT is missing" in refused("devices", "--key", "android")
    message = refused("devices", "--rpc", "nonsense", "--key", "android")
    assert "'nonsense' is not the address of an RPC tracker" in message
    message = refused("devices", "--rpc", "1:1", "--key", "k", "--opencl-device", "mali")
    assert "behind --rpc a device is chosen by its index" in message


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nothing"],
        ["compile"],
        ["compile", "mlp.onnx"],
        ["zoo"],
        ["run", "out"],
        ["check", "mlp.onnx", "--seed", "x"],
        ["tune", "mlp.onnx"],
    ],
)
def test_usage(refused, argv):
    assert "usage: smartmem" in refused(*argv)


def test_help(smartmem):
    code, out, err = smartmem("--help")
    assert (code, err) == (0, "")
    for command in ("compile", "run", "check", "explain", "devices", "zoo"):
        assert command in out
        code, text, _ = smartmem(command, "--help")
        assert code == 0
        assert "usage: smartmem" in text
    assert "exit codes" in out.lower()


def test_files_that_cannot_be_written(smartmem, workplace, monkeypatch):
    def full(args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "y.npz")

    monkeypatch.setattr(run, "run", full)
    code, out, err = smartmem("run", "out", "--inputs", "x.npz")
    assert (code, out, err) == (2, "", "'y.npz': No space left on device.\n")


def test_defects_show_their_traceback(workplace, monkeypatch):
    def defect(args):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(check, "run", defect)
    with pytest.raises(ZeroDivisionError):
        main(["check", "mlp.onnx"])


def test_interruption(smartmem, workplace, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(compile, "run", interrupted)
    assert smartmem("compile", "mlp.onnx", "-o", "out") == (130, "", "interrupted\n")


def command(*argv, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "smartmem_tvm.cli.main", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_without_any_driver(workplace, tmp_path):
    hidden = {"SMARTMEM_OPENCL_LIBRARY": str(tmp_path / "nothing.so")}
    listing = command("devices", "--json", **hidden)
    checking = command("check", "mlp.onnx", "--json", **hidden)
    out, err = listing.communicate(timeout=60)
    assert (listing.returncode, err) == (0, "")
    document = json.loads(out)
    assert document["devices"] == []
    assert "intel-opencl-rt" in document["install"]
    assert any("nothing.so" in problem for problem in document["problems"])
    out, err = checking.communicate(timeout=60)
    assert (checking.returncode, out) == (2, "")
    assert "no OpenCL device was found" in err
    assert "pocl-opencl-icd" in err
    assert "Traceback" not in err


def test_a_real_interrupt_leaves_nothing_behind(workplace):
    # Starts the compilation and interrupts it in the middle of the work.
    program = (
        "import os, signal, sys, threading\n"
        "from smartmem_tvm import compiler\n"
        "from smartmem_tvm.cli.main import main\n"
        "build = compiler._build\n"
        "def interrupted(*args):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return build(*args)\n"
        "compiler._build = interrupted\n"
        "sys.exit(main(['compile', 'mlp.onnx', '-o', 'out', '--device', 'adreno-740']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip().endswith("interrupted")
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir()) == ["mlp.onnx", "x.npz"]


def test_a_reader_that_goes_away(workplace):
    process = command("explain", "mlp.onnx", "--device", "adreno-740", "--json")
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) != 0
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert process.returncode != -signal.SIGSEGV
